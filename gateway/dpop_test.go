package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"understudy/audit"
	"understudy/idptest"
)

// holder makes DPoP proofs (RFC 9449) of one key.
type holder struct {
	t   *testing.T
	r   *rig
	key *ecdsa.PrivateKey
}

func newHolder(t *testing.T, r *rig) *holder {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{t, r, k}
}

func (h *holder) proof(method, at, token string, change ...func(map[string]any)) string {
	h.t.Helper()
	claims := map[string]any{"htm": method, "htu": at, "iat": time.Now().Unix(), "jti": rand.Text()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for _, c := range change {
		c(claims)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: h.key}, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *holder) atToken(change ...func(map[string]any)) string {
	return h.proof("POST", h.r.realm("rot")+"/protocol/openid-connect/token", "", change...)
}

// with lets a request carry a proof.
func with(proof string) func(*http.Request) {
	return func(q *http.Request) {
		q.Header.Del("Authorization")
		if proof != "" {
			q.Header.Set("DPoP", proof)
		}
	}
}

func (h *holder) refresh(token, proof string) *tokens {
	return h.r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"spa"}}, with(proof))
}

// userInfo asks UserInfo with a scheme and a proof.
func (h *holder) userInfo(scheme, token, proof string) (status int) {
	h.t.Helper()
	q, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, h.r.realm("rot")+"/protocol/openid-connect/userinfo", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	q.Header.Set("Authorization", scheme+" "+token)
	if proof != "" {
		q.Header.Set("DPoP", proof)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// What is bound to a key (RFC 9449) goes on for who proves to possess it, bound to the same key, and for nobody else.
func TestDPoP(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	mine, other := newHolder(t, r), newHolder(t, r)
	b := &idptest.Browser{}
	redeem := func(x *tab, code, proof string) *tokens {
		return r.token("rot", url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {x.verifier}, "client_id": {"spa"},
		}, with(proof))
	}
	n := r.learnedFlow("authorization")
	x := r.tab("rot", "spa", "", b)
	k := redeem(x, x.open("alice").Query().Get("code"), mine.atToken())
	if k.RefreshToken == "" {
		t.Fatalf("%v", k)
	}
	_, was := r.claims(t, "rot", k.AccessToken)
	if !was.Has("cnf") {
		t.Fatal("the primary binds nothing")
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > n })
	settled()
	kc.Kill()
	defer kc.Restart(ctx)

	used := mine.atToken()
	got := mine.refresh(k.RefreshToken, used)
	if !got.byBackup() {
		t.Fatalf("not served: %v", got)
	}
	if _, c := r.claims(t, "rot", got.AccessToken); string(c.Get("cnf")) != string(was.Get("cnf")) {
		t.Errorf("bound to %s, the primary bound to %s", c.Get("cnf"), was.Get("cnf"))
	}
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	for name, c := range map[string]struct{ proof, rule string }{
		"no proof":        {"", "dpop_mismatch"},
		"another key":     {other.atToken(), "dpop_mismatch"},
		"replayed":        {used, "dpop_replayed"},
		"another method":  {mine.atToken(set("htm", "GET")), "dpop_refused"},
		"another URL":     {mine.atToken(set("htu", "https://other.example/token")), "dpop_refused"},
		"too old":         {mine.atToken(set("iat", time.Now().Add(-time.Hour).Unix())), "dpop_refused"},
		"from the future": {mine.atToken(set("iat", time.Now().Add(time.Hour).Unix())), "dpop_refused"},
		"no jti":          {mine.atToken(func(c map[string]any) { delete(c, "jti") }), "dpop_refused"},
		"no proof at all": {"x", "dpop_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			if k := mine.refresh(k.RefreshToken, c.proof); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
			r.line(t, c.rule, func(e audit.Entry) bool {
				return e.Flow == "refresh_token" && e.Decision == "refused" && e.Rule == c.rule
			})
		})
	}
	at := r.realm("rot") + "/protocol/openid-connect/userinfo"
	for name, c := range map[string]struct {
		scheme, proof string
		want          int
	}{
		"mine":                      {"DPoP", mine.proof("GET", at, got.AccessToken), http.StatusOK},
		"as a bearer":               {"Bearer", "", http.StatusUnauthorized},
		"another key's":             {"DPoP", other.proof("GET", at, got.AccessToken), http.StatusUnauthorized},
		"made for another token":    {"DPoP", mine.proof("GET", at, k.AccessToken), http.StatusBadRequest},
		"made for no token":         {"DPoP", mine.proof("GET", at, ""), http.StatusBadRequest},
		"made for another endpoint": {"DPoP", mine.proof("POST", at, got.AccessToken), http.StatusBadRequest},
	} {
		t.Run("UserInfo "+name, func(t *testing.T) {
			if s := mine.userInfo(c.scheme, got.AccessToken, c.proof); s != c.want {
				t.Errorf("%d, want %d", s, c.want)
			}
		})
	}
	t.Run("a browser with a new key", func(t *testing.T) {
		fresh := newHolder(t, r)
		x := r.tab("rot", "spa", "", b)
		code, _ := x.silent()
		got := redeem(x, code, fresh.atToken())
		if !got.byBackup() {
			t.Fatalf("%v", got)
		}
		_, c := r.claims(t, "rot", got.AccessToken)
		if string(c.Get("cnf")) == string(was.Get("cnf")) || !c.Has("cnf") {
			t.Errorf("bound to %s", c.Get("cnf"))
		}
		if s := fresh.userInfo("DPoP", got.AccessToken, fresh.proof("GET", at, got.AccessToken)); s != http.StatusOK {
			t.Errorf("UserInfo: %d", s)
		}
		if s := mine.userInfo("DPoP", got.AccessToken, mine.proof("GET", at, got.AccessToken)); s != http.StatusUnauthorized {
			t.Errorf("UserInfo with the old key: %d", s)
		}
		x = r.tab("rot", "spa", "", b)
		code, _ = x.silent()
		if k := redeem(x, code, ""); k.AccessToken != "" {
			t.Errorf("bound to nothing: %v", k)
		}
	})
	t.Run("after a restart, a used one is used", func(t *testing.T) {
		r.restart()
		if k := mine.refresh(k.RefreshToken, used); k.AccessToken != "" {
			t.Errorf("%v", k)
		}
		if k := mine.refresh(k.RefreshToken, mine.atToken()); !k.byBackup() {
			t.Errorf("%v", k)
		}
	})
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the primary goes on with the same token and key", func() bool {
		k := mine.refresh(k.RefreshToken, mine.atToken())
		return k.AccessToken != "" && !strings.HasPrefix(k.kid(t), "bk-")
	})
}

