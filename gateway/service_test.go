package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/session"
)

// asService asks for a token of the service's own, with its secret.
func (r *rig) asService(secret, more string, change ...func(*http.Request)) *tokens {
	r.t.Helper()
	form, _ := url.ParseQuery(more)
	form.Set("grant_type", "client_credentials")
	change = append([]func(*http.Request){func(q *http.Request) { q.SetBasicAuth("svc", secret) }}, change...)
	return r.token("norot", form, change...)
}

func fromBackup(k *tokens) bool { return strings.HasPrefix(kid(k.AccessToken), "bk-") }

// A client that asks for itself (RFC 6749, section 4.4) goes on for exactly what the primary approved, and for nothing else.
func TestAServiceGoesOnWithoutItsPrimary(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	get(t, r.realm("rot")+"/.well-known/openid-configuration") // that the issuer is known
	healthy := r.asService("svc-secret", "")
	if healthy.AccessToken == "" || fromBackup(healthy) {
		t.Fatalf("the primary does not answer: %v", healthy)
	}
	waitFor(t, "the service is learned", func() bool {
		for name, v := range r.metrics("understudy_learned_total") {
			if strings.Contains(name, `"client_credentials"`) && v != "0" {
				return true
			}
		}
		return false
	})
	kc.Kill()
	defer kc.Restart(ctx)

	got := r.asService("svc-secret", "")
	if !fromBackup(got) {
		t.Fatalf("not served: %v", got)
	}
	r.line(t, "the service's answer", func(e audit.Entry) bool {
		return e.Flow == "client_credentials" && e.Client == "svc" && e.Decision == "issued" && e.TokenIssuerType == "backup" && strings.HasPrefix(e.Key, "bk-")
	})
	was, now := strings.Split(healthy.AccessToken, ".")[1], strings.Split(got.AccessToken, ".")[1]
	for _, claim := range []string{"iss", "sub", "azp", "scope", "client_id", "clientAddress", "preferred_username", "typ"} {
		if a, b := claimOf(was, claim), claimOf(now, claim); a != b {
			t.Errorf("claim %s is %q, the primary's %q", claim, b, a)
		}
	}
	if got.RefreshToken != "" || got.IDToken != "" {
		t.Error("the primary gave no refresh or ID token")
	}
	for name, ask := range map[string]func() *tokens{
		"a wrong secret":                 func() *tokens { return r.asService("svc-secret2", "") },
		"no secret":                      func() *tokens { return r.asService("", "") },
		"a scope that was not asked for": func() *tokens { return r.asService("svc-secret", "scope=openid") },
		"a resource":                     func() *tokens { return r.asService("svc-secret", "resource=https://api.example") },
		"an audience":                    func() *tokens { return r.asService("svc-secret", "audience=web") },
		"another client with this one's secret": func() *tokens {
			return r.asService("svc-secret", "", func(q *http.Request) { q.SetBasicAuth("web", "svc-secret") })
		},
		"another client with its own secret": func() *tokens {
			return r.asService("svc-secret", "", func(q *http.Request) { q.SetBasicAuth("web", "web-secret") })
		},
		"another realm": func() *tokens {
			return r.token("rot", url.Values{"grant_type": {"client_credentials"}}, func(q *http.Request) { q.SetBasicAuth("svc", "svc-secret") })
		},
		"by an assertion": func() *tokens {
			return r.asService("svc-secret", "client_assertion=x&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		},
	} {
		if got := ask(); got.AccessToken != "" || got.Error != "temporarily_unavailable" && got.Error != "invalid_client" {
			t.Errorf("%s: %v", name, got)
		}
	}
	t.Run("after a restart, which forgets what it derived", func(t *testing.T) {
		r.restart()
		if got := r.asService("svc-secret", ""); !fromBackup(got) {
			t.Fatalf("not served: %v", got)
		}
	})
	t.Run("guesses at speed", func(t *testing.T) {
		limited := false
		for i := range 40 {
			got := r.asService("guess"+strings.Repeat("x", i), "")
			if got.AccessToken != "" {
				t.Fatal("a guess was right")
			}
			limited = limited || strings.Contains(got.Description, "limited")
		}
		if !limited {
			t.Error("forty guesses were tried")
		}
		if got := r.asService("svc-secret", ""); !fromBackup(got) {
			t.Errorf("the guesses lock the service out: %v", got)
		}
	})
	t.Run("revoked by the operator", func(t *testing.T) {
		m := session.Mark{Of: session.OfClient, ID: r.seal.Pseudonym("client", "default", r.realm("norot"), "svc"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
		if err := r.backup.Mark(ctx, "default", m); err != nil {
			t.Fatal(err)
		}
		got := r.asService("svc-secret", "")
		if got.AccessToken != "" || !strings.Contains(got.Description, "revoked") {
			t.Errorf("%v", got)
		}
		r.line(t, "the refusal", func(e audit.Entry) bool {
			return e.Flow == "client_credentials" && e.Decision == "refused" && e.Rule == "revoked"
		})
	})
}

// A secret that the primary has refused, or that gave way to another, opens nothing in the next outage.
func TestAServiceWhoseSecretTheBackupMustNotTake(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	if got := r.asService("svc-secret", ""); got.AccessToken == "" {
		t.Fatalf("%v", got)
	}
	waitFor(t, "the service is learned", func() bool { return len(r.metrics("understudy_learned_total")) > 0 })
	r.restart() // which forgets the derived secret: the refusal must be kept all the same
	setSecret(t, kc, "norot", "svc", "another-secret")
	defer func() { setSecret(t, kc, "norot", "svc", "svc-secret") }()
	if got := r.asService("svc-secret", ""); got.AccessToken != "" {
		t.Fatalf("the primary takes the old secret: %v", got)
	}
	time.Sleep(1100 * time.Millisecond) // Keycloak writes behind
	kc.Kill()
	got := r.asService("svc-secret", "")
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got.AccessToken != "" {
		t.Errorf("a secret that the primary refused is taken: %v", got)
	}
	r.line(t, "the refusal", func(e audit.Entry) bool {
		return e.Flow == "client_credentials" && e.Decision == "refused" && e.Rule == "client_secret_refused"
	})
}
