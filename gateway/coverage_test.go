package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"understudy/admin"
	"understudy/coverage"
	"understudy/idptest"
)

// status asks the running process as the command does.
func (r *rig) status() *admin.Status {
	r.t.Helper()
	var st admin.Status
	if err := (&admin.Client{Socket: filepath.Join(r.dir, "admin.sock")}).Get(r.t.Context(), "/v1/status", &st); err != nil {
		r.t.Fatal(err)
	}
	return &st
}

// inShort are rows of a coverage table, in order, without numbers of exchanges and words.
func inShort(rows []coverage.Row) (out []string) {
	for _, r := range rows {
		line := fmt.Sprintf("%s%s | %s | %s | %d of %d", r.Application, r.Resource, r.Flow, strings.Join(r.ClientAuth, " "), r.Servable, r.Sessions)
		for _, w := range r.Why {
			line += fmt.Sprintf(" | %d %s", w.Sessions, w.Reason)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// as authenticates a client with its secret.
func as(client string) func(*http.Request) {
	return func(q *http.Request) { q.SetBasicAuth(client, client+"-secret") }
}

// An application mix at a real Keycloak: the table says what could be served and why the rest could not, and when Keycloak
// is killed it is so.
func TestCoverageOfAMix(t *testing.T) {
	kc := keycloak(t)
	client := func(id string, more map[string]any) {
		c := map[string]any{
			"clientId": id, "secret": id + "-secret", "protocol": "openid-connect", "publicClient": false, "standardFlowEnabled": true,
			"redirectUris": []string{callback}, "attributes": map[string]string{},
		}
		for k, v := range more {
			c[k] = v
		}
		administer(t, kc, http.MethodPost, "rot/clients", c)
	}
	client("mix-hs", map[string]any{"attributes": map[string]string{"id.token.signed.response.alg": "HS256"}})
	client("mix-ropc", map[string]any{"directAccessGrantsEnabled": true})
	client("mix-wanderer", map[string]any{"serviceAccountsEnabled": true})
	client("mix-never", nil) // nobody signs in
	r := newRig(t, kc.URL())
	grant := func(id string, form url.Values) *tokens {
		t.Helper()
		k := r.token("rot", form, as(id))
		if k.AccessToken == "" {
			t.Fatalf("%s: %v", id, k)
		}
		return k
	}

	// Alice and Bob at a single-page application, Alice at a server-side one in the same browser.
	alice, bob := &idptest.Browser{}, &idptest.Browser{}
	spa := r.tab("rot", "spa", "", alice).signIn("alice")
	r.tab("rot", "spa", "", bob).signIn("bob")
	web := r.tab("rot", "web", "web-secret", alice).signIn("")
	// The rest is not protected, or not all of it.
	hs := r.tab("rot", "mix-hs", "mix-hs-secret", alice)
	signed := hs.redeem(hs.open("").Query().Get("code"))
	ropc := grant("mix-ropc", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {"pw-alice"}, "scope": {"openid"}})
	grant("svc", url.Values{"grant_type": {"client_credentials"}})
	for _, scope := range []string{"openid", "profile", "email", "openid profile", "openid email", "profile email"} {
		grant("mix-wanderer", url.Values{"grant_type": {"client_credentials"}, "scope": {scope}})
	}
	p := &prover{t: t, r: r, key: must(idptest.KeycloakClientKey())}
	if k := p.post(p.assertion(), url.Values{"grant_type": {"client_credentials"}}); k.AccessToken == "" {
		t.Fatalf("jwtc: %v", k)
	}
	// A stranger, and an application at which nobody is signed in, are in no row.
	r.token("rot", url.Values{"grant_type": {"client_credentials"}}, as("mix-stranger"))
	r.tab("rot", "mix-never", "", &idptest.Browser{}).once()

	want := []string{
		"jwtc | client_credentials | private_key_jwt | 0 of 1 | 1 client_assertion",
		"mix-hs | authorization | client_secret_basic | 0 of 1 | 1 symmetric_signature",
		"mix-hs | refresh_token | client_secret_basic | 0 of 1 | 1 symmetric_signature",
		"mix-ropc | refresh_token | client_secret_basic | 0 of 1 | 1 password",
		"mix-wanderer | client_credentials | client_secret_basic | 0 of 6 | 6 other_scopes",
		"spa | authorization | none | 2 of 2",
		"spa | refresh_token | none | 2 of 2",
		"svc | client_credentials | client_secret_basic | 1 of 1",
		"web | authorization | client_secret_basic | 1 of 1",
		"web | refresh_token | client_secret_basic | 1 of 1",
	}
	var got *coverage.Table
	waitFor(t, "all was learned", func() bool {
		got = r.status().Tenants[0].Coverage
		return slices.Equal(inShort(got.Applications), want)
	})
	if rows := inShort(got.Applications); !slices.Equal(rows, want) {
		t.Fatalf("the table is\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
	var text strings.Builder
	got.Text(&text)
	t.Log(text.String())
	for _, row := range got.Applications {
		for _, w := range row.Why {
			if w.Text == "" || w.Mend == "" {
				t.Errorf("%s: %s is without words", row.Application, w.Reason)
			}
		}
	}
	wantResources := []string{
		"account | authorization | client_secret_basic none | 3 of 4 | 1 symmetric_signature",
		"account | client_credentials | client_secret_basic private_key_jwt | 1 of 8 | 6 other_scopes | 1 client_assertion",
		"account | refresh_token | client_secret_basic none | 3 of 5 | 1 password | 1 symmetric_signature",
		"svc | authorization | client_secret_basic | 1 of 1",
		"svc | refresh_token | client_secret_basic | 1 of 1",
	}
	if rows := inShort(got.Resources); !slices.Equal(rows, wantResources) {
		t.Errorf("the resources are\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(wantResources, "\n"))
	}
	metric := func(name, rest string) string {
		return r.metrics("understudy_coverage_" + name + "{")["understudy_coverage_"+name+rest]
	}
	if v := metric("unserved", `{flow="refresh_token",reason="password",tenant="default"}`); v != "1" {
		t.Errorf("the metric of what is not served: %q", v)
	}

	kc.Kill()
	defer kc.Restart(context.Background())
	for _, c := range []struct {
		name   string
		got    *tokens
		served bool
	}{
		{"spa", r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {spa.RefreshToken}, "client_id": {"spa"}}, func(q *http.Request) { q.Header.Del("Authorization") }), true},
		{"web", r.refresh("rot", web.RefreshToken), true},
		{"svc", r.token("rot", url.Values{"grant_type": {"client_credentials"}}, as("svc")), true},
		{"mix-hs", r.refresh("rot", signed.RefreshToken, as("mix-hs")), false},
		{"mix-ropc", r.refresh("rot", ropc.RefreshToken, as("mix-ropc")), false},
		{"mix-wanderer", r.token("rot", url.Values{"grant_type": {"client_credentials"}, "scope": {"openid profile email"}}, as("mix-wanderer")), false},
		{"jwtc", p.post(p.assertion(), url.Values{"grant_type": {"client_credentials"}}), false},
	} {
		if served := c.got.AccessToken != ""; served != c.served {
			t.Errorf("%s in the outage: %v", c.name, c.got)
		}
	}
	if code, _ := r.tab("rot", "spa", "", alice).silent(); code == "" {
		t.Error("the single-page application is not let in")
	}
}
