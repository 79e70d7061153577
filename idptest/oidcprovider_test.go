package idptest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestOIDCProviderSurvives: a refresh token works after SIGKILL, at the same port; a used one of a public client does
// not; a disabled user's does not; and the clock can be ahead.
func TestOIDCProviderSurvives(t *testing.T) {
	if err := InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	const shift = time.Hour
	p, err := StartOIDCProvider(t.Context(), t.TempDir(), OIDCProviderOptions{ClockShift: shift})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	const redirect, verifier = "http://127.0.0.1:9999/cb", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
	q := url.Values{
		"client_id": {"spa"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {"openid offline_access"}, "prompt": {"consent"},
		"code_challenge": {"I3jTFKmOI5T-yXt4CqWHBKZnt9uhdpRzxJT0qz9n4jY"}, "code_challenge_method": {"S256"},
	}
	at, err := (&Browser{}).Visit(t.Context(), p.URL()+"/auth?"+q.Encode(), redirect, map[string]string{"login": "alice", "password": "x"})
	if err != nil {
		t.Fatal(err)
	}
	first := token(t.Context(), t, p, url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {redirect}, "client_id": {"spa"}, "code_verifier": {verifier}})
	if first.Error != "" {
		t.Fatal(first.Error)
	}
	if ahead := time.Until(first.issued(t)); ahead < shift-time.Minute || ahead > shift+time.Minute {
		t.Errorf("the clock is ahead by %s", ahead)
	}
	refresh := func(rt string) reply {
		return token(t.Context(), t, p, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}, "client_id": {"spa"}})
	}
	second := refresh(first.RefreshToken)
	pid := p.PID()
	p.Kill()
	if !Gone(pid) {
		t.Fatal("the process is there")
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := refresh(second.RefreshToken)
	if third.Error != "" || third.RefreshToken == second.RefreshToken {
		t.Fatalf("after SIGKILL: %q, rotated: %v", third.Error, third.RefreshToken != second.RefreshToken)
	}
	if err := p.Disable("alice"); err != nil {
		t.Fatal(err)
	}
	if r := refresh(third.RefreshToken); r.Error != "invalid_grant" {
		t.Errorf("a disabled user: %q", r.Error)
	}
	if err := p.Enable("alice"); err != nil {
		t.Fatal(err)
	}
	if r := refresh(first.RefreshToken); r.Error != "invalid_grant" {
		t.Errorf("a used token: %q", r.Error)
	}
}

type reply struct {
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	Error        string `json:"error"`
}

// issued is the ID token's iat.
func (r reply) issued(t *testing.T) time.Time {
	t.Helper()
	parts := strings.Split(r.IDToken, ".")
	if len(parts) != 3 {
		t.Fatal("no ID token")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Iat int64 `json:"iat"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return time.Unix(c.Iat, 0)
}

func token(ctx context.Context, t *testing.T, p *OIDCProvider, form url.Values) (r reply) {
	t.Helper()
	resp, err := http.PostForm(p.URL()+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}
