package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/session"
)

func kid(token string) string {
	head, _, _ := strings.Cut(token, ".")
	b, _ := base64.RawURLEncoding.DecodeString(head)
	var h struct{ KID string }
	json.Unmarshal(b, &h)
	return h.KID
}

// With a refresh token that the primary would refuse now (the user is disabled there and the gateway was not told),
// nothing that a requester does yields a token while the primary serves others (design, law 1).
func TestARequesterCannotFakeADeadPrimary(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	bob := r.signIn("norot", "bob")
	alice := r.signIn("norot", "alice")
	if got := r.refresh("norot", alice.RefreshToken); got.AccessToken == "" {
		t.Fatalf("before: %+v", got)
	}
	setUser(t, kc, "norot", "alice", map[string]any{"enabled": false})
	defer setUser(t, kc, "norot", "alice", map[string]any{"enabled": true})

	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {alice.RefreshToken}}
	header := func(name, value string) func(*http.Request) {
		return func(req *http.Request) { req.Header.Set(name, value) }
	}
	body := func(s string) func(*http.Request) {
		return func(req *http.Request) {
			req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
		}
	}
	plain := form.Encode()
	attacks := map[string][]func(*http.Request){
		"Accept that makes a page of the error": {header("Accept", "text/html")},
		"Accept that nobody can serve":          {header("Accept", "application/xml;q=1")},
		"zero byte in a parameter":              {body(plain + "&scope=openid%00")},
		"zero byte in an unknown parameter":     {body(plain + "&x=%00%00")},
		"broken escapes":                        {body(plain + "&x=%zz")},
		"invalid UTF-8":                         {body(plain + "&scope=%ff%fe")},
		"huge header":                           {header("X-Padding", strings.Repeat("a", 40_000))},
		"odd header":                            {header("X-Forwarded-Host", "evil.example, [")},
		"odd content encoding":                  {header("Content-Encoding", "gzip")},
		"odd transfer":                          {func(req *http.Request) { req.ContentLength = -1 }},
		"expectation":                           {header("Expect", "100-continue")},
		"content type of JSON":                  {header("Content-Type", "application/json")},
		"JSON body":                             {header("Content-Type", "application/json"), body(`{"grant_type":"refresh_token","refresh_token":"` + alice.RefreshToken + `"}`)},
		"two content types":                     {func(req *http.Request) { req.Header.Add("Content-Type", "application/json") }},
		"multipart":                             {header("Content-Type", "multipart/form-data; boundary=x")},
		"repeated grant_type":                   {body(plain + "&grant_type=refresh_token")},
		"repeated token":                        {body(plain + "&refresh_token=" + bob.RefreshToken)},
		"another token first":                   {body("refresh_token=" + bob.RefreshToken + "&" + plain)},
		"token in the query":                    {func(req *http.Request) { req.URL.RawQuery = plain }},
		"double slash in the path": {func(req *http.Request) {
			req.URL.Opaque = "//" + req.URL.Host + "//realms/norot/protocol/openid-connect/token"
		}},
		"matrix parameter in the path": {func(req *http.Request) {
			req.URL.Opaque = "//" + req.URL.Host + "/realms/norot/protocol/openid-connect/token;x=1"
		}},
		"escaped path": {func(req *http.Request) {
			req.URL.Opaque = "//" + req.URL.Host + "/realms/norot/protocol/openid-connect/%74oken"
		}},
		"method override":                          {header("X-Http-Method-Override", "TRACE")},
		"a large body":                             {body(plain + "&x=" + strings.Repeat("a", 60_000))},
		"a body over the cap":                      {body(plain + "&x=" + strings.Repeat("a", 200_000))},
		"client credentials twice, disagreeing":    {body(plain + "&client_id=spa")},
		"forged forwarding":                        {header("X-Forwarded-For", "127.0.0.1"), header("X-Forwarded-Proto", "gopher")},
		"a cookie that is too much for the server": {header("Cookie", strings.Repeat("a=b; ", 8000))},
	}
	for name, change := range attacks {
		t.Run(name, func(t *testing.T) {
			for range 3 { // once is allowed for a plain request; none of these is one
				if got := r.token("norot", form, change...); got.AccessToken != "" {
					t.Fatalf("a token, issued by the backup: %v", got.byBackup())
				}
			}
		})
	}
	t.Run("slow upload, left", func(t *testing.T) { leftUploads(t, r, plain, 20) })
	t.Run("uploads that fill the pools", func(t *testing.T) {
		leftUploads(t, r, plain, 300)
		if got := r.refresh("norot", alice.RefreshToken); got.AccessToken != "" {
			t.Fatal("a token")
		}
	})
	t.Run("plain, again and again", func(t *testing.T) {
		for range 5 {
			if got := r.refresh("norot", alice.RefreshToken); got.Error != "invalid_grant" {
				t.Fatalf("the primary's refusal does not pass: %+v", got)
			}
		}
	})
	if got := r.refresh("norot", bob.RefreshToken); got.AccessToken == "" || got.byBackup() {
		t.Fatalf("the primary does not serve others: %+v", got)
	}
}

// leftUploads begins requests and never ends them.
func leftUploads(t *testing.T, r *rig, body string, n int) {
	t.Helper()
	host := strings.TrimPrefix(r.url, "http://")
	for range n {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /realms/norot/protocol/openid-connect/token HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic d2ViOndlYi1zZWNyZXQ=\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", host, len(body)+10, body)
		defer c.Close()
	}
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
	claim := func(tok *tokens, name string) string {
		b, _ := base64.RawURLEncoding.DecodeString(strings.Split(tok.IDToken, ".")[1])
		var c map[string]any
		json.Unmarshal(b, &c)
		s, _ := c[name].(string)
		if s == "" {
			t.Fatalf("no claim %s", name)
		}
		return s
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
			operator(session.OfSession, r.seal.Pseudonym("session", "default", r.realm("rot"), claim(k, "sid")))
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

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
