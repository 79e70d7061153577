package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signer is a primary whose key set and signing key can be changed, to see what the gateway publishes. Real ones don't
// lose their keys on demand.
type signer struct {
	*httptest.Server
	mu        sync.Mutex // guards what follows
	keys      map[string]*ecdsa.PrivateKey
	published []string
	signs     string
	raw       string // in place of the key set
	fetches   int
	change    func(doc map[string]any) // of the discovery document
	seq       int
}

func newSigner(t *testing.T, kids ...string) *signer {
	s := &signer{keys: map[string]*ecdsa.PrivateKey{}, published: kids, signs: kids[0]}
	for _, k := range append(kids, "stray") {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.keys[k] = key
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *signer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	iss := "http://" + r.Host
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		s.fetches++
		doc := map[string]any{
			"issuer": iss, "token_endpoint": iss + "/token", "jwks_uri": iss + "/jwks", "authorization_endpoint": iss + "/auth",
			"id_token_signing_alg_values_supported": []string{"ES256"},
		}
		if s.change != nil {
			s.change(doc)
		}
		json.NewEncoder(w).Encode(doc)
	case "/jwks":
		if s.raw != "" {
			io.WriteString(w, s.raw)
			return
		}
		var set jose.JSONWebKeySet
		for _, k := range s.published {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.keys[k].Public(), KeyID: k, Algorithm: "ES256", Use: "sig"})
		}
		json.NewEncoder(w).Encode(set)
	case "/token":
		if strings.HasPrefix(r.FormValue("grant_type"), "urn:understudy") {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"unsupported_grant_type"}`)
			return
		}
		sig, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.keys[s.signs], KeyID: s.signs}}, nil)
		if err != nil {
			panic(err)
		}
		now := time.Now()
		id, err := jwt.Signed(sig).Claims(map[string]any{"iss": iss, "sub": "alice", "aud": "app", "iat": now.Unix(), "exp": now.Unix() + 60}).Serialize()
		if err != nil {
			panic(err)
		}
		s.seq++
		fmt.Fprintf(w, `{"access_token":"opaque-opaque-opaque-opaque-opaque-opaque","token_type":"Bearer","expires_in":60,"refresh_token":"rt-%d","id_token":%q,"scope":"openid"}`, s.seq, id)
	default:
		w.WriteHeader(404)
	}
}

func (s *signer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func published(t *testing.T, r *rig) (kids []string) {
	t.Helper()
	_, body, _ := get(t, r.url+"/jwks")
	var set struct {
		Keys []struct{ Kid, Alg, Use string }
	}
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, k := range set.Keys {
		kids = append(kids, k.Kid)
	}
	return kids
}

func (r *rig) code() *tokens {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {"c"}, "client_id": {"app"}}
	req, _ := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+"/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r.send(req)
}

func (r *rig) again(refreshToken string) *tokens {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "client_id": {"app"}}
	req, _ := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+"/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r.send(req)
}

func (r *rig) send(req *http.Request) *tokens {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	out := &tokens{status: resp.StatusCode}
	json.NewDecoder(resp.Body).Decode(out)
	return out
}

func TestPublishedKeysAreThePrimarysAndTheBackups(t *testing.T) {
	s := newSigner(t, "k1", "k2")
	r := newRig(t, s.URL)
	if status, body, _ := get(t, r.url+"/.well-known/openid-configuration"); status != 200 || !strings.Contains(body, r.url) {
		t.Fatalf("%d %s", status, body)
	}
	kids := published(t, r)
	if !slices.Contains(kids, "k1") || !slices.Contains(kids, "k2") || !slices.ContainsFunc(kids, func(k string) bool { return strings.HasPrefix(k, "bk-") }) {
		t.Errorf("published: %v", kids)
	}
	seen := map[string]bool{}
	for _, k := range kids {
		if seen[k] {
			t.Errorf("kid %s twice", k)
		}
		seen[k] = true
	}
	_, _, h := get(t, r.url+"/jwks")
	req, _ := http.NewRequest(http.MethodGet, r.url+"/jwks", nil)
	req.Header.Set("If-None-Match", h.Get("ETag"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotModified || h.Get("Cache-Control") == "" {
		t.Errorf("status %d for the ETag that was just given, Cache-Control %q", resp.StatusCode, h.Get("Cache-Control"))
	}
	t.Run("asked for at the paths of MSAL", func(t *testing.T) {
		for _, at := range []string{"/v2.0/.well-known/openid-configuration", "/adfs/.well-known/openid-configuration"} {
			if status, body, _ := get(t, r.url+at); status != 200 || !strings.Contains(body, `"issuer"`) {
				t.Errorf("%s: %d %s", at, status, body)
			}
		}
	})
	t.Run("floods are answered from memory", func(t *testing.T) {
		before := 0
		s.set(func() { before = s.fetches })
		for range 200 {
			published(t, r)
			get(t, r.url+"/.well-known/openid-configuration")
		}
		s.set(func() {
			if s.fetches != before {
				t.Errorf("%d fetches for 400 questions", s.fetches-before)
			}
		})
	})
	t.Run("unknown paths cannot make it fetch without bound", func(t *testing.T) {
		n := 0
		s.set(func() { s.change = func(map[string]any) { n++ } })
		for i := range 50 {
			get(t, fmt.Sprintf("%s/realms/r%d/.well-known/openid-configuration", r.url, i%5))
		}
		if n > 20 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A key that vanishes is given up at once; while the primary itself still signs with it, it is held, and its tokens pass.
func TestAKeyThatVanishes(t *testing.T) {
	s := newSigner(t, "k1", "k2")
	r := newRig(t, s.URL)
	get(t, r.url+"/.well-known/openid-configuration")
	s.set(func() { s.published = []string{"k2"} })
	// A reply signed by an unknown key makes the gateway ask anew: so does this one.
	s.set(func() { s.signs = "stray" })
	if got := r.code(); got.AccessToken == "" {
		t.Fatalf("a first grant that the backup cannot judge passes: %+v", got)
	}
	first := r.again("rt-1")
	s.set(func() { s.signs = "k2" })
	good := r.code()
	if good.IDToken == "" {
		t.Fatalf("%+v (before: %+v)", good, first)
	}
	waitFor(t, "the vanished key is given up", func() bool { return !slices.Contains(published(t, r), "k1") })
	r.learnedAt(r.url, good.RefreshToken)
	s.set(func() { s.signs = "k1" })
	got := r.again(good.RefreshToken)
	if got.IDToken == "" || kid(got.IDToken) != "k1" {
		t.Fatalf("signed by the key that the primary no longer publishes: %d %s %s, kid %s", got.status, got.Error, got.Description, kid(got.IDToken))
	}
	if !slices.Contains(published(t, r), "k1") {
		t.Error("the key with which the primary signs is not held")
	}
}

// A reply whose ID token is signed by a key that the primary never published is no answer; its refresh token is kept.
func TestAStrayKey(t *testing.T) {
	s := newSigner(t, "k1")
	r := newRig(t, s.URL)
	get(t, r.url+"/.well-known/openid-configuration")
	good := r.code()
	r.learnedAt(r.url, good.RefreshToken)
	s.set(func() { s.signs = "stray" })
	got := r.again(good.RefreshToken)
	if !strings.HasPrefix(kid(got.IDToken), "bk-") || got.RefreshToken != good.RefreshToken {
		t.Fatalf("%d %s %s kid %s", got.status, got.Error, got.Description, kid(got.IDToken))
	}
	s.set(func() { s.signs = "k1" })
	again := r.again(good.RefreshToken)
	if kid(again.IDToken) != "k1" {
		t.Fatalf("%+v", again)
	}
}

// What must not replace a good copy does not, and a start in an outage has the last good one.
func TestTheLastGoodCopyStays(t *testing.T) {
	s := newSigner(t, "k1")
	r := newRig(t, s.URL)
	get(t, r.url+"/.well-known/openid-configuration")
	want := primarys(published(t, r))
	good := r.code()
	r.learnedAt(r.url, good.RefreshToken)
	for name, change := range map[string]func(){
		"no keys":    func() { s.raw = `{"keys":[]}` },
		"no key set": func() { s.raw = `<html>` },
		"keys of the backup's form": func() {
			s.raw = `{"keys":[{"kty":"EC","kid":"bk-x","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`
		},
		"another issuer":           func() { s.raw = ""; s.change = func(d map[string]any) { d["issuer"] = "https://evil.example" } },
		"tokens from another host": func() { s.change = func(d map[string]any) { d["token_endpoint"] = "https://evil.example/token" } },
		"keys from another host":   func() { s.change = func(d map[string]any) { d["jwks_uri"] = "https://evil.example/jwks" } },
	} {
		t.Run(name, func(t *testing.T) {
			s.set(change)
			s.set(func() { s.signs = "stray" }) // makes it ask anew, once in ten seconds
			r.again(good.RefreshToken)
			if got := primarys(published(t, r)); !slices.Equal(got, want) {
				t.Errorf("published %v, want %v", got, want)
			}
		})
	}
	s.Close()
	r2 := r.restart()
	if got := primarys(published(t, r2)); !slices.Equal(got, want) {
		t.Errorf("after a start in the outage: %v, want %v", got, want)
	}
	if got := r2.again(good.RefreshToken); !strings.HasPrefix(kid(got.IDToken), "bk-") {
		time.Sleep(300 * time.Millisecond) // the log is written in groups
		files, _ := filepath.Glob(r.dir + "/audit/*")
		for _, f := range files {
			b, _ := os.ReadFile(f)
			t.Logf("%s", b)
		}
		t.Errorf("after a start in the outage: %+v", got)
	}
}

// primarys are the key ids that are not the backup's.
func primarys(kids []string) []string {
	return slices.DeleteFunc(kids, func(k string) bool { return strings.HasPrefix(k, "bk-") })
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 300 {
		if f() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}
