package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/idptest"
)

// What stands before a primary that dies answers in its place for the seconds until the breaker opens: a page of a balancer that keeps browsers at
// a node by a cookie of its own, the way to a page about the outage, a bare 400. None of these is the primary's, and who met one of them is let
// in as soon as the backup answers.
func TestWhatStandsBeforeADeadPrimaryAsksNobody(t *testing.T) {
	for name, dead := range map[string]http.HandlerFunc{
		"control: 503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"control: a page without a cookie": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<h1>We will be back soon</h1>")
		},
		"the way to a page about the outage": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://status.example/maintenance", http.StatusFound)
		},
		"a page, with the cookie of a balancer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Set-Cookie", "SERVERID=s1; path=/")
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<h1>We will be back soon</h1>")
		},
		"a bare 400": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Bad Request", http.StatusBadRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			port := must(idptest.FreePort())
			issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
			p := newSwitching(t, issuer)
			var down atomic.Bool
			proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(p.URL)))
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if down.Load() {
					dead(w, r)
					return
				}
				proxy.ServeHTTP(w, r)
			}))
			t.Cleanup(front.Close)
			r := newRigAt(t, port, front.URL)
			p.next = "alice"
			b := &idptest.Browser{}
			ask := func() string {
				return issuer + "/auth?" + url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback}}.Encode()
			}
			n := r.learnedFlow("authorization")
			at := must(b.Visit(t.Context(), ask(), callback, nil))
			resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"app"}})
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
			waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
			down.Store(true)
			resp, _, err = b.Get(t.Context(), ask())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("at once: %d %s", resp.StatusCode, resp.Header.Get("Location"))
			share := func() string {
				return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`]
			}
			for range 600 {
				if share() == "0" {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			if share() != "0" {
				t.Fatalf("the breaker is not open: %s", share())
			}
			resp, _, err = b.Get(t.Context(), ask())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(resp.Header.Get("Location"), "code=") {
				t.Errorf("in the outage: %d %s", resp.StatusCode, resp.Header.Get("Location"))
			}
		})
	}
}

// A primary that asks the person and dies in the same moment has asked all the same, where its reply can be nobody else's: it led to a place
// below its own path, or set a cookie there.
func TestAPrimaryThatAsksAndDiesHasAsked(t *testing.T) {
	for name, c := range map[string]struct {
		last http.HandlerFunc // nil: it asks nothing
		in   bool
	}{
		"control: it asks nothing": {nil, true},
		"the way to a page": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/realms/op/action", http.StatusFound)
		}, false},
		"a page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Set-Cookie", "tab=1; Path=/realms/op/")
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<form>Your new password")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			port := must(idptest.FreePort())
			issuer := fmt.Sprintf("http://127.0.0.1:%d/realms/op", port)
			p := newSwitching(t, issuer)
			var asks, down atomic.Bool
			proxy := http.StripPrefix("/realms/op", httputil.NewSingleHostReverseProxy(must(url.Parse(p.URL))))
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case down.Load():
					w.WriteHeader(http.StatusServiceUnavailable)
				case asks.Load() && r.URL.Path == "/realms/op/auth":
					down.Store(true)
					c.last(w, r)
				default:
					proxy.ServeHTTP(w, r)
				}
			}))
			t.Cleanup(front.Close)
			r := newRigAt(t, port, front.URL)
			p.next = "alice"
			b := &idptest.Browser{}
			ask := func() string {
				return issuer + "/auth?" + url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback}}.Encode()
			}
			n := r.learnedFlow("authorization")
			at := must(b.Visit(t.Context(), ask(), callback, nil))
			resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"app"}})
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
			waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
			if c.last == nil {
				down.Store(true)
			} else {
				asks.Store(true)
				if _, _, err := b.Get(t.Context(), ask()); err != nil {
					t.Fatal(err)
				}
			}
			resp, _, err = b.Get(t.Context(), ask())
			if err != nil {
				t.Fatal(err)
			}
			if in := strings.Contains(resp.Header.Get("Location"), "code="); in != c.in {
				t.Errorf("let in: %v, %d %s", in, resp.StatusCode, resp.Header.Get("Location"))
			}
		})
	}
}
