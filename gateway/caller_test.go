package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
	"understudy/session"
)

// A resource server that proves itself by an assertion is told of tokens in an outage by fresh ones, each once, and in no weaker way.
func TestIntrospectionByAnAssertion(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	key := must(idptest.KeycloakClientKey())
	addClient(t, kc, "rot", "asked", "client-secret", map[string]any{"secret": "asked-secret", "protocolMappers": []map[string]any{{
		"name": "aud", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
		"config": map[string]string{"included.client.audience": "jwtc", "access.token.claim": "true", "id.token.claim": "false"},
	}}})
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) { x.ClientKeys = map[string]*proof.ClientKeys{"jwtc": keysOf(t, key)} })
	ask := func(token string, form url.Values) (int, session.Object) {
		t.Helper()
		form.Set("token", token)
		q := must(http.NewRequestWithContext(ctx, http.MethodPost, r.realm("rot")+"/protocol/openid-connect/token/introspect", strings.NewReader(form.Encode())))
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		s, b := r.asks(q)
		o, err := session.ParseObject(b)
		if err != nil {
			t.Fatalf("%d %s", s, b)
		}
		return s, o
	}
	by := func(assertion string) url.Values {
		return url.Values{"client_assertion": {assertion}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	}
	fresh := func() string { return r.asserts("jwtc", jose.RS256, key, nil) }
	x := r.tab("rot", "asked", "asked-secret", &idptest.Browser{})
	k := x.signIn("alice")
	atPrimary := fresh()
	if s, o := ask(k.AccessToken, by(atPrimary)); string(o.Get("active")) != "true" {
		t.Fatalf("the primary: %d %s", s, o.Append(nil))
	}
	waitFor(t, "who is told is learned", func() bool { return r.learnedFlow("introspection") > 0 })
	again := fresh() // within what is learned once in a while
	if s, o := ask(k.AccessToken, by(again)); string(o.Get("active")) != "true" {
		t.Fatalf("the primary: %d %s", s, o.Append(nil))
	}
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	now := x.refreshed(k)
	if !now.byBackup() {
		t.Fatalf("%v", now)
	}
	used := fresh()
	for name, token := range map[string]string{"the primary's": k.AccessToken, "the backup's": now.AccessToken} {
		assertion := fresh()
		if name == "the backup's" {
			assertion = used
		}
		if s, o := ask(token, by(assertion)); s != http.StatusOK || string(o.Get("active")) != "true" {
			t.Errorf("%s token: %d %s", name, s, o.Append(nil))
		}
	}
	other := must(rsa.GenerateKey(rand.Reader, 2048))
	for name, c := range map[string]struct {
		form url.Values
		rule string
	}{
		"replayed":                          {by(used), "assertion_replayed"},
		"one that the primary took":         {by(atPrimary), "assertion_replayed"},
		"another one that the primary took": {by(again), "assertion_replayed"},
		"another key's":                     {by(r.asserts("jwtc", jose.RS256, other, nil)), "assertion_refused"},
		"its name alone":                    {url.Values{"client_id": {"jwtc"}}, "client_unauthenticated"},
		"a secret":                          {url.Values{"client_id": {"jwtc"}, "client_secret": {"secret"}}, ""},
		"the name of whose token it is":     {url.Values{"client_id": {"asked"}}, "client_unauthenticated"},
		"a public client's name":            {url.Values{"client_id": {"spa"}}, "client_unauthenticated"},
		"an assertion of whom nobody told":  {by(r.asserts("web", jose.RS256, key, nil)), ""},
		"an assertion, and another's secret": {func() url.Values {
			f := by(fresh())
			f.Set("client_secret", "web-secret")
			f.Set("client_id", "web")
			return f
		}(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if s, o := ask(now.AccessToken, c.form); s < 400 || o.Has("active") {
				t.Errorf("%d %s", s, o.Append(nil))
			}
			if c.rule != "" {
				r.line(t, c.rule, func(e audit.Entry) bool {
					return e.Flow == "introspection" && e.Decision == "refused" && e.Rule == c.rule
				})
			}
		})
	}
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r.back()
	if s, o := ask(now.AccessToken, by(fresh())); s != http.StatusOK || string(o.Get("active")) != "true" {
		t.Errorf("when the primary is back: %d %s", s, o.Append(nil))
	}
	if s, o := ask(now.AccessToken, by(used)); s < 400 || o.Has("active") {
		t.Errorf("when the primary is back, one that was used here: %d %s", s, o.Append(nil))
	}
}
