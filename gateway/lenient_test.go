package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/audit"
	"understudy/gateway"
	"understudy/idptest"
	"understudy/session"
)

// lenient is a primary with logout and revocation whose token endpoint takes parameters from wherever they come, the last of
// several, as PHP does.
type lenient struct {
	*signer
	url     string
	slow    atomic.Int64  // how long a revocation, or a code, takes
	codes   atomic.Int64  // that were presented
	revoked chan struct{} // one for each that arrived
}

func newLenient(t *testing.T) *lenient {
	t.Helper()
	l := &lenient{signer: newSigner(t, "k1"), revoked: make(chan struct{}, 10)}
	l.signer.change = func(doc map[string]any) {
		at := doc["issuer"].(string)
		doc["revocation_endpoint"], doc["end_session_endpoint"] = at+"/revoke", at+"/logout"
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/revoke":
			io.Copy(io.Discard, r.Body)
			l.revoked <- struct{}{}
			time.Sleep(time.Duration(l.slow.Load()))
			return
		case "/logout":
			http.Redirect(w, r, "http://127.0.0.1:9999/bye", http.StatusFound)
			return
		case "/token":
			r.ParseMultipartForm(1 << 20)
			if r.FormValue("grant_type") == "authorization_code" {
				l.codes.Add(1)
				time.Sleep(time.Duration(l.slow.Load()))
			}
		}
		l.signer.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return l
}

// ask sends a request with a form, for as long as ctx lasts, and returns status and body.
func (r *rig) ask(ctx context.Context, method, path string, form url.Values) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req) // follows nothing
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func multipartForm(t *testing.T, form url.Values) (string, io.Reader) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, vs := range form {
		for _, v := range vs {
			must(0, w.WriteField(name, v))
		}
	}
	must(0, w.Close())
	return w.FormDataContentType(), &b
}

func everything(*http.Request) bool { return true }

// What asks for an end is done here where the primary is silent, and is not forgotten where its client leaves.
func TestWhatEndsHolds(t *testing.T) {
	revoke := func(k *tokens) url.Values { return url.Values{"token": {k.RefreshToken}, "client_id": {"app"}} }
	for name, end := range map[string]func(*testing.T, *lenient, *idptest.FaultProxy, *rig, *tokens){
		"revoked in an outage": func(t *testing.T, _ *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Match: everything})
			waitFor(t, "the outage", func() bool { return r.again(k.RefreshToken).byBackup() })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if s, _, err := r.ask(ctx, http.MethodPost, "/revoke", revoke(k)); s != http.StatusOK {
				t.Errorf("not acknowledged: %d %v", s, err)
			}
		},
		"revoked at first": func(t *testing.T, _ *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Match: everything})
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			if s, _, err := r.ask(ctx, http.MethodPost, "/revoke", revoke(k)); s != http.StatusOK {
				t.Errorf("not acknowledged: %d %v", s, err)
			}
		},
		"revoked, client gone": func(t *testing.T, l *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			l.slow.Store(int64(300 * time.Millisecond))
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-l.revoked; cancel() }()
			r.ask(ctx, http.MethodPost, "/revoke", revoke(k))
			time.Sleep(600 * time.Millisecond)
			fault(t, f, idptest.Fault{Kind: idptest.Refuse})
		},
		"a logout by link": func(t *testing.T, _ *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			fault(t, f, idptest.Fault{Kind: idptest.Refuse})
			if s, _, err := r.ask(t.Context(), http.MethodGet, "/logout?id_token_hint="+k.IDToken, nil); s/100 != 2 {
				t.Errorf("not acknowledged: %d %v", s, err)
			}
		},
		"a logout by form": func(t *testing.T, _ *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			fault(t, f, idptest.Fault{Kind: idptest.Refuse})
			if s, _, err := r.ask(t.Context(), http.MethodPost, "/logout", url.Values{"id_token_hint": {k.IDToken}}); s/100 != 2 {
				t.Errorf("not acknowledged: %d %v", s, err)
			}
		},
		"code again": func(t *testing.T, _ *lenient, f *idptest.FaultProxy, r *rig, k *tokens) {
			fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Match: everything})
			waitFor(t, "the outage", func() bool { return r.again(k.RefreshToken).byBackup() })
			waitFor(t, "the breaker is open", func() bool {
				return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "0"
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r.ask(ctx, http.MethodPost, "/token", url.Values{"grant_type": {"authorization_code"}, "code": {"c"}, "client_id": {"app"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLenient(t)
			f := behind(t, l.url)
			r := newRig(t, f.URL())
			k := r.code()
			r.learnedAt(r.url, k.RefreshToken)
			end(t, l, f, r, k)
			if got := r.again(k.RefreshToken); got.AccessToken != "" || got.Error != "invalid_grant" {
				t.Errorf("it goes on: %v", got)
			}
		})
	}
}

// A code whose client left before the reply came is not sent again: who repeats the request gets the reply, once.
func TestACodeIsSentOnce(t *testing.T) {
	l := newLenient(t)
	r := newRig(t, l.url)
	get(t, r.url+"/.well-known/openid-configuration")
	l.slow.Store(int64(700 * time.Millisecond))
	form := url.Values{"grant_type": {"authorization_code"}, "code": {"abc"}, "client_id": {"app"}}
	redeem := func(form url.Values, patience time.Duration) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, b, _ := r.ask(ctx, http.MethodPost, "/token", form)
		return b
	}
	if b := redeem(form, 200*time.Millisecond); b != "" {
		t.Fatalf("answered: %s", b)
	}
	if b := redeem(form, 200*time.Millisecond); b != "" || l.codes.Load() != 1 {
		t.Fatalf("who waited for the reply and left, too, had the code sent again: %d %s", l.codes.Load(), b)
	}
	other := url.Values{"grant_type": {"authorization_code"}, "code": {"abc"}, "client_id": {"app"}, "code_verifier": {"x"}}
	if redeem(other, 5*time.Second); l.codes.Load() != 2 {
		t.Errorf("the primary saw %d codes; another request is its to judge", l.codes.Load())
	}
	again := redeem(form, 5*time.Second)
	if !strings.Contains(again, "access_token") || l.codes.Load() != 2 {
		t.Errorf("%d codes were presented: %s", l.codes.Load(), again)
	}
	if got := r.again(field(t, again, "refresh_token")); got.AccessToken == "" {
		t.Errorf("what it gave goes on: %v", got)
	}
	if redeem(form, 5*time.Second); l.codes.Load() != 3 {
		t.Error("who was answered and comes again is hidden from the primary")
	}
}