// What a client pushed with a proof (RFC 9449, section 10.1) is for the key that was proved, at the primary or here.
func TestDPoPOfPushedRequests(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	mine, other := newHolder(t, r), newHolder(t, r)
	b := &idptest.Browser{}
	at := r.realm("rot") + "/protocol/openid-connect/ext/par/request"
	push := func(change ...func(*http.Request)) (*tab, int) {
		return r.tab("rot", "web", "web-secret", b).push(change...)
	}
	by := func(proof string) func(*http.Request) {
		return func(q *http.Request) { q.Header.Set("DPoP", proof) }
	}
	redeem := func(x *tab, code, proof string) *tokens {
		return r.token("rot", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {x.verifier}}, by(proof))
	}
	n := r.learnedFlow("authorization")
	x, _ := push(by(mine.proof("POST", at, "")))
	if k := redeem(x, x.open("alice").Query().Get("code"), mine.atToken()); k.AccessToken == "" {
		t.Fatalf("the primary: %v", k)
	}
	waitFor(t, "it is learned", func() bool {
		return r.learnedFlow("authorization") > n && r.learnedFlow("pushed_authorization_request") > 0
	})
	before, _ := push(by(mine.proof("POST", at, "")))
	settled()
	kc.Kill()
	defer kc.Restart(context.Background())

	used := mine.proof("POST", at, "")
	here, status := push(by(used))
	if status != http.StatusCreated {
		t.Fatalf("the push: %d", status)
	}
	for name, x := range map[string]*tab{"pushed to the primary": before, "pushed here": here} {
		t.Run(name, func(t *testing.T) {
			x.t = t
			code, _ := x.silent()
			for who, proof := range map[string]string{"another key": other.atToken(), "no key": ""} {
				if k := redeem(x, code, proof); k.AccessToken != "" {
					t.Errorf("%s: %v", who, k)
				}
			}
			r.line(t, "another key", func(e audit.Entry) bool { return e.Flow == "authorization_code" && e.Rule == "dpop_mismatch" })
			if k := redeem(x, code, mine.atToken()); !k.byBackup() {
				t.Errorf("%v", k)
			}
		})
	}
	for name, c := range map[string]struct{ proof, rule string }{
		"replayed": {used, "dpop_replayed"}, "of the token endpoint": {mine.atToken(), "dpop_refused"}, "none at all": {"x", "dpop_refused"},
	} {
		if _, status := push(by(c.proof)); status < 400 {
			t.Errorf("pushed with a proof %s: %d", name, status)
		}
		r.line(t, c.rule, func(e audit.Entry) bool { return e.Flow == "pushed_authorization_request" && e.Rule == c.rule })
	}
	x, status = push()
	if status == http.StatusCreated {
		if resp, _ := x.once(); resp.Header.Get("Location") != "" {
			t.Error("pushed without a key, what was approved with one")
		}
	}
}

func (k *tokens) kid(t *testing.T) string {
	t.Helper()
	head, _, _ := strings.Cut(k.AccessToken, ".")
	_, kid, _ := strings.Cut(decoded(t, head), `"kid"`)
	_, kid, _ = strings.Cut(kid, `"`)
	kid, _, _ = strings.Cut(kid, `"`)
	return kid
}
