package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/gateway"
	"understudy/idptest"
)

// An attack is a refresh of a requester's own token, made odd in some way, with which a primary could be brought to fail.
type attack struct {
	name   string
	change func(plain string) []func(*http.Request) // plain is the body of the plain request
	most   int                                      // answers a grant: what the gateway writes anew does not make a request odd
}

// attacks are odd: none of them may ever be answered while the primary serves others. other is somebody else's token.
func attacks(other string) []attack {
	header := func(name, value string) func(*http.Request) {
		return func(req *http.Request) { req.Header.Set(name, value) }
	}
	body := func(s string) func(*http.Request) {
		return func(req *http.Request) {
			req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
		}
	}
	path := func(p string) func(*http.Request) {
		return func(req *http.Request) { req.URL.Opaque = "//" + req.URL.Host + p }
	}
	only := func(changes ...func(*http.Request)) func(string) []func(*http.Request) {
		return func(string) []func(*http.Request) { return changes }
	}
	with := func(more string) func(string) []func(*http.Request) {
		return func(plain string) []func(*http.Request) { return []func(*http.Request){body(plain + more)} }
	}
	return []attack{
		{name: "Accept that makes a page of the error", change: only(header("Accept", "text/html"))},
		{name: "Accept that nobody can serve", change: only(header("Accept", "application/xml;q=1"))},
		{name: "zero byte in a parameter", change: with("&scope=openid%00")},
		{name: "zero byte in an unknown parameter", change: with("&x=%00%00")},
		{name: "broken escapes", change: with("&x=%zz")},
		{name: "invalid UTF-8", change: with("&scope=%ff%fe")},
		{name: "huge header", change: only(header("X-Padding", strings.Repeat("a", 40_000)))},
		{name: "forged host", change: only(header("X-Forwarded-Host", "evil.example, [")), most: 1},
		{name: "header that is not known", change: only(header("X-Waf-Bait", "union select"))},
		{name: "odd content encoding", change: only(header("Content-Encoding", "gzip"))},
		{name: "odd transfer", change: func(plain string) []func(*http.Request) {
			return []func(*http.Request){body(plain + "&x=1"), func(req *http.Request) { req.ContentLength = -1 }}
		}},
		{name: "expectation", change: only(header("Expect", "100-continue"))},
		{name: "content type of JSON", change: only(header("Content-Type", "application/json"))},
		{name: "JSON body", change: func(plain string) []func(*http.Request) {
			form, _ := url.ParseQuery(plain)
			return []func(*http.Request){header("Content-Type", "application/json"), body(`{"grant_type":"refresh_token","refresh_token":"` + form.Get("refresh_token") + `"}`)}
		}},
		{name: "two content types", change: only(func(req *http.Request) { req.Header.Add("Content-Type", "application/json") })},
		{name: "multipart", change: only(header("Content-Type", "multipart/form-data; boundary=x"))},
		{name: "repeated grant_type", change: with("&grant_type=refresh_token")},
		{name: "repeated token", change: with("&refresh_token=" + other)},
		{name: "another token first", change: func(plain string) []func(*http.Request) {
			return []func(*http.Request){body("refresh_token=" + other + "&" + plain)}
		}},
		{name: "token in the query", change: func(plain string) []func(*http.Request) {
			return []func(*http.Request){func(req *http.Request) { req.URL.RawQuery = plain }}
		}},
		{name: "something in the query", change: only(func(req *http.Request) { req.URL.RawQuery = "x=%00" })},
		{name: "double slash in the path", change: only(path("//realms/norot/protocol/openid-connect/token"))},
		{name: "matrix parameter in the path", change: only(path("/realms/norot/protocol/openid-connect/token;x=1"))},
		{name: "escaped path", change: only(path("/realms/norot/protocol/openid-connect/%74oken"))},
		{name: "method override", change: only(header("X-Http-Method-Override", "TRACE"))},
		{name: "a large body", change: with("&x=" + strings.Repeat("a", 60_000))},
		{name: "a body over the cap", change: with("&x=" + strings.Repeat("a", 200_000))},
		{name: "client credentials twice, disagreeing", change: with("&client_id=spa")},
		{name: "forged forwarding", change: only(header("X-Forwarded-For", "127.0.0.1"), header("X-Forwarded-Proto", "gopher, x\x7f"))},
		{name: "a cookie that is too much for the server", change: only(header("Cookie", strings.Repeat("a=b; ", 8000)))},
	}
}

