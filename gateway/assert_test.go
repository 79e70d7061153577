package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
)

// prover makes client assertions (RFC 7523) of Keycloak's client jwtc.
type prover struct {
	t   *testing.T
	r   *rig
	key *rsa.PrivateKey
	n   int
}

func (p *prover) assertion(change ...func(map[string]any)) string {
	p.t.Helper()
	p.n++
	now := time.Now()
	claims := map[string]any{
		"iss": "jwtc", "sub": "jwtc", "aud": p.r.realm("rot"), "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	for _, c := range change {
		c(claims)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.key}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	a, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// post asks the token endpoint with an assertion.
func (p *prover) post(assertion string, form url.Values) *tokens {
	p.t.Helper()
	form.Set("client_assertion", assertion)
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	return p.r.token("rot", form, func(q *http.Request) { q.Header.Del("Authorization") })
}

func (p *prover) refresh(assertion, token string) *tokens {
	return p.post(assertion, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

func (p *prover) service(assertion string) *tokens {
	return p.post(assertion, url.Values{"grant_type": {"client_credentials"}})
}

func (p *prover) signIn(user string) *tokens {
	p.t.Helper()
	b := &idptest.Browser{}
	q := url.Values{"client_id": {"jwtc"}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}, "redirect_uri": {"http://127.0.0.1:9999/cb"}}
	at, err := b.Visit(p.t.Context(), p.r.realm("rot")+"/protocol/openid-connect/auth?"+q.Encode(), "http://127.0.0.1:9999/cb", map[string]string{"username": user, "password": "pw-" + user})
	if err != nil {
		p.t.Fatal(err)
	}
	k := p.post(p.assertion(), url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {"http://127.0.0.1:9999/cb"}})
	if k.RefreshToken == "" {
		p.t.Fatalf("sign in: %v", k)
	}
	return k
}

// keysOf is a client's registered key set.
func keysOf(t *testing.T, keys ...*rsa.PrivateKey) *proof.ClientKeys {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	out, err := proof.ParseClientKeys(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A client that proves itself with its registered key (private_key_jwt) goes on without the primary by fresh assertions of
// that key, and by nothing weaker.
func TestPrivateKeyJWT(t *testing.T) {
	kc := keycloak(t)
	key, err := idptest.KeycloakClientKey()
	if err != nil {
		t.Fatal(err)
	}
	second, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.ClientKeys = map[string]*proof.ClientKeys{"jwtc": keysOf(t, key, second)}
	})
	p := &prover{t: t, r: r, key: key}
	bob := p.signIn("bob")
	r.learned("rot", bob.RefreshToken)
	used := p.assertion()
	if k := p.service(used); k.AccessToken == "" || fromBackup(k) {
		t.Fatalf("the service, at the primary: %v", k)
	}
	waitFor(t, "the service is learned", func() bool {
		for name := range r.metrics("understudy_learned_total") {
			if strings.Contains(name, `"client_credentials"`) {
				return true
			}
		}
		return false
	})
	if k := p.service(used); k.status != http.StatusUnauthorized && k.status != http.StatusBadRequest {
		t.Fatalf("the primary takes an assertion twice: %v", k)
	}
	kc.Kill()
	defer kc.Restart(context.Background())

	good := p.assertion()
	k := p.refresh(good, bob.RefreshToken)
	if !k.byBackup() {
		t.Fatalf("not served: %v", k)
	}
	r.line(t, "the answer", func(e audit.Entry) bool {
		return e.Flow == "refresh_token" && e.Client == "jwtc" && e.Decision == "issued"
	})
	if k := p.service(p.assertion()); !fromBackup(k) {
		t.Errorf("the service is not served: %v", k)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	by := func(key *rsa.PrivateKey) *prover { return &prover{t: t, r: r, key: key} }
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	for name, c := range map[string]struct {
		assertion, rule string
	}{
		"replayed":                             {good, "assertion_replayed"},
		"one that the primary took":            {used, "assertion_replayed"},
		"of a key that the primary never took": {by(second).assertion(), "client_unknown_secret"},
		"of another key":                       {by(other).assertion(), "assertion_refused"},
		"expired":                              {p.assertion(set("exp", time.Now().Add(-time.Minute).Unix()), set("iat", time.Now().Add(-2*time.Minute).Unix())), "assertion_refused"},
		"not valid yet":                        {p.assertion(set("nbf", time.Now().Add(time.Hour).Unix())), "assertion_refused"},
		"for another audience":                 {p.assertion(set("aud", "https://other.example")), "assertion_refused"},
		"for another audience too":             {p.assertion(set("aud", []string{r.realm("rot"), "https://other.example"})), "assertion_refused"},
		"for another realm":                    {p.assertion(set("aud", r.realm("norot"))), "assertion_refused"},
		"valid for days":                       {p.assertion(set("exp", time.Now().Add(48*time.Hour).Unix())), "assertion_refused"},
		"without jti":                          {p.assertion(func(c map[string]any) { delete(c, "jti") }), "assertion_refused"},
		"by another issuer":                    {p.assertion(set("iss", "web")), "assertion_refused"},
		"unsigned":                             {strings.Join(strings.Split(p.assertion(), ".")[:2], ".") + ".", "assertion_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			if k := p.refresh(c.assertion, bob.RefreshToken); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
			if k := p.service(c.assertion); k.AccessToken != "" {
				t.Errorf("the service: %v", k)
			}
			r.line(t, c.rule, func(e audit.Entry) bool { return e.Client == "jwtc" && e.Decision == "refused" && e.Rule == c.rule })
		})
	}
	t.Run("no weaker method", func(t *testing.T) {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {bob.RefreshToken}}
		for name, change := range map[string]func(*http.Request){
			"a secret":       func(q *http.Request) { q.SetBasicAuth("jwtc", "secret") },
			"another client": func(*http.Request) {},
		} {
			if k := r.token("rot", form, change); k.AccessToken != "" {
				t.Errorf("%s: %v", name, k)
			}
		}
		form.Set("client_id", "jwtc")
		if k := r.token("rot", form, func(q *http.Request) { q.Header.Del("Authorization") }); k.AccessToken != "" {
			t.Errorf("its name alone: %v", k)
		}
	})
	t.Run("after a restart, a used one is used", func(t *testing.T) {
		r.restart()
		if k := p.refresh(good, bob.RefreshToken); k.AccessToken != "" {
			t.Errorf("%v", k)
		}
		if k := p.refresh(p.assertion(), bob.RefreshToken); !k.byBackup() {
			t.Errorf("a fresh one: %v", k)
		}
	})
}

// Without the client's keys nothing is learned of it: what could not be checked again is not (design, law 5).
func TestPrivateKeyJWTWithoutKeys(t *testing.T) {
	kc := keycloak(t)
	key, err := idptest.KeycloakClientKey()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, kc.URL())
	p := &prover{t: t, r: r, key: key}
	bob := p.signIn("bob")
	waitFor(t, "it is counted as not learned", func() bool {
		for name := range r.metrics("understudy_unlearned_total") {
			if strings.Contains(name, `"client_assertion"`) {
				return true
			}
		}
		return false
	})
	kc.Kill()
	defer kc.Restart(context.Background())
	if k := p.refresh(p.assertion(), bob.RefreshToken); k.AccessToken != "" {
		t.Errorf("%v", k)
	}
}
