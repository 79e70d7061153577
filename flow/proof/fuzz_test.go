package proof

import (
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Whatever comes: no panic, a documented code, nothing of it in the error, and nothing accepted that the key did not sign.

func FuzzAssertion(f *testing.F) {
	known := codes(f)
	keys := keysOf(jwk(ecKey(), "kid", "k1"))
	good := compact("ES256", `{"alg":"ES256","kid":"k1"}`, text(assertion()), ecKey())
	for _, s := range []string{
		good, good[:len(good)-1], good + ".", "..", "a.b.c", "e30.e30.", "e30.e30.e30.e30.e30",
		compact("HS256", `{"alg":"HS256"}`, text(assertion()), []byte(theSecret)),
		compact("ES256", `{"alg":"ES256","jwk":`+text(jwk(otherEC()))+`}`, text(assertion()), otherEC()),
		compact("ES256", `{"alg":"ES256","crit":["b64"],"b64":false}`, text(assertion()), ecKey()),
		compact("ES256", `{"alg":"ES256","x5c":["AA=="]}`, text(assertion()), ecKey()),
		compact("none", `{"alg":"none"}`, text(assertion()), nil),
	} {
		f.Add(s)
	}
	d := demanded("ES256", "HS256", "none")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := d.PrivateKeyJWT(s, keys, now); err == nil && s[:strings.LastIndexByte(s, '.')] != good[:strings.LastIndexByte(good, '.')] {
			t.Error("accepted")
		} else {
			wellRefused(t, known, err, s)
		}
		_, err := d.ClientSecretJWT(s, theSecret, now)
		wellRefused(t, known, err, s)
		_, err = Peek(s)
		wellRefused(t, known, err, s)
	})
}

// The fuzzer writes header and claims, and the client signs whatever it is.
func FuzzAssertionSigned(f *testing.F) {
	known := codes(f)
	keys := keysOf(jwk(edKey()))
	f.Add(`{"alg":"EdDSA"}`, text(assertion()))
	f.Add(`{"alg":"Ed25519","typ":"JWT"}`, text(with(assertion(), "aud", []string{issuer, "x"})))
	f.Add(`{"alg":"EdDSA"}`, `{"exp":1e3,"iat":0.5,"nbf":-0}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		got, err := demanded("EdDSA").PrivateKeyJWT(compact("EdDSA", header, claims, edKey()), keys, now)
		if wellRefused(t, known, err, claims); err == nil && (!now.Before(got.Expires) || got.Expires.After(now.Add(2*time.Hour)) || len(got.Once.Key) == 0) {
			t.Errorf("accepted until %v", got.Expires)
		}
	})
}

func FuzzDPoP(f *testing.F) {
	known := codes(f)
	f.Add(text(dpopHeader(ecKey())), text(dpopClaims()), endpoint)
	f.Add(text(with(dpopHeader(ecKey()), "jwk", map[string]any{"kty": "oct", "k": "AA"})), text(with(dpopClaims(), "nonce", "x")), endpoint+"?x")
	f.Add(`{"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"AA"}}`, `{}`, "https://[::1]:0443/%2f")
	f.Fuzz(func(t *testing.T, header, claims, at string) {
		d := dpop()
		d.URL = at
		p, err := d.Check(http.Header{"Dpop": {compact("ES256", header, claims, ecKey())}}, now)
		if wellRefused(t, known, err, claims); err == nil && len(p.Thumbprint) != 43 {
			t.Error("accepted")
		}
	})
}

func FuzzSameURL(f *testing.F) {
	for _, s := range []string{endpoint, "HTTPS://A.example:443/%7e/../x?y#z", "https://[::1]:8/", "https://a@b/", "https://a/%2F%2e%2E/", "http://a:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := normal(s)
		if n == "" {
			return
		}
		if normal(n) != n {
			t.Errorf("%q: %q, and again %q", s, n, normal(n))
		}
		// The library sees the same host and the same path, as far as it goes.
		bare, _, _ := strings.Cut(s, "#")
		bare, _, _ = strings.Cut(bare, "?")
		bare, _ = percents(bare) // the library takes no escaped host
		a, err1 := url.Parse(bare)
		b, err2 := url.Parse(n)
		if err1 != nil || err2 != nil || a.User != nil || !strings.Contains(a.Host, "[") && !strings.EqualFold(a.Hostname(), b.Hostname()) {
			t.Errorf("%q became %q", s, n)
		}
	})
}

func FuzzClientKeys(f *testing.F) {
	known := codes(f)
	for _, s := range [][]byte{
		set(jwk(rsaKey())), set(jwk(ecKey(), "x5c", []string{"AA=="}), jwk(edKey(), "d", "AA")), []byte(`{"keys":[{"kty":"oct","k":"AA"}]}`),
		[]byte(`{"keys":[{"kty":"RSA","n":"AA","e":"AQAB"},null]}`), []byte(`{"keys":{}}`),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseClientKeys(b)
		wellRefused(t, known, err, string(b))
		for _, k := range k.all() {
			if k.public == nil || k.alg != "" && !fits(k.alg, k.public) {
				t.Errorf("%+v", k)
			}
		}
	})
}

func FuzzForwarded(f *testing.F) {
	known := codes(f)
	c := clientCertificate(ecKey(), nil)
	esc := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})))
	f.Add(esc, 0, 0)
	f.Add(`Hash=00;Cert="`+esc+`";Subject="CN=\"a\"",By=x`, 1, 2)
	f.Add(`Cert="\`, 1, 1)
	f.Add(":AA==:", 2, 0)
	f.Fuzz(func(t *testing.T, s string, shape, hops int) {
		got, err := Forwarded{Shape: Shape(shape), Header: "X", Hops: hops}.Certificate(http.Header{"X": {s}})
		if wellRefused(t, known, err, s); err == nil {
			subject, err := got.Subject()
			wellRefused(t, known, err, s)
			if err == nil && got.names(subject) != nil || got.verified {
				t.Error("a certificate has not its own subject, or a proxy vouches that was not said to")
			}
		}
	})
}

func FuzzRequestObject(f *testing.F) {
	known := codes(f)
	keys := keysOf(jwk(edKey()))
	f.Add(`{"alg":"EdDSA","typ":"oauth-authz-req+jwt"}`, requested(""))
	f.Add(`{"alg":"EdDSA"}`, requested(`,"x":[null],"y":["a",1],"z":{}`))
	r := RequestObjects{Issuer: issuer, Client: client, Algs: []string{"EdDSA"}, Audiences: []string{issuer}}
	f.Fuzz(func(t *testing.T, header, claims string) {
		got, err := r.Verify(compact("EdDSA", header, claims, edKey()), keys, now)
		if wellRefused(t, known, err, claims); err == nil {
			for _, p := range got.Parameters {
				if p.Name == "request" || p.Name == "request_uri" || p.Name == "client_id" && p.Value != client {
					t.Errorf("%+v", p)
				}
			}
		}
	})
}