// marked tells the requests of the one requester for whom the fault proxy fails.
const marked = "marked"

func asMarked(req *http.Request) { req.Header.Set("User-Agent", marked) }

func isMarked(req *http.Request) bool { return req.UserAgent() == marked }

func plainRefresh(k *tokens) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}}
}

// A primary that fails for one requester alone (whose token it would refuse: the user is disabled there and the gateway was
// not told) is answered for at most once a grant, for a plain request, and never for an odd one (design, law 1).
func TestARequesterCannotFakeADeadPrimary(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL(), func(x *gateway.Tenant) {
		x.Health.ProbeServing, x.Health.DeadlineMax = time.Hour, 500*time.Millisecond
	})
	bob := r.signIn("norot", "bob")
	odd := attacks(bob.RefreshToken)
	faults := []struct {
		name  string
		fault idptest.Fault
		plain int // answers to plain requests of a grant
	}{
		{"500", idptest.Fault{Kind: idptest.ServerError}, 1},
		{"a page with 200", idptest.Fault{Kind: idptest.HTMLPage}, 1},
		{"JSON that is no reply", idptest.Fault{Kind: idptest.WrongContent}, 1},
		{"reset at once", idptest.Fault{Kind: idptest.ResetBefore}, 1},
		{"reset at the end", idptest.Fault{Kind: idptest.ResetAfter}, 1},
		{"403 without the protocol's body", idptest.Fault{Kind: idptest.ServerError, Status: 403}, 0},
		{"431", idptest.Fault{Kind: idptest.ServerError, Status: 431}, 0},
		{"302", idptest.Fault{Kind: idptest.Redirect}, 1},
		{"nothing at all", idptest.Fault{Kind: idptest.BlackHole}, 1},
	}
	// Nothing of these reaches Keycloak, so its refusals say nothing about them: one sign-in, a grant each.
	b := &idptest.Browser{}
	var alices []*tokens
	for range len(odd) + len(faults) {
		alices = append(alices, r.signInWith(b, "norot", "alice"))
	}
	enabled(t, kc, "norot", "alice", false)
	defer enabled(t, kc, "norot", "alice", true)

	var mu sync.Mutex
	got := map[string]int{} // tokens, by attack; a repeated request may get the same one again
	seen := map[string]bool{}
	try := func(name string, k *tokens, times int, change ...func(*http.Request)) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		change = append(change, asMarked, func(req *http.Request) { *req = *req.WithContext(ctx) })
		for range times {
			if x := r.token("norot", plainRefresh(k), change...); x.AccessToken != "" {
				mu.Lock()
				if !seen[x.AccessToken] {
					got[name]++
				}
				seen[x.AccessToken] = true
				mu.Unlock()
			} else if name == "plain" {
				t.Log(x)
			}
		}
	}
	for i, x := range faults {
		t.Run(x.name, func(t *testing.T) {
			x.fault.Match = isMarked
			fault(t, f, x.fault)
			delete(got, "plain")
			var wg sync.WaitGroup
			for j, a := range odd {
				wg.Go(func() { try(a.name, alices[j], 2, a.change(plainRefresh(alices[j]).Encode())...) })
			}
			wg.Go(func() { try("plain", alices[len(odd)+i], 4) })
			wg.Wait()
			for _, a := range odd {
				if got[a.name] > a.most {
					t.Errorf("%s: %d tokens", a.name, got[a.name])
				}
			}
			if got["plain"] != x.plain {
				t.Errorf("%d tokens for plain requests of one grant, want %d", got["plain"], x.plain)
			}
			if f.Done(x.fault.Kind) < 10 {
				t.Errorf("only %d requests met the fault", f.Done(x.fault.Kind))
			}
			if g := r.refresh("norot", bob.RefreshToken); g.AccessToken == "" || g.byBackup() {
				t.Errorf("the primary does not serve others: %v", g)
			}
		})
	}
	t.Run("in a real outage each of them is answered", func(t *testing.T) { // so that nothing else has refused them above
		fault(t, f, idptest.Fault{Kind: idptest.Refuse})
		for i, k := range alices {
			if g := r.refresh("norot", k.RefreshToken); !g.byBackup() {
				t.Errorf("%d: %v", i, g)
			}
		}
	})
}

