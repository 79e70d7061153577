package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/session"
)

// person is one sign-in of alice at a client, refreshed byte by byte.
type person struct {
	s          *site
	id, secret string
	refresh    string            // the token that the client holds
	learned    *reply            // what the primary approved last
	via        http.RoundTripper // nil: a connection for each request
}

// newPerson signs a user in with a client; an empty secret is a public client's.
func newPerson(t *testing.T, s *site, id, secret, user string) *person {
	t.Helper()
	c := newGoClient(s, id, secret)
	tok, err := s.signIn(t.Context(), c, user)
	if err != nil {
		t.Fatalf("%s: %s: %v", s.name, id, err)
	}
	if tok.Refresh == "" {
		t.Fatalf("%s: %s: no refresh token", s.name, id)
	}
	return &person{s: s, id: id, secret: secret, refresh: tok.Refresh, learned: c.tap.last}
}

// reply is what the gateway answered.
type reply struct {
	status int
	header http.Header
	body   session.Object
	raw    string
}

// backup says whether the backup made a reply with tokens.
func (r *reply) backup() bool { return isBackup(r.body.Text("id_token")) }

// post sends a form to a path of the gateway with the person's client authentication.
func (p *person) post(ctx context.Context, to string, form url.Values) (*reply, error) {
	if p.secret == "" {
		form.Set("client_id", p.id)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if p.secret != "" {
		req.SetBasicAuth(url.QueryEscape(p.id), url.QueryEscape(p.secret))
	}
	via := p.via
	if via == nil {
		via = shared.transport()
	}
	resp, err := via.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return readReply(resp)
}

func readReply(resp *http.Response) (*reply, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	r := &reply{status: resp.StatusCode, header: resp.Header, raw: string(b)}
	if len(b) > 0 {
		r.body, _ = session.ParseObject(b)
	}
	return r, nil
}

// present sends a refresh token, and changes nothing of the person.
func (p *person) present(ctx context.Context, token string) (*reply, error) {
	return p.post(ctx, p.s.provider.Endpoint().TokenURL, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// again refreshes once and keeps the token that came.
func (p *person) again(ctx context.Context) (*reply, error) {
	r, err := p.present(ctx, p.refresh)
	if err != nil {
		return nil, err
	}
	if r.status != http.StatusOK {
		return r, fmt.Errorf("%s: %s: status %d: %s", p.s.name, p.id, r.status, r.raw)
	}
	if next := r.body.Text("refresh_token"); next != "" {
		p.refresh = next
	}
	if !r.backup() {
		p.learned = r
		p.s.approved.Add(1)
	}
	return r, nil
}

// until refreshes until the primary (or the backup) has answered.
func (p *person) until(t *testing.T, backup bool) *reply {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(300 * time.Millisecond) {
		r, err := p.again(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.backup() == backup {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %s: still answered by the other (backup wanted: %v)", p.s.name, p.id, backup)
		}
	}
}
