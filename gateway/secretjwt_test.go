package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
)

// asserts signs a client assertion (RFC 7523) for a realm.
func (r *rig) asserts(client string, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any) string {
	r.t.Helper()
	o := &jose.SignerOptions{}
	for k, v := range header {
		o = o.WithHeader(k, v)
	}
	now := time.Now()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return must(jwt.Signed(s).Claims(map[string]any{
		"iss": client, "sub": client, "aud": r.realm("rot"), "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}).Serialize())
}

// asserted is a client's own request, proved by an assertion.
func (r *rig) asserted(assertion string) *tokens {
	r.t.Helper()
	return (&prover{t: r.t, r: r}).service(assertion)
}

// A client that signs its assertions with its secret (client_secret_jwt) goes on by fresh ones, where the secret is configured; a
// weaker way with the same secret is none, though the primary might take it.
func TestClientSecretJWT(t *testing.T) {
	kc := keycloak(t)
	secret := "a-secret-of-thirty-two-bytes-or-more"
	for _, id := range []string{"hmac", "unknown"} {
		addClient(t, kc, "rot", id, "client-secret-jwt", map[string]any{"secret": secret, "attributes": map[string]string{"token.endpoint.auth.signing.alg": "HS256"}})
	}
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.ClientSecrets = map[string]proof.Secret{"hmac": proof.Secret(secret)}
	})
	by := func(client, secret string) string { return r.asserts(client, jose.HS256, []byte(secret), nil) }
	n := r.learnedFlow("client_credentials")
	atPrimary := by("hmac", secret)
	if k := r.asserted(atPrimary); k.AccessToken == "" || fromBackup(k) {
		t.Fatalf("at the primary: %v", k)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("client_credentials") > n })
	if k := r.asserted(by("unknown", secret)); k.AccessToken == "" {
		t.Fatalf("at the primary: %v", k)
	}
	waitFor(t, "the other is not, and that is said", func() bool {
		for name := range r.metrics("understudy_unlearned_total") {
			if strings.Contains(name, `"client_assertion"`) {
				return true
			}
		}
		return false
	})
	kc.Kill()
	defer kc.Restart(context.Background())
	good := by("hmac", secret)
	if k := r.asserted(good); !fromBackup(k) {
		t.Fatalf("not served: %v", k)
	}
	for name, c := range map[string]struct{ assertion, rule string }{
		"replayed":                 {good, "assertion_replayed"},
		"one the primary took":     {atPrimary, "assertion_replayed"},
		"another secret":           {by("hmac", strings.Repeat("x", 40)), "assertion_refused"},
		"a secret not configured":  {by("unknown", secret), ""},
		"another client's":         {r.asserts("unknown", jose.HS256, []byte(secret), nil), ""},
		"by a key in its header":   {r.asserts("hmac", jose.HS256, []byte(strings.Repeat("x", 40)), map[jose.HeaderKey]any{"jwk": map[string]string{"kty": "oct", "k": "eHh4"}}), "assertion_refused"},
		"by a key that it names":   {r.asserts("hmac", jose.HS256, []byte(secret), map[jose.HeaderKey]any{"jku": "http://127.0.0.1:1/"}), "assertion_refused"},
		"by a key pair of its own": {r.asserts("hmac", jose.RS256, must(rsa.GenerateKey(rand.Reader, 2048)), nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if k := r.asserted(c.assertion); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
			if c.rule != "" {
				r.line(t, c.rule, func(e audit.Entry) bool { return e.Client == "hmac" && e.Decision == "refused" && e.Rule == c.rule })
			}
		})
	}
	t.Run("the secret itself", func(t *testing.T) {
		form := url.Values{"grant_type": {"client_credentials"}}
		if k := r.token("rot", form, func(q *http.Request) { q.SetBasicAuth("hmac", secret) }); k.AccessToken != "" {
			t.Errorf("%v", k)
		}
		form.Set("client_id", "hmac")
		form.Set("client_secret", secret)
		if k := r.token("rot", form, func(q *http.Request) { q.Header.Del("Authorization") }); k.AccessToken != "" {
			t.Errorf("in the form: %v", k)
		}
	})
	t.Run("after a restart, a used one is used", func(t *testing.T) {
		r.restart()
		if k := r.asserted(good); k.AccessToken != "" {
			t.Errorf("%v", k)
		}
		if k := r.asserted(by("hmac", secret)); !fromBackup(k) {
			t.Errorf("a fresh one: %v", k)
		}
	})
}