// The same at a primary that refuses each such token (its session has ended there), whatever the request looks like.
func TestARequesterCannotHideARefusal(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	bob := r.signIn("norot", "bob")
	odd := attacks(bob.RefreshToken)
	const aborts = 3
	latencies := []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond}
	var alices []*tokens
	for range len(odd) + aborts*len(latencies) {
		alices = append(alices, r.signIn("norot", "alice"))
	}
	endSessions(t, kc, "norot", "alice") // which a refusal of one says nothing about the others of

	plain := func(k *tokens) string { return plainRefresh(k).Encode() }
	for i, latency := range latencies {
		t.Run(fmt.Sprintf("aborted, then again, at %v", latency), func(t *testing.T) {
			if latency > 0 {
				fault(t, f, idptest.Fault{Kind: idptest.SlowFirstByte, Delay: latency})
				defer fault(t, f, idptest.Fault{})
			}
			var wg sync.WaitGroup
			for j, k := range alices[len(odd)+aborts*i:][:aborts] {
				wg.Go(func() {
					abort(t, r, plain(k), time.Duration(1+2*j)*time.Millisecond)
					for range 2 {
						if g := r.refresh("norot", k.RefreshToken); g.Error != "invalid_grant" {
							t.Errorf("the refusal does not pass: %v", g)
						}
					}
				})
			}
			wg.Wait()
		})
	}
	for i, a := range odd {
		t.Run(a.name, func(t *testing.T) {
			for range 2 {
				if g := r.token("norot", plainRefresh(alices[i]), a.change(plain(alices[i]))...); g.AccessToken != "" {
					t.Fatalf("%v", g)
				}
			}
		})
	}
	t.Run("slow uploads, left", func(t *testing.T) {
		leftUploads(t, r, plain(alices[0]), 300)
		if g := r.refresh("norot", alices[0].RefreshToken); g.AccessToken != "" {
			t.Errorf("%v", g)
		}
	})
	t.Run("plain", func(t *testing.T) {
		for range 3 {
			if g := r.refresh("norot", alices[1].RefreshToken); g.Error != "invalid_grant" {
				t.Fatalf("the primary's refusal does not pass: %v", g)
			}
		}
	})
	if g := r.refresh("norot", bob.RefreshToken); g.AccessToken == "" || g.byBackup() {
		t.Fatalf("the primary does not serve others: %v", g)
	}
}

// While one request hangs, its grant is answered for once, however often it is asked for again, by whoever holds it.
func TestARequestThatHangsIsAnsweredForOnce(t *testing.T) {
	s := newSigner(t, "k1")
	f := behind(t, s.URL)
	r := newRig(t, f.URL())
	for name, abortFirst := range map[string]bool{"asked again and again": false, "the first one aborted": true} {
		t.Run(name, func(t *testing.T) {
			fault(t, f, idptest.Fault{})
			k := r.code()
			r.learnedAt(r.url, k.RefreshToken)
			fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Grant: "refresh_token"})
			ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
			defer cancel()
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "client_id": {"app"}}
			if abortFirst {
				abortAt(t, r, "/token", form.Encode(), 20*time.Millisecond)
			}
			var mu sync.Mutex
			var wg sync.WaitGroup
			answers := map[string]bool{} // a repeated request may get the same one again
			for range 6 {
				wg.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/token", strings.NewReader(form.Encode()))
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						return
					}
					defer resp.Body.Close()
					if b, _ := io.ReadAll(resp.Body); strings.Contains(string(b), "access_token") {
						mu.Lock()
						answers[string(b)] = true
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if len(answers) != 1 {
				t.Errorf("%d answers, want 1", len(answers))
			}
			if n := f.Done(idptest.BlackHole); n < 1 {
				t.Error("nothing hung")
			}
		})
	}
}

// abort sends a whole request to realm norot and closes the connection a while later.
func abort(t *testing.T, r *rig, body string, after time.Duration) {
	t.Helper()
	abortAt(t, r, "/realms/norot/protocol/openid-connect/token", body, after)
}

func abortAt(t *testing.T, r *rig, path, body string, after time.Duration) {
	t.Helper()
	host := strings.TrimPrefix(r.url, "http://")
	c, err := net.Dial("tcp", host)
	if err != nil {
		t.Error(err)
		return
	}
	auth := ""
	if !strings.Contains(body, "client_id=") {
		auth = "Authorization: Basic d2ViOndlYi1zZWNyZXQ=\r\n"
	}
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, host, auth, len(body), body)
	time.Sleep(after)
	c.Close()
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
		t.Cleanup(func() { c.Close() })
	}
}
