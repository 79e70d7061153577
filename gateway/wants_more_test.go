package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// What the primary refused without a person at one port of a native application, though it be a new one, it refused at every other (RFC 8252,
// section 7.3). A request that names a person, a session or an age may have been refused for that alone, and takes nothing from one that
// does not.
func TestWhatARefusalOfThePersonIsAbout(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	addClient(t, kc, "rot", "native2", "client-secret", map[string]any{
		"publicClient": true, "redirectUris": []string{"http://127.0.0.1/native2"}, "attributes": map[string]string{"pkce.code.challenge.method": "S256"},
	})
	one, two := "http://127.0.0.1:40001/native2", "http://127.0.0.1:40002/native2"
	three, four := "http://127.0.0.1:40003/native2", "http://127.0.0.1:40004/native2" // where nobody was let in before
	at := func(b *idptest.Browser, uri string) *tab {
		return r.tab("rot", "native2", "", b).with("redirect_uri", uri)
	}
	signIn := func(b *idptest.Browser, uri string) (k *tokens) {
		t.Helper()
		was := r.learnedFlow("authorization")
		x := at(b, uri)
		u, err := b.Visit(t.Context(), r.realm("rot")+"/protocol/openid-connect/auth?"+x.query.Encode(), uri, map[string]string{"username": "alice", "password": "pw-alice"})
		if err != nil {
			t.Fatal(err)
		}
		if k = x.redeem(u.Query().Get("code")); k.AccessToken == "" {
			t.Fatalf("%v", k)
		}
		waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > was })
		return k
	}
	lets := func(b *idptest.Browser, uri string) bool {
		t.Helper()
		resp, _ := at(b, uri).once()
		return strings.HasPrefix(resp.Header.Get("Location"), uri+"?") && strings.Contains(resp.Header.Get("Location"), "code=")
	}
	refused, named, hinted, aged := &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}
	hint := ""
	for _, b := range []*idptest.Browser{refused, named, hinted, aged} {
		signIn(b, one)
		k := signIn(b, two)
		if b == hinted {
			hint = k.IDToken
		}
	}
	// Alice has to do something first, whatever is asked for.
	setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{"UPDATE_PASSWORD"}})
	for b, more := range map[*idptest.Browser]url.Values{
		refused: nil, named: {"login_hint": {"alice"}}, hinted: {"id_token_hint": {hint}}, aged: {"max_age": {"3600"}},
	} {
		x := at(b, four).with("prompt", "none")
		for name, vs := range more {
			x.with(name, vs[0])
		}
		resp, body := x.once()
		if u, err := resp.Location(); err != nil || u.Query().Get("error") != "interaction_required" {
			t.Fatalf("the primary, with %v: %d %v %.200s", more, resp.StatusCode, err, body)
		}
	}
	setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{}})
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	for _, c := range []struct {
		name string
		b    *idptest.Browser
		uri  string
		want bool
	}{
		{"at the port that was refused", refused, four, false},
		{"at one that was approved", refused, one, false},
		{"at one that nobody saw", refused, three, false},
		{"who named herself", named, four, true},
		{"who named her session", hinted, four, true},
		{"who named an age", aged, four, true},
		{"who named an age, at a port that nobody saw", aged, three, true},
	} {
		if got := lets(c.b, c.uri); got != c.want {
			t.Errorf("%s: let in %v", c.name, got)
		}
	}
	if resp, _ := at(refused, three).once(); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", resp.StatusCode)
	}
}
