package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/session"
)

// A service's own token shows what it is: whoever the primary told of such tokens is told of the backup's, though nothing is kept of them,
// until they are over.
func TestIntrospectionOfAServicesOwnToken(t *testing.T) {
	kc := keycloak(t)
	addClient(t, kc, "rot", "robot", "client-secret", map[string]any{"secret": "robot-secret", "protocolMappers": []map[string]any{{
		"name": "for svc", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
		"config": map[string]string{"included.client.audience": "svc", "access.token.claim": "true", "introspection.token.claim": "true"},
	}}})
	r := newRig(t, kc.URL())
	ask := func() *tokens {
		t.Helper()
		return r.token("rot", url.Values{"grant_type": {"client_credentials"}}, func(q *http.Request) { q.SetBasicAuth("robot", "robot-secret") })
	}
	introspected := func(token string) (int, session.Object) {
		t.Helper()
		return r.introspect("rot", "svc", "svc-secret", token)
	}
	active := func(o session.Object) bool { return string(o.Get("active")) == "true" }
	first := ask()
	s, was := introspected(first.AccessToken)
	if s != http.StatusOK || !active(was) {
		t.Fatalf("the primary does not tell: %d %s", s, was.Append(nil))
	}
	waitFor(t, "both are learned", func() bool { return r.learnedFlow("client_credentials") > 0 && r.learnedFlow("introspection") > 0 })
	kc.Kill()
	defer kc.Restart(t.Context())

	one, two := ask(), ask()
	if !fromBackup(one) || !fromBackup(two) {
		t.Fatalf("not served: %v, %v", one, two)
	}
	look := r.seal.Lookup(session.AccessToken, "default", r.realm("rot"), one.AccessToken)
	if st, err := r.backup.Standing(t.Context(), "default", look); err != nil || st.Known {
		t.Errorf("it has a door: %v, %v", st, err)
	}
	told := func(t *testing.T) {
		t.Helper()
		s, now := introspected(one.AccessToken)
		if s != http.StatusOK || !active(now) || !slices.Equal(was.Names(), now.Names()) {
			t.Fatalf("%d %s, the primary said %s", s, now.Append(nil), was.Append(nil))
		}
		var claims map[string]json.RawMessage
		must(0, json.Unmarshal([]byte(decoded(t, strings.Split(one.AccessToken, ".")[1])), &claims))
		for _, m := range now {
			want := string(was.Get(m.Name))
			switch m.Name {
			case "exp", "iat", "jti":
				want = string(claims[m.Name])
			}
			if string(m.Value) != want {
				t.Errorf("%s is %s, want %s", m.Name, m.Value, want)
			}
		}
	}
	told(t)
	t.Run("after a restart", func(t *testing.T) {
		r.restart()
		told(t)
	})
	refused := func(t *testing.T, code, token string) {
		t.Helper()
		if s, o := introspected(token); active(o) {
			t.Errorf("%d %s", s, o.Append(nil))
		}
		r.line(t, "the refusal", func(e audit.Entry) bool {
			return e.Flow == "introspection" && e.Decision == "refused" && e.Rule == code
		})
	}
	t.Run("another caller", func(t *testing.T) {
		if s, o := r.introspect("rot", "web", "web-secret", one.AccessToken); s < 400 || o.Has("active") {
			t.Errorf("%d %s", s, o.Append(nil))
		}
	})
	t.Run("forged", func(t *testing.T) {
		parts := strings.Split(one.AccessToken, ".")
		refused(t, "no_record", parts[0]+"."+parts[1]+"."+strings.Split(two.AccessToken, ".")[2])
	})
	t.Run("at UserInfo", func(t *testing.T) {
		q := must(http.NewRequestWithContext(t.Context(), http.MethodGet, r.realm("rot")+"/protocol/openid-connect/userinfo", nil))
		q.Header.Set("Authorization", "Bearer "+one.AccessToken)
		if s, b := r.asks(q); s < 400 {
			t.Errorf("%d %s", s, b)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		q := r.about("rot", "/revoke", two.AccessToken)
		q.SetBasicAuth("robot", "robot-secret")
		if s, b := r.asks(q); s != http.StatusOK {
			t.Fatalf("%d %s", s, b)
		}
		refused(t, "revoked", two.AccessToken)
		told(t) // the other one
		if k := ask(); !fromBackup(k) {
			t.Errorf("the service has ended: %v", k)
		}
	})
	t.Run("when the primary is back", func(t *testing.T) {
		if err := kc.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.back()
		told(t)
		if _, o := introspected(two.AccessToken); active(o) {
			t.Errorf("what was revoked: %s", o.Append(nil))
		}
	})
	t.Run("the service is ended", func(t *testing.T) {
		m := session.Mark{Of: session.OfClient, ID: r.seal.Pseudonym("client", "default", r.realm("rot"), "robot"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
		must(0, r.backup.Mark(t.Context(), "default", m))
		if _, o := introspected(one.AccessToken); active(o) {
			t.Errorf("%s", o.Append(nil))
		}
	})
}
