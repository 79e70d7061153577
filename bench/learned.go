package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
	"understudy/store"
)

const tenant, issuerID = "default", "http://login.example.test" + realm

// maker makes learned sign-ins out of numbers: the record is what the refresh_token flow learns from a token response of
// the bench's own primary, with another user in each; the artifact of a number can be made again at any time, so that a
// million of them need no memory.
type maker struct {
	seal   *session.Sealer
	record session.Record
	secret []byte
	began  time.Time
}

func newMaker() (*maker, error) {
	key := sha256.Sum256([]byte("a key for measurements"))
	seal, err := session.NewSealer(key[:])
	if err != nil {
		return nil, err
	}
	m := &maker{seal: seal, secret: key[:], began: time.Now()}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &primary{alg: "ES256", key: k, kid: "measured", secret: key[:]}
	body := p.response("login.example.test", "0", "onrtrt:", "")
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"before"}}
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: tokenPath}, Header: http.Header{
		"Authorization": {basic}, "Content-Type": {"application/x-www-form-urlencoded"}, "User-Agent": {"bench"},
	}}
	x := oauth.Refresh{}.Match(&flow.Request{HTTP: r, Body: []byte(form.Encode()), Form: form, Tenant: tenant, Issuer: issuerID, Endpoint: flow.Token, Address: "192.0.2.1"})
	if x == nil {
		return nil, errors.New("the refresh_token flow does not know a refresh grant")
	}
	l := x.Learn(&flow.Response{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Sent: m.began})
	if l == nil || l.Record == nil {
		return nil, errors.New("the refresh_token flow does not understand a refresh reply")
	}
	if l.Unlearned != "" {
		return nil, fmt.Errorf("the refresh_token flow does not learn a refresh reply: %s", l.Unlearned)
	}
	m.record = *l.Record
	return m, nil
}

// artifact is the refresh token of a number, of the length of Keycloak's.
func (m *maker) artifact(n int) string {
	h := hmac.New(sha256.New, m.secret)
	fmt.Fprint(h, n)
	return fmt.Sprintf("%x", h.Sum(nil)) + strings.Repeat("refresh.", 80)[:636]
}

func (m *maker) keys(t string) (a session.ArtifactKeys) {
	return session.ArtifactKeys{
		Kind: session.RefreshToken, Lookup: m.seal.Lookup(session.RefreshToken, tenant, issuerID, t),
		Key:  m.seal.ArtifactKey(session.RefreshToken, tenant, issuerID, clientID, t, nil),
		Ends: m.began.Add(10 * time.Hour).UnixNano(),
	}
}

// user is what the record of a number has of its own.
func (m *maker) user(n int) (sub, sid string) {
	h := sha256.Sum256([]byte(strconv.Itoa(n)))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16]), fmt.Sprintf("%x", h[16:28])
}

// message is what the gateway tells the backup of the sign-in of a number: sealed.
func (m *maker) message(n int) (*backup.Learned, error) {
	r := m.record
	r.Subject, r.SID = m.user(n)
	for _, p := range []**session.Token{&r.AccessToken, &r.IDToken} {
		t := session.Token{Header: (*p).Header, Claims: (*p).Claims.Clone()}
		t.Claims.Set("sub", session.Quote(r.Subject))
		t.Claims.Set("sid", session.Quote(r.SID))
		*p = &t
	}
	sealed, err := session.Seal(&r, session.NewUserInfoKey(), m.keys(m.artifact(n)))
	if err != nil {
		return nil, err
	}
	p := m.seal.Pseudonym
	return &backup.Learned{
		Tenant: tenant, Issuer: issuerID, Flow: oauth.Refresh{}.Name(), Sent: m.began.UnixNano() + int64(n), Sealed: *sealed,
		Client: p("client", tenant, issuerID, clientID), Subject: p("subject", tenant, issuerID, r.Subject), Session: p("session", tenant, issuerID, r.SID),
		ClientAuth: "none",
	}, nil
}

// open looks the record of an artifact up and opens it: what an answer does first.
func (m *maker) open(s *session.Store, artifact string) (*session.Record, error) {
	a := m.keys(artifact)
	d, err := s.Door(tenant, a.Lookup)
	if err != nil {
		return nil, err
	}
	return s.Open(tenant, a.Lookup, d, a.Key)
}

func (m *maker) service(kv store.KV) *backup.Service {
	return &backup.Service{Sessions: &session.Store{KV: kv, Seal: m.seal}, Log: slog.New(slog.DiscardHandler), Now: time.Now}
}
