package gateway_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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

// provider is an understudy in front of a real oidc-provider with a public client, which gives tokens for resources.
type provider struct {
	*rig
	op       *idptest.OIDCProvider
	verifier string
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := must(idptest.FreePort())
	op, err := idptest.StartOIDCProvider(t.Context(), t.TempDir(), idptest.OIDCProviderOptions{
		Issuer: fmt.Sprintf("http://127.0.0.1:%d", port),
		Clients: []map[string]any{
			{"client_id": "app", "token_endpoint_auth_method": "none", "grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"}, "redirect_uris": []string{callback}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Kill)
	return &provider{rig: newRigAt(t, port, op.URL()), op: op}
}

func (x *provider) ask(client, responseType, redirect string) url.Values {
	x.verifier = rand43()
	sum := sha256.Sum256([]byte(x.verifier))
	return url.Values{
		"client_id": {client}, "response_type": {responseType}, "scope": {"openid profile"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {redirect},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
}

func (x *provider) redeem(client, code, redirect string) session.Object {
	x.t.Helper()
	resp := must(http.PostForm(x.url+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "client_id": {client}, "code_verifier": {x.verifier}}))
	defer resp.Body.Close()
	o, _ := session.ParseObject(must(io.ReadAll(resp.Body)))
	return o
}

// What the gateway does not read of a request, and the primary does, is not what was asked without it: the token of a resource server is not
// given to who asks for none (design, law 2), nor where the same browser waits for the answer to a request that has the same state.
func TestARequestThatIsReadOtherwiseIsNotLearned(t *testing.T) {
	x := newProvider(t)
	for name, c := range map[string]struct {
		junk  string
		first bool // the same without it was asked before, and waits for its answer
	}{
		"a semicolon":                             {junk: ";v"},
		"a broken escape":                         {junk: "%zz"},
		"a semicolon, with another's state":       {junk: ";v", first: true},
		"a parameter twice, with another's state": {junk: "&x=1&x=2", first: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &idptest.Browser{}
			at := must(b.Visit(t.Context(), x.url+"/auth?"+x.ask("app", "code", callback).Encode(), callback, map[string]string{"login": "alice", "password": "pw"}))
			if o := x.redeem("app", at.Query().Get("code"), callback); o.Text("access_token") == "" || strings.Contains(o.Text("access_token"), ".") {
				t.Fatalf("the primary gives for no resource: %s", o.Append(nil))
			}
			waitFor(t, "it is learned", func() bool { return x.learnedFlow("authorization") > 0 })
			n := x.learnedFlow("authorization")
			q := x.ask("app", "code", callback)
			if c.first {
				signedOut := &idptest.Browser{}
				signedOut.Take("understudy", b)
				if resp, _, err := signedOut.Get(t.Context(), x.url+"/auth?"+q.Encode()); err != nil || !strings.Contains(resp.Header.Get("Location"), "/interaction/") {
					t.Fatal(err, resp)
				}
			}
			at = must(b.Visit(t.Context(), x.url+"/auth?"+q.Encode()+"&resource=https://api.example.test/"+c.junk, callback, map[string]string{"login": "alice", "password": "pw"}))
			if o := x.redeem("app", at.Query().Get("code"), callback); strings.Count(o.Text("access_token"), ".") != 2 {
				t.Fatalf("the primary gives for the resource: %s, %s", o.Append(nil), at)
			}
			for range 20 {
				if x.learnedFlow("authorization") > n {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			x.op.Kill()
			defer func() { x.op.Restart(t.Context()); x.back() }()
			resp, _, err := b.Get(t.Context(), x.url+"/auth?"+x.ask("app", "code", callback).Encode())
			if err != nil {
				t.Fatal(err)
			}
			l, err := resp.Location()
			if err != nil || l.Query().Get("code") == "" {
				return // the primary gave the browser another cookie, and of what that opens nothing is known
			}
			if p := strings.Split(x.redeem("app", l.Query().Get("code"), callback).Text("access_token"), "."); len(p) == 3 {
				var c map[string]any
				must(0, json.Unmarshal(must(base64.RawURLEncoding.DecodeString(p[1])), &c))
				t.Errorf("who asked for no resource has a token for %v", c["aud"])
			}
		})
	}
}
