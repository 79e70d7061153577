package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/flow"
)

// What a body is read as decides what may be forbidden, and what is sent in its place must be the same but for the token.
func FuzzForm(f *testing.F) {
	f.Add("application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=a&refresh_token=b&x=%zz", "refresh_token=c")
	f.Add("application/json", `{"grant_type":"refresh_token","refresh_token":"a","n":1}`, "")
	f.Add("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"refresh_token\"\r\n\r\na\r\n--b--\r\n", "")
	f.Add("text/plain; charset=\"", "refresh_token=a", "%")
	f.Fuzz(func(t *testing.T, contentType, body, query string) {
		h := &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {contentType}}, URL: &url.URL{Path: "/token", RawQuery: query}}
		v := &visit{endpoint: flow.Token, request: &flow.Request{HTTP: h, Body: []byte(body), Endpoint: flow.Token}}
		v.readForm()
		all := v.spellings()
		if q, err := url.ParseQuery(query); err == nil {
			for _, token := range q["refresh_token"] {
				if !slices.Contains(all, token) {
					t.Errorf("a token in the query is not seen")
				}
			}
		}
		kind, _, _ := mime.ParseMediaType(contentType)
		form, err := url.ParseQuery(body)
		if kind == "application/x-www-form-urlencoded" && err == nil {
			for _, token := range form["refresh_token"] {
				if !slices.Contains(all, token) {
					t.Errorf("a token in the form is not seen")
				}
			}
		}
		if v.request.FormErr != nil || v.request.Form == nil || kind == "multipart/form-data" {
			return
		}
		out, err := v.withToken("new & + \"token\"")
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again := &visit{endpoint: flow.Token, request: &flow.Request{HTTP: h, Body: out, Endpoint: flow.Token}}
		again.readForm()
		if got := again.request.Form["refresh_token"]; len(got) != 1 || got[0] != "new & + \"token\"" {
			t.Fatalf("the token became %q", got)
		}
		for name, vs := range v.request.Form {
			if name != "refresh_token" && !slices.Equal(vs, again.request.Form[name]) {
				t.Errorf("%q was %q and became %q", name, vs, again.request.Form[name])
			}
		}
	})
}

// What is published is the primary's keys, all of them, and the backup's, each under a key id of its own.
func FuzzIssuer(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	ours := []jose.JSONWebKey{{Key: key.Public(), KeyID: "bk-ours", Algorithm: "ES256", Use: "sig"}}
	theirs, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		f.Fatal(err)
	}
	const doc = `{"issuer":"https://id.example","token_endpoint":"https://id.example/token","jwks_uri":"https://id.example/jwks","id_token_signing_alg_values_supported":["ES256"]}`
	f.Add([]byte(doc), theirs)
	f.Add([]byte(doc), []byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AA","kid":"x"}]}`))
	f.Add([]byte(`{"issuer":"https://id.example/a"}`), []byte(`{"keys":[]}`))
	tenant := &Tenant{Name: "t", Hosts: []string{"id.example"}, Scheme: "https"}
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, doc, keys []byte) {
		is, err := parseIssuer(tenant, doc, wellKnown)
		if err != nil {
			return
		}
		if u, err := url.Parse(is.ID); err != nil || u.Host == "" || !tenant.publicHost(u.Host) {
			t.Fatalf("the issuer %q is taken", is.ID)
		}
		if is.setKeys(keys, nil, now) != nil || is.merge(ours, now) != nil {
			return
		}
		var set, was struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(is.merged, &set); err != nil {
			t.Fatalf("what is published is no key set: %v", err)
		}
		if err := json.Unmarshal(keys, &was); err != nil {
			t.Fatalf("a key set is taken that is none: %v", err)
		}
		want := len(was.Keys)
		if is.problem == "" {
			want += len(ours)
		}
		if len(set.Keys) != want {
			t.Errorf("%d keys are published, want %d", len(set.Keys), want)
		}
		for kid := range is.keys {
			if kid == "" || kid == "bk-ours" {
				t.Errorf("the primary's key %q is taken", kid)
			}
		}
	})
}
