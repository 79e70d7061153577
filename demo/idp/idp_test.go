package idp

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

const verifier = "a-verifier-that-is-long-enough-for-rfc-7636-43"

// rig is a provider behind a real server, which can be replaced by one that knows the state file only.
type rig struct {
	t   *testing.T
	c   Config
	p   *Provider
	srv *httptest.Server
}

func newRig(t *testing.T, rotate bool) *rig {
	r := &rig{t: t}
	r.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.p.ServeHTTP(w, req) }))
	t.Cleanup(r.srv.Close)
	r.c = Config{
		Issuer: r.srv.URL, StateFile: filepath.Join(t.TempDir(), "state.json"), ClientID: "app", ClientSecret: "s3cret/+",
		RedirectURI: "http://127.0.0.1:1/cb", LogoutURI: "http://127.0.0.1:1/bye", Rotate: rotate,
	}
	r.restart()
	return r
}

// restart forgets everything but the state file.
func (r *rig) restart() {
	p, err := New(r.c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.p = p
}

func (r *rig) authorizeURL(change func(url.Values)) string {
	q := url.Values{
		"client_id": {"app"}, "redirect_uri": {r.c.RedirectURI}, "response_type": {"code"}, "scope": {"openid profile"}, "state": {"st"}, "nonce": {"no"},
		"code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	}
	if change != nil {
		change(q)
	}
	return r.srv.URL + Base + "/authorize?" + q.Encode()
}

// do sends a request and follows no redirect.
func (r *rig) do(req *http.Request) (*http.Response, map[string]any) {
	r.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var m map[string]any
	json.Unmarshal(b, &m) // pages are no JSON
	return resp, m
}

func (r *rig) post(target string, form url.Values, auth bool) (*http.Response, map[string]any) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if auth {
		req.SetBasicAuth(url.QueryEscape(r.c.ClientID), url.QueryEscape(r.c.ClientSecret))
	}
	return r.do(req)
}

// code signs alice in and returns the code.
func (r *rig) code() string {
	r.t.Helper()
	resp, _ := r.post(r.authorizeURL(nil), url.Values{"username": {"alice"}, "password": {Password}}, false)
	u, err := resp.Location()
	if err != nil {
		r.t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	if u.Query().Get("state") != "st" || u.Query().Get("iss") != r.c.Issuer {
		r.t.Fatalf("redirect to %s", u)
	}
	return u.Query().Get("code")
}

func (r *rig) redeem(code, verifier string) (*http.Response, map[string]any) {
	r.t.Helper()
	return r.post(r.srv.URL+Base+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {r.c.RedirectURI}, "code_verifier": {verifier}}, true)
}

func (r *rig) refresh(token string) (*http.Response, map[string]any) {
	r.t.Helper()
	return r.post(r.srv.URL+Base+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}, true)
}

// signIn returns a token response.
func (r *rig) signIn() map[string]any {
	r.t.Helper()
	resp, m := r.redeem(r.code(), verifier)
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("status %d: %v", resp.StatusCode, m)
	}
	return m
}

func (r *rig) want(what string, resp *http.Response, m map[string]any, status int, code any) {
	r.t.Helper()
	if resp.StatusCode != status || m["error"] != code {
		r.t.Errorf("%s: status %d, %v; want %d, %v", what, resp.StatusCode, m["error"], status, code)
	}
}

func TestRefreshTokensOutliveARestart(t *testing.T) {
	for _, rotate := range []bool{false, true} {
		r := newRig(t, rotate)
		first := r.signIn()["refresh_token"].(string)
		resp, m := r.refresh(first)
		r.want("refresh", resp, m, 200, nil)
		second := m["refresh_token"].(string)
		if (first != second) != rotate {
			t.Errorf("rotate %v: another token: %v", rotate, first != second)
		}
		kid := r.p.key.KeyID
		r.restart()
		if r.p.key.KeyID != kid {
			t.Error("another key after a restart")
		}
		resp, m = r.refresh(second)
		r.want("after a restart", resp, m, 200, nil)
	}
}

func TestReuseEndsTheSession(t *testing.T) {
	r := newRig(t, true)
	first := r.signIn()["refresh_token"].(string)
	_, m := r.refresh(first)
	second := m["refresh_token"].(string)
	resp, m := r.refresh(first)
	r.want("a superseded token", resp, m, 400, "invalid_grant")
	resp, m = r.refresh(second)
	r.want("its valid successor then", resp, m, 400, "invalid_grant")
}

func TestCodes(t *testing.T) {
	r := newRig(t, false)
	resp, m := r.redeem(r.code(), "another-verifier-that-is-long-enough-for-it-43")
	r.want("another verifier", resp, m, 400, "invalid_grant")

	code := r.code()
	_, m = r.redeem(code, verifier)
	token := m["refresh_token"].(string)
	resp, m = r.redeem(code, verifier)
	r.want("a code again", resp, m, 400, "invalid_grant")
	resp, m = r.refresh(token)
	r.want("what the code had brought", resp, m, 400, "invalid_grant")

	code = r.code()
	r.p.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	resp, m = r.redeem(code, verifier)
	r.want("an old code", resp, m, 400, "invalid_grant")
}

