package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/gateway"
	"understudy/health"
	"understudy/idptest"
	"understudy/session"
)

// raw sends a request as it is, byte for byte, and returns what came back.
func (r *rig) raw(head, body string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, head+"\r\n"+body); err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// A request that the gateway's transport does not take is quoted in its error: no text of an error is a sign of a dead primary.
func TestARequestThatCannotBeSent(t *testing.T) {
	t.Run("a trailer", func(t *testing.T) {
		kc := keycloak(t)
		r := newRig(t, kc.URL())
		bob := r.signIn("norot", "bob")
		var all []*tokens
		for range 4 {
			all = append(all, r.signIn("norot", "alice"))
		}
		enabled(t, kc, "norot", "alice", false)
		defer enabled(t, kc, "norot", "alice", true)
		for _, k := range all {
			form := plainRefresh(k).Encode()
			got := r.raw("POST /realms/norot/protocol/openid-connect/token HTTP/1.1\r\nHost: "+strings.TrimPrefix(r.url, "http://")+
				"\r\nAuthorization: Basic "+base64.StdEncoding.EncodeToString([]byte("web:web-secret"))+
				"\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\nTrailer: tls: x\r\n",
				fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(form), form))
			if strings.Contains(got, "access_token") {
				t.Error("the backup answers for who is disabled at a primary that serves")
			}
		}
		if k := r.refresh("norot", bob.RefreshToken); k.byBackup() {
			t.Error("one client opened the breaker")
		}
	})
	t.Run("an upgrade by HTTP 2", func(t *testing.T) {
		s := newSigner(t, "k1")
		var refuses atomic.Bool
		h2 := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if refuses.Load() && q.URL.Path == "/token" {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, `{"error":"invalid_grant"}`)
				return
			}
			s.ServeHTTP(w, q)
		}))
		h2.EnableHTTP2 = true
		h2.StartTLS()
		defer h2.Close()
		r := newRig(t, h2.URL, func(x *gateway.Tenant) {
			x.TLS = &tls.Config{InsecureSkipVerify: true}
			x.Health = health.Config{ProbeServing: time.Hour}
		})
		k := r.code()
		r.learnedAt(r.url, k.RefreshToken)
		refuses.Store(true)
		form := "grant_type=refresh_token&client_id=app&refresh_token=" + k.RefreshToken
		for range 3 {
			got := r.raw("POST /token HTTP/1.1\r\nHost: "+strings.TrimPrefix(r.url, "http://")+
				"\r\nConnection: Upgrade\r\nUpgrade: tls: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: "+fmt.Sprint(len(form))+"\r\n", form)
			if strings.Contains(got, "access_token") {
				t.Error("the backup answers what the primary refuses")
			}
		}
	})
}

