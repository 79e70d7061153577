package oauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// Code is the authorization_code grant (RFC 6749, section 4.1.3). What it leads to is learned; codes that the backup made are
// redeemed for what the primary gave the same browser for the same request.
type Code struct{}

// Name implements flow.Flow.
func (Code) Name() string { return "authorization_code" }

// Endpoint implements flow.Flow.
func (Code) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (Code) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil || r.Form.Get("grant_type") != "authorization_code" {
		return nil
	}
	x := &grant{exchange: parse(r), kind: "authorization_code"}
	x.ask.Artifact = flow.Artifact{Kind: session.Code, Value: r.Form.Get("code")}
	x.ask.Own = x.ask.Unplayable // a code of the backup's can be redeemed all the same
	x.ask.Unplayable = "grant"
	x.ask.Params = map[string]string{"redirect_uri": r.Form.Get("redirect_uri"), "code_verifier": r.Form.Get("code_verifier")}
	return x
}

// Answer implements flow.Flow.
func (Code) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	if p.Bound["redirect_uri"] != p.Play.Params["redirect_uri"] {
		return nil, flow.No("redirect_uri_mismatch", http.StatusBadRequest, "invalid_grant")
	}
	if !Verifies(p.Bound, p.Play.Params["code_verifier"]) {
		return nil, flow.No("pkce_mismatch", http.StatusBadRequest, "invalid_grant")
	}
	if key := p.Bound["dpop_jkt"]; key != "" && key != p.Play.Client.JKT { // RFC 9449, section 10
		return nil, flow.No("dpop_mismatch", http.StatusBadRequest, "invalid_grant")
	}
	if len(p.Play.Scope) > 0 && !sameSet(p.Play.Scope, p.Record.Asked) && !sameSet(p.Play.Scope, p.Record.Scope) {
		return nil, flow.NotNow("scope_unlearned")
	}
	if len(p.Play.Resource) > 0 && !sameSet(p.Play.Resource, p.Record.Resource) {
		return nil, flow.NotNow("resource_unlearned")
	}
	return redeemed(p)
}

// Verifies checks the proof key of a code (RFC 7636, section 4.6) against the parameters of the request that it came of. A verifier
// without a challenge is refused too: somebody took the challenge away (RFC 9700, section 2.1.1).
func Verifies(bound map[string]string, verifier string) bool {
	challenge, ok := bound["code_challenge"]
	switch {
	case !ok:
		return verifier == ""
	case len(verifier) < 43 || len(verifier) > 128:
		return false
	case bound["code_challenge_method"] == "S256":
		sum := sha256.Sum256([]byte(verifier))
		verifier = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return subtle.ConstantTimeCompare([]byte(verifier), []byte(challenge)) == 1
}

// redeemed makes the reply to a code: what the primary answered to the last one, with fresh times and the nonce of the
// request that the code came from. There is no refresh token: only the primary can begin a family that it will know.
func redeemed(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	rec := *withoutRefresh(p.Record)
	if rec.IDToken != nil {
		t := *rec.IDToken
		t.Claims = t.Claims.Clone()
		if nonce, ok := p.Bound["nonce"]; ok {
			t.Claims.Set("nonce", session.Quote(nonce))
		} else {
			t.Claims = t.Claims.Without("nonce")
		}
		t.Claims = t.Claims.Without("c_hash")
		if t.Claims.Has("s_hash") {
			t.Claims.Set("s_hash", session.Quote(atHash(t.Header.Text("alg"), p.Bound["state"])))
		}
		rec.IDToken = &t
	}
	rec.First = false // nothing is to be made a refresh reply of
	first := *p
	first.Record, first.Habit = &rec, nil
	return answer(rebound(&first))
}

// withoutRefresh is a record whose answer has no refresh token.
func withoutRefresh(r *session.Record) *session.Record {
	rec := *r
	rec.Response = slices.DeleteFunc(rec.Response.Clone(), func(m session.Member) bool {
		return strings.HasPrefix(m.Name, "refresh_") && m.Name != "refresh_expires_in"
	})
	if rec.Response.Has("refresh_expires_in") { // Keycloak's: how long a refresh token lives that is not there
		rec.Response.Set("refresh_expires_in", []byte("0"))
	}
	return &rec
}

// rebound lets what is obtained anew be bound to the key and the certificate that are shown now, as the primary would (RFC 9449,
// section 5; RFC 8705, section 3).
func rebound(p *flow.Permit) *flow.Permit {
	t := p.Record.AccessToken
	if t == nil || !t.Claims.Has("cnf") {
		return p
	}
	cnf, err := session.ParseObject(t.Claims.Get("cnf"))
	if err != nil {
		return p // what could not be read was not learned
	}
	cnf = cnf.Clone()
	if p.Record.JKT != "" {
		cnf.Set("jkt", session.Quote(p.Play.Client.JKT))
	}
	if p.Record.Certificate != "" && cnf.Has("x5t#S256") {
		cnf.Set("x5t#S256", session.Quote(p.Play.Client.Certificate))
	}
	token, rec, out := *t, *p.Record, *p
	token.Claims = token.Claims.Clone()
	token.Claims.Set("cnf", cnf.Append(nil))
	rec.AccessToken, out.Record = &token, &rec
	return &out
}
