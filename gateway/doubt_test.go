package gateway_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"understudy/audit"
	"understudy/gateway"
	"understudy/idptest"
)

func atPath(suffix string) func(*http.Request) bool {
	return func(q *http.Request) bool { return strings.HasSuffix(q.URL.Path, suffix) }
}

// healthy ends the fault, and returns a browser in which alice is signed in to the client "web".
func (r *rig) healthy(t *testing.T, f *idptest.FaultProxy) *idptest.Browser {
	t.Helper()
	fault(t, f, idptest.Fault{})
	b := &idptest.Browser{}
	r.tab("norot", "web", "web-secret", b).signIn("alice")
	return b
}

// A primary that fails at its authorization endpoint alone, while its token endpoint answers the gateway's probe: that could be the
// browser's doing.
func TestAuthorizationInDoubt(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	web := func(b *idptest.Browser) *tab { return r.tab("norot", "web", "web-secret", b) }
	signedIn := func(t *testing.T) *idptest.Browser { return r.healthy(t, f) }
	down := idptest.Fault{Kind: idptest.ServerError, Status: http.StatusInternalServerError, Match: atPath("/auth")}
	for name, x := range map[string]idptest.Fault{
		"500": down, "reset": {Kind: idptest.ResetAfter, Match: atPath("/auth")}, "silence": {Kind: idptest.BlackHole, Match: atPath("/auth")},
	} {
		t.Run("let in, once, after "+name, func(t *testing.T) {
			b := signedIn(t)
			fault(t, f, x)
			again := web(b)
			code, _ := again.silent()
			if k := again.redeem(code); !k.byBackup() {
				t.Errorf("%v", k)
			}
			if name == "silence" {
				return // as with a primary that is slow to one: it is waited for
			}
			if resp, _ := web(b).once(); resp.Header.Get("Location") != "" {
				t.Errorf("a second time: %s", resp.Header.Get("Location"))
			}
		})
	}
	t.Run("again, where others fail too", func(t *testing.T) {
		r := newRig(t, f.URL(), func(t *gateway.Tenant) { t.Trusted = []netip.Prefix{loopback()} })
		from := func(user, address string) *idptest.Browser {
			b := &idptest.Browser{Header: http.Header{"X-Forwarded-For": {address}}}
			r.tab("norot", "web", "web-secret", b).signIn(user)
			return b
		}
		let := func(what string, b *idptest.Browser, want bool) {
			t.Helper()
			if resp, _ := r.tab("norot", "web", "web-secret", b).once(); resp.Header.Get("Location") != "" != want {
				t.Errorf("%s: %d %s", what, resp.StatusCode, resp.Header.Get("Location"))
			}
		}
		fault(t, f, idptest.Fault{})
		alice, neighbour, bob := from("alice", "192.0.2.1"), from("bob", "192.0.2.1"), from("bob", "192.0.2.2")
		fault(t, f, down)
		let("at first", alice, true)
		let("a second time", alice, false)
		let("another at the same address", neighbour, true)
		let("who is no other requester", alice, false)
		let("another", bob, true)
		let("now that others fail", alice, true)
		let("and again", alice, true)
		fault(t, f, idptest.Fault{})
		let("by the primary", bob, true)
		fault(t, f, down)
		let("after an answer to somebody", alice, false)
	})
	t.Run("not by an odd request", func(t *testing.T) {
		b := signedIn(t)
		fault(t, f, down)
		for name, change := range map[string]func(x *tab){
			"a large state":       func(x *tab) { x.with("state", strings.Repeat("a", 3000)) },
			"a zero byte":         func(x *tab) { x.with("login_hint", "alice\x00") },
			"a parameter twice":   func(x *tab) { x.query.Add("state", "b") },
			"an unknown header":   func(x *tab) { x.browser.Header = http.Header{"X-Waf-Bait": {"union select"}} },
			"a large header":      func(x *tab) { x.browser.Header = http.Header{"Referer": {strings.Repeat("a", 3000)}} },
			"an Accept of nobody": func(x *tab) { x.browser.Header = http.Header{"Accept-Encoding": {"identity;q=0"}} },
			"another method":      func(x *tab) { x.browser.Header = http.Header{"X-Http-Method-Override": {"TRACE"}} },
		} {
			x := web(b.Clone())
			change(x)
			if resp, _ := x.once(); resp.Header.Get("Location") != "" {
				t.Errorf("%s: %s", name, resp.Header.Get("Location"))
			}
		}
		if code, _ := web(b).silent(); code == "" {
			t.Error("the plain request after them is not let in")
		}
	})
	t.Run("not who is not known", func(t *testing.T) {
		fault(t, f, down)
		if resp, body := web(&idptest.Browser{}).once(); resp.StatusCode != http.StatusInternalServerError || body != "no" {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	})
	t.Run("not who signed out", func(t *testing.T) {
		fault(t, f, idptest.Fault{})
		b := &idptest.Browser{}
		k := web(b).signIn("alice")
		was := b.Clone() // somebody kept the cookies
		if _, _, err := b.Get(t.Context(), r.logoutAt("norot", k.IDToken)); err != nil {
			t.Fatal(err)
		}
		fault(t, f, down)
		if resp, _ := web(was).once(); resp.Header.Get("Location") != "" {
			t.Errorf("%s", resp.Header.Get("Location"))
		}
	})
	t.Run("who wants no page", func(t *testing.T) {
		page := idptest.Fault{Kind: idptest.HTMLPage, Match: atPath("/auth")}
		for name, c := range map[string]struct {
			fault idptest.Fault
			known string // what the application is told of somebody who is known, and of nobody; "": a code, or as the primary sent it
			other string
		}{
			"500":  {down, "", "temporarily_unavailable"},
			"408":  {idptest.Fault{Kind: idptest.ServerError, Status: http.StatusRequestTimeout, Match: atPath("/auth")}, "temporarily_unavailable", "temporarily_unavailable"},
			"429":  {idptest.Fault{Kind: idptest.ServerError, Status: http.StatusTooManyRequests, Match: atPath("/auth")}, "as it came", "as it came"},
			"page": {page, "", "as it came"},
		} {
			t.Run(name, func(t *testing.T) {
				b := signedIn(t)
				fault(t, f, c.fault)
				for who, want := range map[*idptest.Browser]string{b: c.known, {}: c.other} {
					resp, _ := web(who).with("prompt", "none").once()
					at, err := url.Parse(resp.Header.Get("Location"))
					if err != nil {
						t.Fatal(err)
					}
					switch got := at.Query().Get("error"); {
					case want == "as it came" && at.String() == "", want == "" && at.Query().Get("code") != "", want != "" && got == want:
					default:
						t.Errorf("known %v: %d %s, want %q", who == b, resp.StatusCode, at, want)
					}
				}
			})
		}
		b := signedIn(t)
		fault(t, f, page)
		if resp, body := web(b).once(); resp.StatusCode != http.StatusOK || !strings.Contains(body, "It works") {
			t.Errorf("who may be asked: %d %s", resp.StatusCode, body)
		}
	})
}

// The same at UserInfo: whoever holds a token could bring a failure about.
func TestUserInfoInDoubt(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	ask := func(t *testing.T, token string, header http.Header) (int, string) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, r.realm("norot")+"/protocol/openid-connect/userinfo", nil))
		req.Header = header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b [512]byte
		n, _ := resp.Body.Read(b[:])
		return resp.StatusCode, string(b[:n])
	}
	for name, x := range map[string]idptest.Fault{
		"500": {Kind: idptest.ServerError, Match: atPath("/userinfo")}, "page": {Kind: idptest.HTMLPage, Match: atPath("/userinfo")},
		"silence": {Kind: idptest.BlackHole, Match: atPath("/userinfo")},
	} {
		t.Run(name, func(t *testing.T) {
			fault(t, f, idptest.Fault{})
			k := r.signIn("norot", "alice")
			waitFor(t, "the access token is known", func() bool { return r.learnedFlow("authorization_code") > 0 })
			fault(t, f, x)
			if name != "silence" {
				for odd, h := range map[string]http.Header{"an unknown header": {"X-Waf-Bait": {"1"}}, "an Accept of nobody": {"Accept": {"text/html"}}} {
					if status, body := ask(t, k.AccessToken, h); status != http.StatusServiceUnavailable {
						t.Errorf("%s: %d %s", odd, status, body)
					}
				}
			}
			if status, body := ask(t, k.AccessToken, http.Header{"Accept": {"application/json, application/jwt"}}); status != http.StatusOK || !strings.Contains(body, `"preferred_username":"alice"`) {
				t.Errorf("%d %s", status, body)
			}
			if name == "silence" {
				return
			}
			status, body := ask(t, k.AccessToken, nil)
			if status != http.StatusServiceUnavailable || !strings.Contains(body, "temporarily_unavailable") {
				t.Errorf("a second time: %d %s", status, body)
			}
			if status, body := ask(t, "x", nil); status != http.StatusServiceUnavailable {
				t.Errorf("a stranger: %d %s", status, body)
			}
		})
	}
	r.line(t, "the answer", func(e audit.Entry) bool { return e.Flow == "userinfo" && e.Trigger == "wrong_content" })
}
