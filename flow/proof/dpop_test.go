package proof

import (
	"crypto"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"time"
)

func dpopHeader(key crypto.Signer) map[string]any {
	return map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(key)}
}

func dpopClaims() map[string]any {
	return map[string]any{"jti": "p-1", "htm": "POST", "htu": endpoint, "iat": at(0)}
}

func dpop() DPoP { return DPoP{Issuer: issuer, Method: "POST", URL: endpoint, Algs: []string{"ES256"}} }

func TestDPoP(t *testing.T) {
	const token = "an-access-token"
	sum := sha256.Sum256([]byte(token))
	h, c := dpopHeader(ecKey()), dpopClaims()
	jkt := func(p *Possession) string { return p.Thumbprint }
	own := must(dpop().Check(http.Header{"Dpop": {compact("ES256", text(h), text(c), ecKey())}}, now))
	atResource := func(d *DPoP) { d.AccessToken = token }
	withNonce := func(d *DPoP) { d.Nonce = func(n string) bool { return n == "fresh" } }
	for _, c := range []struct {
		rule           string
		header, claims map[string]any
		change         func(*DPoP)
		want           Code
	}{
		{"RFC 9449, 4.3: all is well", h, c, nil, ""},
		{"RFC 9449, 4.3(3): no jti", h, with(c, "jti", nil), nil, DPoPID},
		{"RFC 9449, 4.3(3): no htm", h, with(c, "htm", nil), nil, DPoPMethod},
		{"RFC 9449, 4.3(3): no htm, and no method asked", h, with(c, "htm", nil), func(d *DPoP) { d.Method = "" }, DPoPMethod},
		{"RFC 9449, 4.3(3): no htu", h, with(c, "htu", nil), nil, DPoPURL},
		{"RFC 9449, 4.3(3): no htu, and no URL asked", h, with(c, "htu", nil), func(d *DPoP) { d.URL = "" }, DPoPURL},
		{"RFC 9449, 4.3(3): no iat", h, with(c, "iat", nil), nil, DPoPExpired},
		{"RFC 9449, 4.3(4): no typ", with(h, "typ", nil), c, nil, DPoPType},
		{"RFC 9449, 4.3(4): typ JWT", with(h, "typ", "JWT"), c, nil, DPoPType},
		{"RFC 9449, 4.3(5): alg none", with(h, "alg", "none"), c, nil, DPoPAlg},
		{"RFC 9449, 4.3(5): alg HS256", with(h, "alg", "HS256"), c, func(d *DPoP) { d.Algs = []string{"HS256"} }, DPoPAlg},
		{"RFC 9449, 4.3(5): alg that the primary does not take", with(h, "alg", "ES384"), c, nil, DPoPAlg},
		{"alg of another key", with(h, "alg", "RS256"), c, func(d *DPoP) { d.Algs = []string{"RS256"} }, DPoPKey},
		{"no algs", h, c, func(d *DPoP) { d.Algs = nil }, DPoPAlg},
		{"RFC 9449, 4.3(6): another's key", with(h, "jwk", jwk(otherEC())), c, nil, DPoPSignature},
		{"RFC 9449, 4.3(7): a private key", with(h, "jwk", jwk(ecKey(), "d", b64(make([]byte, 32)))), c, nil, DPoPKey},
		{"a symmetric key", with(h, "jwk", map[string]any{"kty": "oct", "k": b64(theSecret)}), c, nil, DPoPKey},
		{"no key", with(h, "jwk", nil), c, nil, DPoPKey},
		{"a key by name", with(h, "jwk", nil, "kid", "k1"), c, nil, DPoPKey},
		{"jwk is no object", with(h, "jwk", "x"), c, nil, DPoPKey},
		{"jwk is empty", with(h, "jwk", map[string]any{}), c, nil, DPoPKey},
		{"the wrong curve", with(h, "jwk", jwk(ec384())), c, nil, DPoPKey},
		{"not on the curve", with(h, "jwk", jwk(ecKey(), "y", jwk(ecKey())["x"])), c, nil, DPoPKey},
		{"an oversized key", with(h, "jwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": strings.Repeat("_", 1000)}), c, nil, DPoPKey},
		{"a key in x5c too", with(h, "x5c", [][]byte{selfSigned(ecKey())}), c, nil, DPoPHeader},
		{"a key in jku too", with(h, "jku", "https://evil.example"), c, nil, DPoPHeader},
		{"a key in x5u too", with(h, "x5u", "https://evil.example"), c, nil, DPoPHeader},
		{"crit", with(h, "crit", []string{"htm"}), c, nil, DPoPHeader},
		{"b64", with(h, "b64", false), c, nil, DPoPHeader},
		{"a huge header", with(h, "x", strings.Repeat("x", 9000)), c, nil, DPoPMalformed},
		{"RFC 9449, 4.3(8): another method", h, with(c, "htm", "GET"), nil, DPoPMethod},
		{"RFC 9449, 4.3(8): case of the method", h, with(c, "htm", "post"), nil, DPoPMethod},
		{"RFC 9449, 4.3(9): another URL", h, with(c, "htu", issuer+"/userinfo"), nil, DPoPURL},
		{"RFC 9449, 4.3(9): query and fragment", h, with(c, "htu", endpoint+"?a=b#c"), nil, ""},
		{"RFC 9449, 4.3(10): no nonce where one is demanded", h, c, withNonce, DPoPNonce},
		{"RFC 9449, 4.3(10): an old nonce", h, with(c, "nonce", "old"), withNonce, DPoPNonce},
		{"RFC 9449, 4.3(10): the nonce is no string", h, with(c, "nonce", []string{"fresh"}), withNonce, DPoPNonce},
		{"RFC 9449, 4.3(10): a fresh nonce", h, with(c, "nonce", "fresh"), withNonce, ""},
		{"RFC 9449, 4.3(10): a nonce where none is demanded", h, with(c, "nonce", "the primary's"), nil, ""},
		{"RFC 9449, 4.3(11): old", h, with(c, "iat", at(-3*time.Minute)), nil, DPoPExpired},
		{"RFC 9449, 4.3(11): not too old", h, with(c, "iat", at(-100*time.Second)), nil, ""},
		{"RFC 9449, 4.3(11): made for later", h, with(c, "iat", at(2*time.Minute)), nil, DPoPEarly},
		{"RFC 9449, 4.3(11): the window has a bound", h, with(c, "iat", at(-6*time.Minute)), func(d *DPoP) { d.Window = time.Hour }, DPoPExpired},
		{"iat is no number", h, with(c, "iat", "1"), nil, DPoPMalformed},
		{"RFC 7519, 4.1.4: exp is past", h, with(c, "exp", at(-time.Second)), nil, DPoPExpired},
		{"RFC 9449, 4.3(12)(a): ath", h, with(c, "ath", b64(sum[:])), atResource, ""},
		{"RFC 9449, 4.3(12)(a): no ath", h, c, atResource, DPoPToken},
		{"RFC 9449, 4.3(12)(a): ath of another token", h, with(c, "ath", b64(make([]byte, 32))), atResource, DPoPToken},
		{"RFC 9449, 4.3(12)(a): ath with padding", h, with(c, "ath", b64(sum[:])+"="), atResource, DPoPToken},
		{"RFC 9449, 4.3(12)(b): the bound key", h, c, func(d *DPoP) { d.Thumbprint = jkt(own) }, ""},
		{"RFC 9449, 4.3(12)(b): bound to another key", h, c, func(d *DPoP) { d.Thumbprint = b64(make([]byte, 32)) }, DPoPBinding},
		{"jti is huge", h, with(c, "jti", strings.Repeat("x", 2000)), nil, DPoPID},
	} {
		t.Run(c.rule, func(t *testing.T) {
			d := dpop()
			if c.change != nil {
				c.change(&d)
			}
			p, err := d.Check(http.Header{"Dpop": {compact("ES256", text(c.header), text(c.claims), ecKey())}}, now)
			is(t, err, c.want)
			if err == nil && (p.Thumbprint != own.Thumbprint || !strings.HasPrefix(string(p.Once.Key), "proof/dpop/")) {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestDPoPHeaders(t *testing.T) {
	p := compact("ES256", text(dpopHeader(ecKey())), text(dpopClaims()), ecKey())
	for rule, c := range map[string]struct {
		h    http.Header
		want Code
	}{
		"RFC 9449, 4.3(1): none":                  {http.Header{}, DPoPMissing},
		"RFC 9449, 4.3(1): two":                   {http.Header{"Dpop": {p, p}}, DPoPRepeated},
		"RFC 9449, 4.3(1): an empty one too":      {http.Header{"Dpop": {p, ""}}, DPoPRepeated},
		"RFC 9449, 4.3(1): two in one line":       {http.Header{"Dpop": {p + ", " + p}}, DPoPMalformed},
		"RFC 9449, 4.3(2): empty":                 {http.Header{"Dpop": {""}}, DPoPMalformed},
		"RFC 9449, 4.3(2): no JWT":                {http.Header{"Dpop": {"x"}}, DPoPMalformed},
		"RFC 9449, 4.3(2): htm twice":             {http.Header{"Dpop": {compact("ES256", text(dpopHeader(ecKey())), `{"htm":"GET",`+text(dpopClaims())[1:], ecKey())}}, DPoPMalformed},
		"RFC 9449, 4.3(2): jwk twice":             {http.Header{"Dpop": {compact("ES256", `{"jwk":`+text(jwk(otherEC()))+`,`+text(dpopHeader(ecKey()))[1:], text(dpopClaims()), ecKey())}}, DPoPMalformed},
		"RFC 9449, 4.3(2): a name twice in jwk":   {http.Header{"Dpop": {compact("ES256", strings.Replace(text(dpopHeader(ecKey())), `"crv"`, `"crv":"P-384","crv"`, 1), text(dpopClaims()), ecKey())}}, DPoPMalformed},
		"RFC 9449, 4.3(6): signature cut":         {http.Header{"Dpop": {p[:len(p)-6]}}, DPoPSignature},
		"RFC 9449, 4.3(6): signature of no bytes": {http.Header{"Dpop": {p[:strings.LastIndexByte(p, '.')+1]}}, DPoPSignature},
	} {
		_, err := dpop().Check(c.h, now)
		t.Run(rule, func(t *testing.T) { is(t, err, c.want) })
	}
}

// The thumbprint of RFC 9449's own example proof and key (sections 4.1 and 6.1).
func TestDPoPExampleOfTheStandard(t *testing.T) {
	const example = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	d := DPoP{Issuer: "https://server.example.com", Method: "POST", URL: "https://server.example.com/token", Algs: []string{"ES256"}}
	p, err := d.Check(http.Header{"Dpop": {example}}, time.Unix(1562262616, 0))
	if err != nil || p.Thumbprint != "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" {
		t.Errorf("%+v %v", p, err)
	}
}

// A proof may be used once: its key stays claimed for as long as a node would take it, whatever its clock.
func TestDPoPOnce(t *testing.T) {
	check := func(key crypto.Signer, claims map[string]any) *Possession {
		return must(dpop().Check(http.Header{"Dpop": {compact("ES256", text(dpopHeader(key)), text(claims), key)}}, now))
	}
	first := check(ecKey(), dpopClaims())
	if string(first.Once.Key) != string(check(ecKey(), with(dpopClaims(), "iat", at(-time.Second))).Once.Key) {
		t.Error("the same jti is claimed under another key")
	}
	if string(first.Once.Key) == string(check(otherEC(), dpopClaims()).Once.Key) {
		t.Error("another client's proof has the same key: it could use up this one's")
	}
	// A node whose clock is a minute slow sees this time when the claim ends.
	claims := with(dpopClaims(), "iat", at(50*time.Second))
	end := check(ecKey(), claims).Once.Until.Add(-time.Minute)
	proof := http.Header{"Dpop": {compact("ES256", text(dpopHeader(ecKey())), text(claims), ecKey())}}
	_, err := dpop().Check(proof, end.Add(time.Second))
	is(t, err, DPoPExpired)
	_, err = dpop().Check(proof, end.Add(-time.Second))
	is(t, err, "")
}

func TestSameURL(t *testing.T) {
	for _, c := range []struct {
		rule, a, b string
		same       bool
	}{
		{"equal", "https://a.example/t", "https://a.example/t", true},
		{"RFC 9449, 4.3(9): query", "https://a.example/t?x=/y", "https://a.example/t", true},
		{"RFC 9449, 4.3(9): fragment", "https://a.example/t#x?y", "https://a.example/t", true},
		{"RFC 3986, 6.2.2.1: case of scheme and host", "HTTPS://A.Example/t", "https://a.example/t", true},
		{"RFC 3986, 6.2.2.1: case of the path matters", "https://a.example/T", "https://a.example/t", false},
		{"RFC 3986, 6.2.2.1: case of escapes", "https://a.example/%c3%a9", "https://a.example/%C3%A9", true},
		{"RFC 3986, 6.2.2.2: escaped unreserved", "https://a.example/%74%2Dx", "https://a.example/t-x", true},
		{"RFC 3986, 6.2.2.2: escaped slash is no slash", "https://a.example/x%2Ft", "https://a.example/x/t", false},
		{"RFC 3986, 6.2.2.2: escaped question mark is none", "https://a.example/t%3Fx", "https://a.example/t", false},
		{"escaped twice", "https://a.example/%2574", "https://a.example/t", false},
		{"escaped twice is once", "https://a.example/%2574", "https://a.example/%74", false},
		{"semicolon is not its escape", "https://a.example/%3B", "https://a.example/;", false},
		{"RFC 3986, 6.2.2.3: dot segments", "https://a.example/x/../t", "https://a.example/t", true},
		{"RFC 3986, 6.2.2.3: escaped dot segments", "https://a.example/x/%2e%2E/t", "https://a.example/t", true},
		{"RFC 3986, 6.2.2.3: above the root", "https://a.example/../../t", "https://a.example/t", true},
		{"two slashes are two", "https://a.example//t", "https://a.example/t", false},
		{"a slash behind", "https://a.example/t/", "https://a.example/t", false},
		{"RFC 3986, 6.2.3: no path", "https://a.example", "https://a.example/", true},
		{"RFC 3986, 6.2.3: default port", "https://a.example:443/t", "https://a.example/t", true},
		{"RFC 3986, 6.2.3: default port of http", "http://a.example:80/t", "http://a.example/t", true},
		{"RFC 3986, 6.2.3: empty port", "https://a.example:/t", "https://a.example/t", true},
		{"the other scheme's port", "https://a.example:80/t", "https://a.example/t", false},
		{"another port", "https://a.example:8443/t", "https://a.example/t", false},
		{"the same port", "https://a.example:8443/t", "https://a.example:8443/t", true},
		{"another scheme", "http://a.example/t", "https://a.example/t", false},
		{"IPv6", "https://[2001:DB8:0::1]/t", "https://[2001:db8::1]:443/t", true},
		{"IPv6, another", "https://[2001:db8::2]/t", "https://[2001:db8::1]/t", false},
		{"IPv6 with a zone", "https://[fe80::1%25eth0]/t", "https://[fe80::1%25eth0]/t", false},
		{"IPv6 without brackets", "https://::1/t", "https://[::1]/t", false},
		{"IPv4 in brackets", "https://[127.0.0.1]/t", "https://127.0.0.1/t", false},
		{"a name in brackets", "https://[a.example]/t", "https://a.example/t", false},
		{"IPv4 by another spelling", "https://127.1/t", "https://127.0.0.1/t", false},
		{"a dot behind the host", "https://a.example./t", "https://a.example/t", false},
		{"a user", "https://a.example@evil.example/t", "https://evil.example/t", false},
		{"a user, both", "https://u@a.example/t", "https://u@a.example/t", false},
		{"the host in the query", "https://evil.example?@a.example/t", "https://a.example/t", false},
		{"a backslash", `https://evil.example\@a.example/t`, "https://a.example/t", false},
		{"a backslash, both", `https://a.example\t`, `https://a.example\t`, false},
		{"escaped host", "https://%61.example/t", "https://a.example/t", true},
		{"escaped at in the host", "https://a%40b.example/t", "https://a%40b.example/t", false},
		{"no host", "https:///t", "https:///t", false},
		{"relative", "/t", "/t", false},
		{"no scheme", "//a.example/t", "//a.example/t", false},
		{"opaque", "https:a.example/t", "https:a.example/t", false},
		{"another scheme, both", "ftp://a.example/t", "ftp://a.example/t", false},
		{"not ASCII", "https://š.example/t", "https://š.example/t", false},
		{"not ASCII, escaped", "https://%C5%A1.example/t", "https://%C5%A1.example/t", false},
		{"a broken escape", "https://a.example/%zz", "https://a.example/%zz", false},
		{"a cut escape", "https://a.example/%2", "https://a.example/%2", false},
		{"a blank", "https://a.example/t ", "https://a.example/t", false},
		{"a line end", "https://a.example/t\n", "https://a.example/t", false},
		{"a tab in the scheme", "ht\ttps://a.example/t", "https://a.example/t", false},
		{"a zero byte", "https://a.example/t\x00", "https://a.example/t", false},
		{"huge", "https://a.example/" + strings.Repeat("x", 5000), "https://a.example/" + strings.Repeat("x", 5000), false},
		{"empty", "", "", false},
	} {
		if sameURL(c.a, c.b) != c.same || sameURL(c.b, c.a) != c.same {
			t.Errorf("%s: %q and %q: want same %v; %q, %q", c.rule, c.a, c.b, c.same, normal(c.a), normal(c.b))
		}
	}
}