func field(t *testing.T, body, name string) string {
	t.Helper()
	o, err := session.ParseObject([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return o.Text(name)
}

// The backup's own tokens end their session while the primary is away; when it is back it would have to hear of it, and
// could not understand it. (TestBrowser signs out with one that names its session.)
func TestOwnTokensEndTheirSession(t *testing.T) {
	for name, c := range map[string]struct {
		ask     func(*rig, *tokens) (int, string, error)
		in, out int // status in the outage, and when the primary is back
	}{
		"a logout by link": {func(r *rig, k *tokens) (int, string, error) {
			return r.ask(r.t.Context(), http.MethodGet, "/logout?id_token_hint="+k.IDToken, nil)
		}, http.StatusNoContent, http.StatusServiceUnavailable},
		"a logout by form": {func(r *rig, k *tokens) (int, string, error) {
			return r.ask(r.t.Context(), http.MethodPost, "/logout", url.Values{"id_token_hint": {k.IDToken}})
		}, http.StatusNoContent, http.StatusServiceUnavailable},
		"a revocation": {func(r *rig, k *tokens) (int, string, error) {
			return r.ask(r.t.Context(), http.MethodPost, "/revoke", url.Values{"token": {k.AccessToken}, "client_id": {"app"}})
		}, http.StatusOK, http.StatusServiceUnavailable},
		"a forged hint": {func(r *rig, k *tokens) (int, string, error) {
			head, _, _ := strings.Cut(k.IDToken, ".")
			rest := k.IDToken[len(head):]
			return r.ask(r.t.Context(), http.MethodGet, "/logout?id_token_hint="+head+rest[:len(rest)-8]+"AAAAAAAA", nil)
		}, http.StatusServiceUnavailable, http.StatusServiceUnavailable},
		"another client's revocation": {func(r *rig, k *tokens) (int, string, error) {
			return r.ask(r.t.Context(), http.MethodPost, "/revoke", url.Values{"token": {k.AccessToken}, "client_id": {"other"}})
		}, http.StatusServiceUnavailable, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLenient(t)
			f := behind(t, l.url)
			r := newRig(t, f.URL())
			share := func(want string) func() bool {
				return func() bool {
					return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == want
				}
			}
			k, later := r.code(), r.code()
			r.learnedAt(r.url, later.RefreshToken)
			fault(t, f, idptest.Fault{Kind: idptest.Refuse})
			ours, ours2 := r.again(k.RefreshToken), r.again(later.RefreshToken)
			waitFor(t, "the breaker is open", share("0"))
			if s, b, err := c.ask(r, ours); s != c.in {
				t.Errorf("in the outage: %d %.80s %v", s, b, err)
			}
			if got := r.again(k.RefreshToken); (got.Error == "invalid_grant") != (c.in < 300) {
				t.Errorf("then: %v", got)
			}
			fault(t, f, idptest.Fault{})
			waitFor(t, "the primary is back", share("100"))
			if s, b, err := c.ask(r, ours2); s != c.out || !strings.Contains(b, "own_token") {
				t.Errorf("when the primary is back: %d %.80s %v", s, b, err)
			}
		})
	}
}

// A person who comes while the primary is away sees a page; a script gets what it can read.
func TestPagesForPeople(t *testing.T) {
	l := newLenient(t)
	f := behind(t, l.url)
	r := newRig(t, f.URL(), func(x *gateway.Tenant) { x.DisplayName, x.Contact = "Example & Co", "help@example.com" })
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	see := func(path string, header ...string) (int, string, http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), resp.Header
	}
	s, b, h := see("/auth?client_id=app&state=%3Cscript%3E", "Accept", "text/html,*/*", "Sec-Fetch-Mode", "navigate", "Accept-Language", "de")
	if s != http.StatusServiceUnavailable || !strings.Contains(b, "Example &amp; Co") || !strings.Contains(b, "help@example.com") ||
		strings.Contains(b, "<script") || h.Get("Retry-After") == "" || h.Get("Content-Language") != "de" || h.Get("X-Frame-Options") != "DENY" {
		t.Errorf("%d %v\n%s", s, h, b)
	}
	r.line(t, "the page", func(e audit.Entry) bool { return e.Rule == "not_playable" && e.Trigger == "response_type" })
	if s, b, _ := see("/auth?client_id=app", "Accept", "*/*", "Sec-Fetch-Mode", "cors"); s != http.StatusServiceUnavailable || !strings.Contains(b, `"temporarily_unavailable"`) {
		t.Errorf("a script: %d %s", s, b)
	}
	if s, b, _ := see("/logout?id_token_hint="+k.IDToken, "Accept", "text/html"); s != http.StatusOK || !strings.Contains(b, "Example &amp; Co") {
		t.Errorf("a logout: %d %s", s, b)
	}
	if got := r.again(k.RefreshToken); got.Error != "invalid_grant" {
		t.Errorf("the session goes on after its logout: %v", got)
	}
}

