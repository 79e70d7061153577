package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// An application on the person's machine comes back at another port each time (RFC 8252, section 7.3). It is let in at a port that
// the primary has not seen only once the primary has shown that it takes any.
func TestPortsOfNativeApplications(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	administer(t, kc, http.MethodPost, "rot/clients", map[string]any{
		"clientId": "native", "publicClient": true, "standardFlowEnabled": true, "redirectUris": []string{"http://127.0.0.1/native", "http://localhost/native"},
		"attributes": map[string]string{"pkce.code.challenge.method": "S256"},
	})
	b := &idptest.Browser{}
	at := func(uri string) *tab { return r.tab("rot", "native", "", b).with("redirect_uri", uri) }
	signIn := func(uri string) {
		t.Helper()
		was := r.learnedFlow("authorization")
		x := at(uri)
		u, err := b.Visit(t.Context(), r.realm("rot")+"/protocol/openid-connect/auth?"+x.query.Encode(), uri, map[string]string{"username": "alice", "password": "pw-alice"})
		if err != nil {
			t.Fatal(err)
		}
		if k := x.redeem(u.Query().Get("code")); k.AccessToken == "" {
			t.Fatalf("%v", k)
		}
		waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > was })
	}
	lets := func(t *testing.T, uri string) {
		t.Helper()
		x := at(uri)
		resp, _ := x.once()
		u, err := resp.Location()
		if err != nil || !strings.HasPrefix(u.String(), uri+"?") {
			t.Errorf("%d %v", resp.StatusCode, err)
			return
		}
		if k := x.redeem(u.Query().Get("code")); !k.byBackup() {
			t.Errorf("%v", k)
		}
		// The code is bound to the port that asked for it.
		x = at(uri)
		resp, _ = x.once()
		u, err = resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		if k := x.redeem(u.Query().Get("code"), func(f url.Values) { f.Set("redirect_uri", "http://127.0.0.1:1/native") }); k.AccessToken != "" {
			t.Error("a code is redeemed for another port")
		}
	}
	refuses := func(t *testing.T, uri string) {
		t.Helper()
		if resp, _ := at(uri).once(); resp.Header.Get("Location") != "" {
			t.Errorf("%s: %s", uri, resp.Header.Get("Location"))
		}
	}
	one, two, three := "http://127.0.0.1:40001/native", "http://127.0.0.1:40002/native", "http://127.0.0.1:40003/native"
	dead := func(yes bool) {
		x := idptest.Fault{}
		if yes {
			x.Kind = idptest.Refuse
		}
		fault(t, f, x)
	}
	signIn(one)
	signIn(one)
	dead(true)
	t.Run("one port", func(t *testing.T) {
		lets(t, one)
		refuses(t, two)
	})
	dead(false)
	r.back()
	signIn(two)
	dead(true)
	defer dead(false)
	t.Run("two ports", func(t *testing.T) {
		for _, uri := range []string{one, two, three} {
			lets(t, uri)
		}
		for i, uri := range []string{
			"http://127.0.0.1:40003/native2", "http://127.0.0.1:40003/", "http://localhost:40003/native", "http://127.0.0.1@evil.example:40003/native",
			"https://127.0.0.1:40003/native", "http://127.0.0.1:40003/native?x=y", "http://127.0.0.1/native", "http://127.0.0.2:40003/native",
			"http://127.0.0.1:x/native", "http://127.0.0.1:*/native",
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) { refuses(t, uri) })
		}
	})
}