func TestRevocation(t *testing.T) {
	r := newRig(t, false)
	m := r.signIn()
	token, access := m["refresh_token"].(string), m["access_token"].(string)
	if got := r.userinfo(access); got != 200 {
		t.Errorf("userinfo: status %d", got)
	}
	resp, m := r.post(r.srv.URL+Base+"/revoke", url.Values{"token": {token}}, false)
	r.want("without the client", resp, m, 401, "invalid_client")
	resp, m = r.refresh(token)
	r.want("not revoked yet", resp, m, 200, nil)
	resp, m = r.post(r.srv.URL+Base+"/revoke", url.Values{"token": {"unknown"}}, true)
	r.want("an unknown token", resp, m, 200, nil)
	resp, m = r.post(r.srv.URL+Base+"/revoke", url.Values{"token": {token}}, true)
	r.want("revoke", resp, m, 200, nil)
	r.restart()
	resp, m = r.refresh(token)
	r.want("after it, and a restart", resp, m, 400, "invalid_grant")
	if got := r.userinfo(access); got != 401 {
		t.Errorf("userinfo after it: status %d", got)
	}
}

func (r *rig) userinfo(token string) int {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.srv.URL+Base+"/userinfo", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, _ := r.do(req)
	return resp.StatusCode
}

func TestUserInfoRefusesIDTokensAndExpired(t *testing.T) {
	r := newRig(t, false)
	m := r.signIn()
	if got := r.userinfo(m["id_token"].(string)); got != 401 {
		t.Errorf("an ID token: status %d", got)
	}
	r.p.now = func() time.Time { return time.Now().Add(time.Hour) }
	if got := r.userinfo(m["access_token"].(string)); got != 401 {
		t.Errorf("an expired token: status %d", got)
	}
}

func TestLogout(t *testing.T) {
	r := newRig(t, false)
	m := r.signIn()
	q := url.Values{"id_token_hint": {m["id_token"].(string)}, "post_logout_redirect_uri": {r.c.LogoutURI}, "state": {"x"}}
	req, err := http.NewRequest(http.MethodGet, r.srv.URL+Base+"/logout?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := r.do(req)
	if got := resp.Header.Get("Location"); got != r.c.LogoutURI+"?state=x" {
		t.Errorf("redirect to %q", got)
	}
	resp, m = r.refresh(m["refresh_token"].(string))
	r.want("after logout", resp, m, 400, "invalid_grant")

	q.Set("post_logout_redirect_uri", "http://evil.example/")
	q.Del("id_token_hint")
	if req, err = http.NewRequest(http.MethodGet, r.srv.URL+Base+"/logout?"+q.Encode(), nil); err != nil {
		t.Fatal(err)
	}
	if resp, _ = r.do(req); resp.StatusCode != http.StatusOK || resp.Header.Get("Location") != "" {
		t.Errorf("another place to go: status %d, %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}

func TestClientAuthentication(t *testing.T) {
	r := newRig(t, false)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.signIn()["refresh_token"].(string)}}
	for _, c := range []struct {
		name   string
		id, pw string
		basic  bool
		status int
		code   any
	}{
		{"basic", "app", "s3cret/+", true, 200, nil},
		{"post", "app", "s3cret/+", false, 200, nil},
		{"basic, wrong secret", "app", "s3cret", true, 401, "invalid_client"},
		{"post, wrong secret", "app", "s3cret", false, 401, "invalid_client"},
		{"no secret", "app", "", false, 401, "invalid_client"},
		{"another client", "other", "s3cret/+", true, 401, "invalid_client"},
	} {
		f := url.Values{"grant_type": form["grant_type"], "refresh_token": form["refresh_token"]}
		if !c.basic {
			f.Set("client_id", c.id)
			f.Set("client_secret", c.pw)
		}
		req, err := http.NewRequest(http.MethodPost, r.srv.URL+Base+"/token", strings.NewReader(f.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if c.basic {
			req.SetBasicAuth(url.QueryEscape(c.id), url.QueryEscape(c.pw))
		}
		resp, m := r.do(req)
		r.want(c.name, resp, m, c.status, c.code)
	}
	resp, m := r.post(r.srv.URL+Base+"/token", url.Values{"grant_type": {"password"}}, true)
	r.want("a grant it does not know", resp, m, 400, "unsupported_grant_type")
}

func TestAuthorizationRequests(t *testing.T) {
	r := newRig(t, false)
	for _, c := range []struct {
		name     string
		change   func(url.Values)
		status   int
		redirect string // error in the redirect, "" where there is none
	}{
		{"good: the sign-in page", nil, 200, ""},
		{"another redirect_uri: no redirect", func(q url.Values) { q.Set("redirect_uri", "http://evil.example/") }, 400, ""},
		{"another client: no redirect", func(q url.Values) { q.Set("client_id", "x") }, 400, ""},
		{"no PKCE", func(q url.Values) { q.Del("code_challenge") }, 303, "invalid_request"},
		{"PKCE plain", func(q url.Values) { q.Set("code_challenge_method", "plain") }, 303, "invalid_request"},
		{"no openid", func(q url.Values) { q.Set("scope", "profile") }, 303, "invalid_scope"},
		{"implicit", func(q url.Values) { q.Set("response_type", "token") }, 303, "unsupported_response_type"},
		{"prompt=none, not signed in", func(q url.Values) { q.Set("prompt", "none") }, 303, "login_required"},
	} {
		req, err := http.NewRequest(http.MethodGet, r.authorizeURL(c.change), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, _ := r.do(req)
		got := ""
		if u, err := resp.Location(); err == nil {
			got = u.Query().Get("error")
		}
		if resp.StatusCode != c.status || got != c.redirect {
			t.Errorf("%s: status %d, error %q; want %d, %q", c.name, resp.StatusCode, got, c.status, c.redirect)
		}
	}
	resp, _ := r.post(r.authorizeURL(nil), url.Values{"username": {"alice"}, "password": {"wrong"}}, false)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Location") != "" || len(resp.Cookies()) > 0 {
		t.Errorf("a wrong password: status %d, %v", resp.StatusCode, resp.Header)
	}
}
