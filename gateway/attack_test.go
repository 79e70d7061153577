package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

func kid(token string) string {
	head, _, _ := strings.Cut(token, ".")
	return claimOf(head, "kid")
}

// claimOf is a member of a part of a JWT.
func claimOf(part, name string) string {
	b, _ := base64.RawURLEncoding.DecodeString(part)
	var m map[string]any
	json.Unmarshal(b, &m)
	s, _ := m[name].(string)
	return s
}

// What was revoked in the last moment before the outage is refused in it, and what the primary refused, too.
func TestRevokedBeforeTheOutage(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	post := func(path string, form url.Values) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.realm("rot")+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("web", "web-secret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	operator := func(of session.What, id session.ID) {
		if err := r.backup.Mark(ctx, "default", session.Mark{Of: of, ID: id, Final: true, At: time.Now().UnixNano(), Cause: "operator"}); err != nil {
			t.Fatal(err)
		}
	}
	type victim struct {
		name   string
		end    func(*tokens) // the last thing before the outage
		tokens *tokens
		want   string
	}
	victims := []*victim{
		{name: "nothing: the control", end: func(*tokens) {}},
		{name: "by the operator, its session", want: "invalid_grant", end: func(k *tokens) {
			operator(session.OfSession, r.seal.Pseudonym("session", "default", r.realm("rot"), k.claim("sid")))
		}},
		{name: "by RFC 7009", want: "invalid_grant", end: func(k *tokens) {
			if s := post("/protocol/openid-connect/revoke", url.Values{"token": {k.RefreshToken}}); s != 200 {
				t.Fatalf("revoke: %d", s)
			}
		}},
		{name: "by a logout with the refresh token", want: "invalid_grant", end: func(k *tokens) {
			if s := post("/protocol/openid-connect/logout", url.Values{"client_id": {"web"}, "client_secret": {"web-secret"}, "refresh_token": {k.RefreshToken}}); s != 204 {
				t.Fatalf("logout: %d", s)
			}
		}},
		{name: "by a logout with the ID token as hint", want: "invalid_grant", end: func(k *tokens) {
			resp, err := (&http.Transport{}).RoundTrip(must(http.NewRequest(http.MethodGet, r.realm("rot")+"/protocol/openid-connect/logout?"+url.Values{
				"id_token_hint": {k.IDToken}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}}.Encode(), nil)))
			if err != nil || resp.StatusCode != 302 {
				t.Fatalf("logout: %v %v", resp, err)
			}
			resp.Body.Close()
		}},
		{name: "by a refused refresh (superseded, replayed): the successor too", want: "invalid_grant", end: func(k *tokens) {
			next := r.refresh("rot", k.RefreshToken)
			if next.RefreshToken == "" {
				t.Fatalf("refresh: %+v", next)
			}
			r.learned("rot", next.RefreshToken)
			if got := r.refresh("rot", k.RefreshToken); got.Error != "invalid_grant" {
				t.Fatalf("replay: %+v", got)
			}
			k.RefreshToken = next.RefreshToken
		}},
		{name: "by a replayed code", want: "invalid_grant", end: func(k *tokens) {
			form := url.Values{"grant_type": {"authorization_code"}, "code": {k.code}, "redirect_uri": {"http://127.0.0.1:9999/cb"}}
			if got := r.token("rot", form); got.Error != "invalid_grant" {
				t.Fatalf("replay: %+v", got)
			}
		}},
	}
	for _, v := range victims {
		v.tokens = r.signIn("rot", "bob")
	}
	for _, v := range victims {
		v.end(v.tokens)
	}
	kc.Kill()
	for _, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			got := r.refresh("rot", v.tokens.RefreshToken)
			if v.want == "" && !got.byBackup() {
				t.Fatalf("not served: %+v", got)
			}
			if got.Error != v.want {
				t.Fatalf("got %q %q, want %q", got.Error, got.Description, v.want)
			}
		})
	}
	t.Run("in the outage", func(t *testing.T) { refusedInTheOutage(t, r, victims[0].tokens) })
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("by the operator, in normal mode: the primary has not heard of it", func(t *testing.T) {
		v := victims[1].tokens
		for range 100 {
			if got := r.refresh("rot", v.RefreshToken); got.Error != "invalid_grant" || !strings.Contains(got.Description, "revoked") {
				t.Fatalf("got %+v", got)
			}
			time.Sleep(20 * time.Millisecond)
		}
		// Past every spelling that a lenient primary may take.
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {v.RefreshToken}}
		for _, path := range []string{"/token;a=b", "/%74oken", "//token", "/./token", "/token/"} {
			got := r.token("rot", form, func(req *http.Request) {
				req.URL.Opaque = "//" + req.URL.Host + "/realms/rot/protocol/openid-connect" + path
			})
			if got.AccessToken != "" {
				t.Errorf("%s: the operator's revocation is passed by", path)
			}
		}
	})
}