// A client's keys are fetched from its jwks_uri; the last good answer goes on holding, also at a start while the client's host
// and the primary are away.
func TestClientKeysOfURI(t *testing.T) {
	kc := keycloak(t)
	key, err := idptest.KeycloakClientKey()
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var answer atomic.Value
	set := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), Use: "sig", KeyID: "k1", Algorithm: "RS256"}}}))
	answer.Store(string(set))
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		if to, ok := strings.CutPrefix(answer.Load().(string), "to "); ok {
			http.Redirect(w, q, to, http.StatusFound)
			return
		}
		w.Write([]byte(answer.Load().(string)))
	}))
	defer host.Close()
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) { x.ClientKeyURIs = map[string]string{"jwtc": host.URL + "/jwks"} })
	by := func(header map[jose.HeaderKey]any) string { return r.asserts("jwtc", jose.RS256, key, header) }
	waitFor(t, "the keys are fetched", func() bool { return asked.Load() == 1 })
	n := r.learnedFlow("client_credentials")
	if k := r.asserted(by(nil)); k.AccessToken == "" || fromBackup(k) {
		t.Fatalf("at the primary: %v", k)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("client_credentials") > n })
	kc.Kill()
	defer kc.Restart(context.Background())
	if k := r.asserted(by(nil)); !fromBackup(k) {
		t.Fatalf("not served: %v", k)
	}
	other := must(rsa.GenerateKey(rand.Reader, 2048))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))})
	before := asked.Load()
	for name, a := range map[string]string{
		"an unknown key":              r.asserts("jwtc", jose.RS256, other, map[jose.HeaderKey]any{"kid": "k2"}),
		"another unknown key":         r.asserts("jwtc", jose.RS256, other, map[jose.HeaderKey]any{"kid": "k3"}),
		"a key in its header":         r.asserts("jwtc", jose.RS256, other, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: other.Public()}}),
		"keys at a URL of its own":    r.asserts("jwtc", jose.RS256, other, map[jose.HeaderKey]any{"jku": host.URL + "/evil"}),
		"a certificate's URL":         r.asserts("jwtc", jose.RS256, other, map[jose.HeaderKey]any{"x5u": host.URL + "/evil"}),
		"the public key for a secret": r.asserts("jwtc", jose.HS256, public, nil),
		"an octet key for a secret":   r.asserts("jwtc", jose.HS256, set, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if k := r.asserted(a); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
		})
	}
	if n := asked.Load() - before; n > 1 {
		t.Errorf("unknown keys made it fetch %d times", n)
	}
	for name, bad := range map[string]string{
		"no keys": "{}", "too large": `{"keys":[],"x":"` + strings.Repeat("x", proof.MaxClientKeys) + `"}`, "elsewhere": "to " + host.URL + "/x",
	} {
		t.Run("after a restart, "+name, func(t *testing.T) {
			answer.Store(bad)
			at := asked.Load()
			r.restart()
			waitFor(t, "they are asked for", func() bool { return asked.Load() > at })
			if k := r.asserted(by(nil)); !fromBackup(k) {
				t.Errorf("%v", k)
			}
			if name == "elsewhere" && asked.Load() != at+1 {
				t.Error("a redirect was followed")
			}
		})
	}
	t.Run("the client's host is away", func(t *testing.T) {
		host.Close()
		r.restart()
		if k := r.asserted(by(nil)); !fromBackup(k) {
			t.Errorf("%v", k)
		}
	})
}
