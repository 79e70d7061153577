package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// Whoever asks chooses how long the page is that posts the answer, by the state in it: it is read all the same.
func TestALongStateBringsBackNoSessionThatWasEndedHere(t *testing.T) {
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := must(idptest.FreePort())
	const app = "https://app.example/cb"
	op, err := idptest.StartOIDCProvider(t.Context(), t.TempDir(), idptest.OIDCProviderOptions{
		Issuer:  fmt.Sprintf("http://127.0.0.1:%d", port),
		Clients: []map[string]any{{"client_id": "imp", "token_endpoint_auth_method": "none", "grant_types": []string{"implicit"}, "response_types": []string{"id_token"}, "redirect_uris": []string{app}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Kill)
	r := newRigAt(t, port, op.URL())
	b := &idptest.Browser{}
	q := url.Values{"client_id": {"imp"}, "response_type": {"id_token"}, "scope": {"openid"}, "nonce": {rand43()}, "redirect_uri": {app}, "state": {"s"}}
	must(b.Visit(t.Context(), r.url+"/auth?"+q.Encode(), app, map[string]string{"login": "alice", "password": "pw"}))
	time.Sleep(1100 * time.Millisecond)
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.url, "alice"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	q.Set("response_mode", "form_post")
	q.Set("max_age", "86400") // so that the ID token says when she signed in
	q.Del("state")
	for name, state := range map[string]string{"short": "s", "long": strings.Repeat(`"`, 40_000)} {
		t.Run(name, func(t *testing.T) {
			resp, err := http.Post(r.url+"/request", "application/x-www-form-urlencoded", strings.NewReader(q.Encode()+"&state="+state))
			if err != nil {
				t.Fatal(err)
			}
			o, _ := session.ParseObject(must(io.ReadAll(resp.Body)))
			resp.Body.Close()
			if o.Text("request_uri") == "" {
				t.Fatalf("not pushed: %d %s", resp.StatusCode, o.Append(nil))
			}
			_, body, err := b.Clone().Get(t.Context(), r.url+"/auth?"+url.Values{"client_id": {"imp"}, "request_uri": {o.Text("request_uri")}}.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(body, `name="id_token"`) {
				t.Error("an ID token of a session that was ended here")
			}
		})
	}
}