// What was ended does not pass in another spelling of its token that the primary takes for the same.
func TestAnotherSpelling(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	k, old := r.signIn("norot", "alice"), r.signIn("norot", "bob")
	token := k.RefreshToken
	utf16 := func(s string) (out string) {
		for i := range len(s) {
			out += fmt.Sprintf("%%00%%%02x", s[i])
		}
		return out
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	at := func(d int) string { return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])^d]) }
	plain := func(s string) string { return "grant_type=refresh_token&refresh_token=" + url.QueryEscape(s) }
	type spelled struct{ contentType, body string }
	const form = "application/x-www-form-urlencoded"
	spellings := map[string]spelled{
		"bit 1": {form, plain(at(1))}, "bit 2": {form, plain(at(2))}, "bit 3": {form, plain(at(3))},
		"padding": {form, plain(token + "=")}, "a dot": {form, plain(token + ".")}, "a line": {form, plain(token) + "\r\n"},
		"blanks": {form, plain(" " + token + " ")}, "inside": {form, plain(token[:30] + "\n" + token[30:])},
		"alphabet":       {form, plain(strings.NewReplacer("-", "+", "_", "/").Replace(token))},
		"character set":  {form + "; charset=UTF-16BE", "grant_type=" + utf16("refresh_token") + "&refresh_token=" + utf16(token)},
		"character sets": {form + `; CharSet="utf-16"`, plain(token)},
	}
	ask := func(s spelled) *tokens {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.realm("norot")+"/protocol/openid-connect/token", strings.NewReader(s.body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", s.contentType)
		q.SetBasicAuth("web", "web-secret")
		return r.send(q)
	}
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.realm("norot"), k.claim("sub")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	for name, s := range spellings {
		t.Run(name, func(t *testing.T) {
			if got := ask(s); got.AccessToken != "" {
				t.Errorf("%v", got)
			}
		})
	}
	t.Run("revoked in an outage", func(t *testing.T) {
		token, last = old.RefreshToken, len(old.RefreshToken)-1
		fault(t, f, idptest.Fault{Kind: idptest.Refuse})
		waitFor(t, "the outage", func() bool { return r.refresh("norot", token).byBackup() })
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.realm("norot")+"/protocol/openid-connect/revoke", strings.NewReader(url.Values{"token": {token}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", form)
		q.SetBasicAuth("web", "web-secret")
		resp, err := http.DefaultClient.Do(q)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(err, resp)
		}
		resp.Body.Close()
		fault(t, f, idptest.Fault{})
		r.back()
		if got := ask(spelled{form, plain(at(1))}); got.AccessToken != "" {
			t.Errorf("%v", got)
		}
	})
}

// A logout that the primary answers with a page ends the session here too, until the primary approves it again.
func TestALogoutThatIsAnsweredWithAPage(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	all := map[string]*tokens{}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		all[method] = r.signIn("norot", "alice")
	}
	stays := r.signIn("norot", "alice")
	settled()
	for method, k := range all {
		// As a native application, a server or a frame without cookies asks.
		q, err := http.NewRequestWithContext(t.Context(), method, r.realm("norot")+"/protocol/openid-connect/logout?"+url.Values{"id_token_hint": {k.IDToken}}.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(method, err, resp)
		}
		resp.Body.Close()
	}
	kc.Kill()
	defer kc.Restart(context.Background())
	for method, k := range all {
		if got := r.refresh("norot", k.RefreshToken); got.AccessToken != "" {
			t.Errorf("%s: %v", method, got)
		}
	}
	if got := r.refresh("norot", stays.RefreshToken); !got.byBackup() {
		t.Errorf("who did not sign out: %v", got)
	}
}

// A caller of the introspection endpoint is authenticated by an answer, not by whatever comes with 200.
func TestIntrospectionWithoutAnAnswer(t *testing.T) {
	s := newSigner(t, "k1")
	s.change = func(doc map[string]any) { doc["introspection_endpoint"] = doc["issuer"].(string) + "/introspect" }
	var says atomic.Value
	says.Store("")
	primary := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/introspect" {
			s.ServeHTTP(w, q)
			return
		}
		contentType, body, odd := strings.Cut(says.Load().(string), " ")
		if odd {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, body)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, secret, _ := q.BasicAuth()
		switch {
		case secret != "rs-secret":
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error":"invalid_client"}`)
		case strings.HasPrefix(q.FormValue("token"), "opaque-"):
			io.WriteString(w, `{"active":true,"client_id":"app","sub":"alice","scope":"openid"}`)
		default:
			io.WriteString(w, `{"active":false}`)
		}
	}))
	t.Cleanup(primary.Close)
	f := behind(t, primary.URL)
	r := newRig(t, f.URL())
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	ask := func(secret, token string) string {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.SetBasicAuth("rs", secret)
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := ask("rs-secret", k.AccessToken); !strings.Contains(got, `"active":true`) {
		t.Fatalf("the primary: %s", got)
	}
	waitFor(t, "who is told is learned", func() bool { return r.learnedFlow("introspection") > 0 })
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	var own *tokens
	waitFor(t, "the outage", func() bool { own = r.again(k.RefreshToken); return own.byBackup() })
	fault(t, f, idptest.Fault{})
	r.back()
	if got := ask("rs-secret", own.AccessToken); !strings.Contains(got, `"active":true`) {
		t.Fatalf("who is told: %s", got)
	}
	for name, x := range map[string]string{
		"a page": "text/html <html>closed</html>", "nothing": "text/plain ", "JSON": `application/json {"message":"closed"}`, "a text": `application/json {"active":"true"}`,
	} {
		t.Run(name, func(t *testing.T) {
			says.Store(x)
			if got := ask("wrong", own.AccessToken); strings.Contains(got, `"active":true`) {
				t.Errorf("%s", got)
			}
		})
	}
}