// refusedInTheOutage: good is a live session of the client web at realm rot.
func refusedInTheOutage(t *testing.T, r *rig, good *tokens) {
	cases := map[string]func() *tokens{
		"a wrong secret": func() *tokens {
			return r.refresh("rot", good.RefreshToken, func(q *http.Request) { q.SetBasicAuth("web", "wrong") })
		},
		"no secret": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {good.RefreshToken}, "client_id": {"web"}}, func(q *http.Request) { q.Header.Del("Authorization") })
		},
		"another client": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {good.RefreshToken}, "client_id": {"spa"}}, func(q *http.Request) { q.Header.Del("Authorization") })
		},
		"another client's secret": func() *tokens {
			return r.refresh("rot", good.RefreshToken, func(q *http.Request) { q.SetBasicAuth("svc", "svc-secret") })
		},
		"another realm": func() *tokens { return r.refresh("norot", good.RefreshToken) },
		"a wider scope": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {good.RefreshToken}, "scope": {"openid offline_access admin"}})
		},
		"a foreign resource": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {good.RefreshToken}, "resource": {"https://other.example"}})
		},
		"a garbled token": func() *tokens { return r.refresh("rot", good.RefreshToken+"x") },
		"the code again": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"authorization_code"}, "code": {"made-up"}, "redirect_uri": {"http://127.0.0.1:9999/cb"}})
		},
		"a password": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"password"}, "username": {"bob"}, "password": {"pw-bob"}})
		},
		"another host": func() *tokens {
			return r.refresh("rot", good.RefreshToken, func(q *http.Request) { q.Host = "other.example" })
		},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			if got := f(); got.AccessToken != "" || got.status < 400 {
				t.Fatalf("got %d with a token: %v", got.status, got.AccessToken != "")
			}
		})
	}
	t.Run("guessed secrets at speed", func(t *testing.T) {
		limited := 0
		for i := range 60 {
			got := r.refresh("rot", good.RefreshToken, func(q *http.Request) { q.SetBasicAuth("web", fmt.Sprint("guess-", i)) })
			if got.AccessToken != "" {
				t.Fatal("a token")
			}
			if strings.Contains(got.Description, "limited") {
				limited++
			}
		}
		if limited < 40 {
			t.Errorf("only %d of 60 guesses were limited", limited)
		}
	})
	if got := r.refresh("rot", good.RefreshToken); !got.byBackup() {
		t.Errorf("the right client is not served any more: %+v", got)
	}
}

// A session that an operator ended does not come back by a code that the browser's cookie at the primary gets silently, in
// normal mode or in an outage; a person who signs in anew does.
func TestARevokedSessionDoesNotComeBackSilently(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	k := r.signInWith(b, "rot", "bob")
	time.Sleep(1100 * time.Millisecond) // auth_time has seconds
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.realm("rot"), k.claim("sub")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	if got := r.refresh("rot", k.RefreshToken); !strings.Contains(got.Description, "revoked") {
		t.Fatalf("not revoked: %v", got)
	}
	silent := r.tab("rot", "web", "web-secret", b)
	if got := silent.redeem(silent.open("").Query().Get("code")); got.AccessToken != "" || !strings.Contains(got.Description, "revoked") {
		t.Errorf("it comes back silently: %v", got)
	}
	time.Sleep(1100 * time.Millisecond)
	anew := r.signIn("rot", "bob")
	kc.Kill()
	defer kc.Restart(context.Background())
	if resp, _ := r.tab("rot", "web", "web-secret", b).once(); resp.Header.Get("Location") != "" {
		t.Error("and in the outage")
	}
	if got := r.refresh("rot", anew.RefreshToken); !got.byBackup() {
		t.Errorf("who signed in anew is not served: %v", got)
	}
}