// What an operator revoked is refused in normal mode in every spelling that some primary takes.
func TestARevokedTokenInEverySpelling(t *testing.T) {
	l := newLenient(t)
	r := newRig(t, l.url)
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.url, "alice"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	plain := url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {k.RefreshToken}}
	among := func(n int) url.Values {
		v := url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}}
		for range n {
			v.Add("refresh_token", "x")
		}
		v.Add("refresh_token", k.RefreshToken)
		return v
	}
	for name, ask := range map[string]func() (int, string, error){
		"plain":          func() (int, string, error) { return r.ask(t.Context(), http.MethodPost, "/token", plain) },
		"the last of 5":  func() (int, string, error) { return r.ask(t.Context(), http.MethodPost, "/token", among(4)) },
		"the last of 99": func() (int, string, error) { return r.ask(t.Context(), http.MethodPost, "/token", among(98)) },
		"in the query":   func() (int, string, error) { return r.ask(t.Context(), http.MethodPost, "/token?"+plain.Encode(), nil) },
		"by GET":         func() (int, string, error) { return r.ask(t.Context(), http.MethodGet, "/token?"+plain.Encode(), nil) },
		"by PUT":         func() (int, string, error) { return r.ask(t.Context(), http.MethodPut, "/token", plain) },
		"another grant's parameter": func() (int, string, error) {
			v := url.Values{"grant_type": {"authorization_code", "refresh_token"}, "client_id": {"app"}, "refresh_token": {k.RefreshToken}}
			return r.ask(t.Context(), http.MethodPost, "/token", v)
		},
		"multipart": func() (int, string, error) {
			kind, body := multipartForm(t, plain)
			resp, err := http.Post(r.url+"/token", kind, body)
			if err != nil {
				return 0, "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return resp.StatusCode, string(b), err
		},
	} {
		if s, b, err := ask(); strings.Contains(b, "access_token") || err != nil {
			t.Errorf("%s passes: %d %v", name, s, err)
		}
	}
	if s, b, err := r.ask(t.Context(), http.MethodPost, "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {"x"}}); s == 0 || strings.Contains(b, "revoked") {
		t.Errorf("another token is taken for the revoked one: %d %s %v", s, b, err)
	}
}