// The reply that a code's client did not see is not given out when its session was ended meanwhile.
func TestAReplyThatWaitedForARevocation(t *testing.T) {
	l := newLenient(t)
	r := newRig(t, l.url)
	l.slow.Store(int64(300 * time.Millisecond))
	form := url.Values{"grant_type": {"authorization_code"}, "code": {"c1"}, "client_id": {"app"}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	r.ask(ctx, http.MethodPost, "/token", form)
	cancel()
	time.Sleep(600 * time.Millisecond)
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.url, "alice"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	if s, b, err := r.ask(t.Context(), http.MethodPost, "/token", form); err != nil || s != http.StatusBadRequest || strings.Contains(b, "access_token") {
		t.Errorf("%d %s %v", s, b, err)
	}
	if n := l.codes.Load(); n != 1 {
		t.Errorf("the code was sent %d times", n)
	}
}

// Strangers do not take the places of browser applications among the origins, and nobody is let in with everybody's cookies.
func TestOriginsOfStrangers(t *testing.T) {
	s := newSigner(t, "k1")
	s.change = func(doc map[string]any) { doc["revocation_endpoint"] = doc["issuer"].(string) + "/revoke" }
	var any atomic.Bool
	primary := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if o := q.Header.Get("Origin"); o != "" {
			w.Header().Set("Access-Control-Allow-Origin", o)
			w.Header().Set("Access-Control-Allow-Methods", "POST")
			if any.Load() {
				w.Header().Set("Access-Control-Allow-Origin", "*")
				w.Header().Set("Access-Control-Allow-Credentials", "true")
			}
		}
		if q.Method != http.MethodOptions && q.URL.Path != "/revoke" {
			s.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(primary.Close)
	f := behind(t, primary.URL)
	r := newRig(t, f.URL())
	do := func(method, path, origin, body string) int {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			q.Header.Set("Access-Control-Request-Method", "POST")
		} else {
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for i := range 1000 {
		do(http.MethodPost, "/revoke", fmt.Sprintf("https://x%d.example", i), "token=x&client_id=any")
	}
	k := r.code()
	r.learnedAt(r.url, k.RefreshToken)
	refresh := "grant_type=refresh_token&client_id=app&refresh_token=" + k.RefreshToken
	const app, wild = "https://app.example", "https://wild.example"
	do(http.MethodOptions, "/token", app, "")
	do(http.MethodPost, "/token", app, refresh)
	any.Store(true)
	do(http.MethodOptions, "/token", wild, "")
	do(http.MethodPost, "/token", wild, refresh)
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	waitFor(t, "the outage", func() bool { return r.again(k.RefreshToken).byBackup() })
	if s := do(http.MethodOptions, "/token", app, ""); s/100 != 2 {
		t.Errorf("the application's preflight: %d", s)
	}
	if s := do(http.MethodOptions, "/token", wild, ""); s/100 == 2 {
		t.Errorf("a preflight that browsers refuse: %d", s)
	}
}

// Where the disk is full no end is acknowledged that was to be carried out here, and nothing that may have ended goes on.
func TestNothingIsAcknowledgedOnAFullDisk(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(map[bool]string{false: "serving", true: "away"}[away], func(t *testing.T) {
			kc := keycloak(t)
			f := behind(t, kc.URL())
			r := newRig(t, f.URL())
			k := r.signIn("norot", "alice")
			if away {
				fault(t, f, idptest.Fault{Kind: idptest.Refuse})
				waitFor(t, "the outage", func() bool { return r.refresh("norot", k.RefreshToken).byBackup() })
			}
			r.full.Store(true)
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for name, c := range map[string]struct {
				at   string
				form url.Values
			}{
				"revoke": {"revoke", url.Values{"token": {k.RefreshToken}}},
				"logout": {"logout", url.Values{"refresh_token": {k.RefreshToken}}},
				"hint":   {"logout", url.Values{"id_token_hint": {k.IDToken}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}}},
			} {
				q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.realm("norot")+"/protocol/openid-connect/"+c.at, strings.NewReader(c.form.Encode()))
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				q.SetBasicAuth("web", "web-secret")
				resp, err := client.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if away && resp.StatusCode < 400 {
					t.Errorf("%s: %d", name, resp.StatusCode)
				}
			}
			// What the primary carried out may be acknowledged: nothing that it could have ended is played any more, nor after a
			// restart with an empty disk.
			r.full.Store(false)
			fault(t, f, idptest.Fault{Kind: idptest.Refuse})
			for range 2 {
				if got := r.refresh("norot", k.RefreshToken); got.AccessToken != "" {
					t.Errorf("it goes on: %v", got)
				}
				r.restart()
			}
		})
	}
}
