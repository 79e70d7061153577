package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
	"understudy/session"
)

// Opaque tokens that a service got for itself are answered for, the primary's and the backup's, in JSON and in a JWT (RFC 9701), to
// whom the primary told of them; one of before goes on when the service has got another.
func TestOpaqueTokensOfServices(t *testing.T) {
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := must(idptest.FreePort())
	op, err := idptest.StartOIDCProvider(t.Context(), t.TempDir(), idptest.OIDCProviderOptions{
		Issuer: fmt.Sprintf("http://127.0.0.1:%d", port),
		Clients: []map[string]any{
			{"client_id": "svc", "client_secret": "svc-secret", "grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{}},
			{"client_id": "rs", "client_secret": "rs-secret", "grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{}, "introspection_signed_response_alg": "RS256"},
			{"client_id": "rs2", "client_secret": "rs2-secret", "grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Kill)
	r := newRigAt(t, port, op.URL())
	ask := func(caller, at, accept string, form url.Values) (status int, contentType, body string) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+at, strings.NewReader(form.Encode())))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", accept)
		req.SetBasicAuth(caller, caller+"-secret")
		resp := must(http.DefaultClient.Do(req))
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(must(io.ReadAll(resp.Body)))
	}
	get := func() string {
		t.Helper()
		_, _, b := ask("svc", "/token", "application/json", url.Values{"grant_type": {"client_credentials"}})
		return must(session.ParseObject([]byte(b))).Text("access_token")
	}
	inJSON := func(caller, token string) session.Object {
		t.Helper()
		_, _, b := ask(caller, "/token/introspection", "application/json", url.Values{"token": {token}})
		return must(session.ParseObject([]byte(b)))
	}
	inJWT := func(token string) (kidOf string, claims session.Object) {
		t.Helper()
		s, c, b := ask("rs", "/token/introspection", "application/token-introspection+jwt", url.Values{"token": {token}})
		if s != http.StatusOK || !strings.HasPrefix(c, "application/token-introspection+jwt") {
			t.Fatalf("%d %s %s", s, c, b)
		}
		h, claims := r.verified(t, r.url+"/jwks", b)
		if h.Text("typ") != "token-introspection+jwt" || claims.Text("aud") != "rs" || claims.Text("iss") != r.url {
			t.Errorf("%s %s", h.Append(nil), claims.Append(nil))
		}
		return h.Text("kid"), must(session.ParseObject(claims.Get("token_introspection")))
	}
	first := get()
	if first == "" || strings.Contains(first, ".") {
		t.Fatalf("no opaque token: %s", first)
	}
	waitFor(t, "the service is learned", func() bool { return r.learnedFlow("client_credentials") > 1 }) // the request, and the token
	learned := r.learnedFlow("introspection")
	_, wasJWT := inJWT(first)
	waitFor(t, "who is told in a JWT is learned", func() bool { return r.learnedFlow("introspection") > learned })
	was := inJSON("rs2", first)
	waitFor(t, "who is told in JSON is learned", func() bool { return r.learnedFlow("introspection") > learned+1 })
	second := get()
	waitFor(t, "the next token is learned", func() bool { return r.learnedFlow("client_credentials") > 2 })
	r.publishes(r.url, r.url+"/jwks")
	op.Kill()
	third := get()
	if third == "" {
		t.Fatal("the service gets nothing")
	}
	for name, token := range map[string]string{"the first": first, "the second": second, "the backup's": third} {
		now := inJSON("rs2", token)
		if strings.Join(now.Names(), " ") != strings.Join(was.Names(), " ") || string(now.Get("active")) != "true" || now.Text("client_id") != "svc" {
			t.Errorf("%s: %s\nthe primary: %s", name, now.Append(nil), was.Append(nil))
		}
		kidOf, nowJWT := inJWT(token)
		if !strings.HasPrefix(kidOf, "bk-") || strings.Join(nowJWT.Names(), " ") != strings.Join(wasJWT.Names(), " ") || string(nowJWT.Get("active")) != "true" {
			t.Errorf("%s, in a JWT by %s: %s\nthe primary: %s", name, kidOf, nowJWT.Append(nil), wasJWT.Append(nil))
		}
	}
	for name, c := range map[string][2]string{"a token of nobody's": {"rs2", third[:len(third)-4] + "AAAA"}, "who was never told": {"svc", first}} {
		if o := inJSON(c[0], c[1]); o.Has("active") {
			t.Errorf("%s: %s", name, o.Append(nil))
		}
	}
	if s, _, b := ask("rs2", "/token/introspection", "application/token-introspection+jwt", url.Values{"token": {first}}); s == http.StatusOK {
		t.Errorf("who was never told in a JWT: %s", b)
	}
	if err := op.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.back()
	if o := inJSON("rs2", third); string(o.Get("active")) != "true" {
		t.Errorf("the backup's, when the primary is back: %s", o.Append(nil))
	}
	learned = r.learnedFlow("client_credentials")
	get()
	waitFor(t, "the service is learned anew", func() bool { return r.learnedFlow("client_credentials") > learned+1 })
	if o := inJSON("rs2", third); string(o.Get("active")) != "true" {
		t.Errorf("the backup's, when the service has got another: %s", o.Append(nil))
	}
}