// A password's family is never played, however the password was sent.
func TestAPasswordInEverySpelling(t *testing.T) {
	l := newLenient(t)
	f := behind(t, l.url)
	r := newRig(t, f.URL())
	get(t, r.url+"/.well-known/openid-configuration")
	form := url.Values{"grant_type": {"password"}, "client_id": {"app"}, "username": {"a"}, "password": {"b"}, "scope": {"openid"}}
	request := func(kind string, query string, body io.Reader) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/token"+query, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		return req
	}
	kind, parts := multipartForm(t, form)
	var held []string
	for name, req := range map[string]*http.Request{
		"form":      request("application/x-www-form-urlencoded", "", strings.NewReader(form.Encode())),
		"multipart": request(kind, "", parts),
		"query":     request("application/x-www-form-urlencoded", "?"+form.Encode(), nil),
	} {
		k := r.send(req)
		if k.RefreshToken == "" {
			t.Fatalf("%s: the primary does not take it: %v", name, k)
		}
		time.Sleep(100 * time.Millisecond) // it must be learned that this is not to be learned
		next := r.again(k.RefreshToken)
		r.learnedAt(r.url, next.RefreshToken)
		held = append(held, next.RefreshToken)
	}
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	for _, token := range held {
		if got := r.again(token); got.AccessToken != "" {
			t.Errorf("%v", got)
		}
	}
}

// Exchanges that anybody can begin, and that hang, take no places from sessions.
func TestStrangersTakeNoPlaces(t *testing.T) {
	l := newLenient(t)
	f := behind(t, l.url)
	r := newRig(t, f.URL(), func(x *gateway.Tenant) { x.InFlight, x.Health.ProbeServing = 20, time.Hour })
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Match: func(q *http.Request) bool { return q.UserAgent() == "stranger" }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 60)
	for i := range cap(done) {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {"x"}, "client_id": {"app"}}
		if i%2 == 0 {
			form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint("x", i)}, "client_id": {"app"}}
		}
		go func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/token", strings.NewReader(form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("User-Agent", "stranger")
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
			done <- struct{}{}
		}()
	}
	waitFor(t, "the places are taken", func() bool { return len(done) >= 40 }) // the others are told that it is full
	if got := r.again(k.RefreshToken); got.AccessToken == "" || got.byBackup() {
		t.Errorf("a session meanwhile: %v", got)
	}
	cancel()
	for range cap(done) {
		<-done
	}
}

// Who sends and leaves, again and again, does not fill the gateway with exchanges that hang.
func TestWhoLeavesIsBounded(t *testing.T) {
	l := newLenient(t)
	f := behind(t, l.url)
	r := newRig(t, f.URL(), func(x *gateway.Tenant) { x.InFlight, x.Health.ProbeServing = 10, time.Hour })
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	var hanging atomic.Int64 // at the primary
	fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Match: func(q *http.Request) bool {
		if q.UserAgent() != "stranger" {
			return false
		}
		hanging.Add(1)
		context.AfterFunc(q.Context(), func() { hanging.Add(-1) })
		return true
	}})
	for i := range 90 {
		path, form := "/revoke", url.Values{"token": {fmt.Sprint("x", i)}, "client_id": {"app"}}
		switch i % 3 {
		case 1:
			path, form = "/token", url.Values{"grant_type": {"authorization_code"}, "code": {fmt.Sprint("x", i)}, "client_id": {"app"}}
		case 2:
			path, form = "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint("x", i)}, "client_id": {"app"}}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("User-Agent", "stranger")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
		cancel()
	}
	waitFor(t, "few hang", func() bool { return hanging.Load() <= 10 })
	if hanging.Load() == 0 {
		t.Error("none hangs: nothing was tried")
	}
	if got := r.again(k.RefreshToken); got.AccessToken == "" || got.byBackup() {
		t.Errorf("a session meanwhile: %v", got)
	}
}

// Bodies that are being received are bounded, and one network cannot take all places.
func TestBodiesThatNeverEnd(t *testing.T) {
	l := newLenient(t)
	r := newRig(t, l.url, func(x *gateway.Tenant) { x.InFlight = 40; x.Trusted = append(x.Trusted, loopback()) })
	k := r.code()
	fill := func(from string, n int) (refused int) {
		host := strings.TrimPrefix(r.url, "http://")
		for range n {
			c, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			fmt.Fprintf(c, "POST /token HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nx=", host, from)
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if b, _ := io.ReadAll(c); strings.HasPrefix(string(b), "HTTP/1.1 503 ") && strings.Contains(string(b), "Retry-After") {
				refused++
			}
		}
		return refused
	}
	if n := fill("192.0.2.1", 13); n != 3 {
		t.Errorf("%d of 13 bodies of one network are refused, want 3", n)
	}
	if got := r.again(k.RefreshToken); got.AccessToken == "" {
		t.Errorf("another network meanwhile: %v", got)
	}
}
