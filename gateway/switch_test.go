package gateway_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/idptest"
)

// switching is a primary that replaces its session cookie when another person signs in, without a logout between: as those do that
// sign people in by Kerberos or a certificate.
type switching struct {
	*httptest.Server
	mu       sync.Mutex
	next     string            // who signs in where a person is asked
	sessions map[string]string // by cookie
	codes    map[string][2]string
	key      *rsa.PrivateKey
	issuer   string
	deny     atomic.Bool // whoever asks is refused
}

func newSwitching(t *testing.T, issuer string) *switching {
	p := &switching{sessions: map[string]string{}, codes: map[string][2]string{}, key: must(rsa.GenerateKey(rand.Reader, 2048)), issuer: issuer}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	show := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		show(w, map[string]any{
			"issuer": issuer, "authorization_endpoint": issuer + "/auth", "token_endpoint": issuer + "/token", "jwks_uri": issuer + "/jwks",
			"response_types_supported": []string{"code", "none"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		show(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	})
	answer := func(w http.ResponseWriter, r *http.Request, user string) {
		q := r.URL.Query()
		out := url.Values{"state": {q.Get("state")}}
		if p.deny.Load() {
			out.Set("error", "access_denied")
		} else if q.Get("response_type") == "code" {
			code := rand.Text()
			p.codes[code] = [2]string{user, q.Get("nonce")}
			out.Set("code", code)
		}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+out.Encode(), http.StatusFound)
	}
	mux.HandleFunc("/auth", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		user := ""
		if c, err := r.Cookie("_session"); err == nil {
			user = p.sessions[c.Value]
		}
		if user == "" || r.URL.Query().Get("prompt") == "login" {
			http.Redirect(w, r, p.issuer+"/login?"+r.URL.RawQuery, http.StatusFound)
			return
		}
		answer(w, r, user)
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		id := rand.Text()
		p.sessions[id] = p.next
		http.SetCookie(w, &http.Cookie{Name: "_session", Value: id, Path: "/", HttpOnly: true})
		answer(w, r, p.next)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		of, ok := p.codes[r.PostFormValue("code")]
		if !ok {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant"}`)
			return
		}
		delete(p.codes, r.PostFormValue("code"))
		now := time.Now().Unix()
		signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.key}, (&jose.SignerOptions{}).WithHeader("kid", "k1")))
		jwt := func(c map[string]any) string {
			c["iss"], c["sub"], c["iat"], c["exp"], c["auth_time"] = p.issuer, of[0], now, now+300, now
			return must(must(signer.Sign(must(json.Marshal(c)))).CompactSerialize())
		}
		show(w, map[string]any{
			"access_token": jwt(map[string]any{"aud": "api", "client_id": "app", "jti": rand.Text()}), "token_type": "Bearer", "expires_in": 300,
			"id_token": jwt(map[string]any{"aud": "app", "nonce": of[1]}), "scope": "openid",
		})
	})
	return p
}

// Somebody else signs in with the browser, and the code of that is never redeemed; then an application asks only whether somebody is
// signed in. The former person's doors must not open to the new one's session.
func TestASwitchThatNobodyRedeemedOpensNothing(t *testing.T) {
	port := must(idptest.FreePort())
	issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
	p := newSwitching(t, issuer)
	r := newRigAt(t, port, p.URL)
	b := &idptest.Browser{}
	ask := func(change url.Values) url.Values {
		v := rand43()
		sum := sha256.Sum256([]byte(v))
		q := url.Values{
			"client_id": {"app"}, "response_type": {"code"}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "verifier": {v},
		}
		for n, vs := range change {
			q[n] = vs
		}
		return q
	}
	open := func(q url.Values) *url.URL {
		t.Helper()
		send := url.Values{}
		for n, vs := range q {
			if n != "verifier" && vs[0] != "" {
				send[n] = vs
			}
		}
		at, err := b.Visit(t.Context(), issuer+"/auth?"+send.Encode(), callback, nil)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	redeem := func(q url.Values, code string) *tokens {
		t.Helper()
		resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "client_id": {"app"}, "code_verifier": q["verifier"]})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		k := &tokens{status: resp.StatusCode}
		must(0, json.NewDecoder(resp.Body).Decode(k))
		return k
	}
	p.next = "alice"
	q := ask(nil)
	n := r.learnedFlow("authorization")
	if k := redeem(q, open(q).Query().Get("code")); k.claim("sub") != "alice" {
		t.Fatalf("%v", k)
	}
	waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
	p.next = "bob"
	if at := open(ask(url.Values{"prompt": {"login"}})); at.Query().Get("code") == "" { // the application never redeems it
		t.Fatalf("%s", at)
	}
	n = r.learnedFlow("authorization")
	if at := open(ask(url.Values{"response_type": {"none"}, "nonce": {""}, "code_challenge": {""}, "code_challenge_method": {""}})); at.Query().Get("error") != "" {
		t.Fatalf("%s", at)
	}
	for range 30 {
		if r.learnedFlow("authorization") > n {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second)
	p.Server.Close()
	// Bob's browser, which holds bob's session.
	q = ask(nil)
	send := url.Values{}
	for n, vs := range q {
		if n != "verifier" {
			send[n] = vs
		}
	}
	resp, _, err := b.Get(t.Context(), issuer+"/auth?"+send.Encode())
	if err != nil {
		t.Fatal(err)
	}
	at, err := resp.Location()
	if err != nil || at.Query().Get("code") == "" {
		return
	}
	if k := redeem(q, at.Query().Get("code")); k.AccessToken != "" {
		t.Errorf("bob's session opens what was %s's: by the backup %v", k.claim("sub"), k.byBackup())
	}
}
