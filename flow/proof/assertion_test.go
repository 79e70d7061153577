package proof

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func at(d time.Duration) int64 { return now.Add(d).Unix() }

func assertion() map[string]any {
	return map[string]any{
		"iss": client, "sub": client, "aud": endpoint, "jti": "id-1",
		"iat": at(0), "nbf": at(0), "exp": at(time.Minute),
	}
}

func demanded(algs ...string) Assertions {
	if algs == nil {
		algs = []string{"RS256"}
	}
	return Assertions{Issuer: issuer, Client: client, Algs: algs, Audiences: []string{issuer, endpoint}}
}

func rs256(claims map[string]any) string {
	return compact("RS256", `{"alg":"RS256","kid":"k1"}`, text(claims), rsaKey())
}

func TestAssertionClaims(t *testing.T) {
	keys := keysOf(jwk(rsaKey(), "kid", "k1"))
	sum, err := (&jose.JSONWebKey{Key: rsaKey().Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint := base64.RawURLEncoding.EncodeToString(sum)
	a := assertion()
	for _, c := range []struct {
		rule   string
		claims map[string]any
		change func(*Assertions)
		want   Code
	}{
		{"RFC 7523, 3: all is well", a, nil, ""},
		{"RFC 7523, 3(1): no iss", with(a, "iss", nil), nil, AssertionClient},
		{"RFC 7523, 3(1): another iss", with(a, "iss", "client-2"), nil, AssertionClient},
		{"RFC 7523, 3(2): another sub", with(a, "sub", "client-2"), nil, AssertionClient},
		{"RFC 7523, 3(2): no sub", with(a, "sub", nil), nil, AssertionClient},
		{"RFC 7523, 3(2): sub in an array", with(a, "sub", []string{client}), nil, AssertionClient},
		{"RFC 7523, 3(2): case of the client", with(a, "sub", "Client-1", "iss", "Client-1"), nil, AssertionClient},
		{"both are another client", with(a, "sub", "client-2", "iss", "client-2"), nil, AssertionClient},
		{"no client demanded", with(a, "iss", "", "sub", ""), func(a *Assertions) { a.Client = "" }, AssertionClient},
		{"RFC 7523, 3(3): no aud", with(a, "aud", nil), nil, AssertionAudience},
		{"RFC 7523, 3(3): empty aud", with(a, "aud", ""), nil, AssertionAudience},
		{"RFC 7523, 3(3): empty array", with(a, "aud", []string{}), nil, AssertionAudience},
		{"RFC 7523, 3(3): the issuer", with(a, "aud", issuer), nil, ""},
		{"RFC 7523, 3(3): both of ours", with(a, "aud", []string{issuer, endpoint}), nil, ""},
		{"two auds, one is somebody else's", with(a, "aud", []string{issuer, "https://evil.example"}), nil, AssertionAudience},
		{"two auds, one is no string", with(a, "aud", []any{issuer, 1}), nil, AssertionAudience},
		{"two auds, one is null", with(a, "aud", []any{issuer, nil}), nil, AssertionAudience},
		{"aud in an object", with(a, "aud", map[string]any{"aud": issuer}), nil, AssertionAudience},
		{"aud by prefix", with(a, "aud", endpoint+"/"), nil, AssertionAudience},
		{"aud by case", with(a, "aud", strings.ToUpper(endpoint)), nil, AssertionAudience},
		{"aud of another tenant", with(a, "aud", "https://login.example/realms/b/token"), nil, AssertionAudience},
		{"no audience demanded", with(a, "aud", ""), func(a *Assertions) { a.Audiences = nil }, AssertionAudience},
		{"an audience that is not known", with(a, "aud", ""), func(a *Assertions) { a.Audiences = []string{""} }, AssertionAudience},
		{"RFC 7523, 3(4): no exp", with(a, "exp", nil), nil, AssertionLifetime},
		{"RFC 7523, 3(4): exp is past", with(a, "exp", at(0)), nil, AssertionExpired},
		{"RFC 7519, 4.1.4: exp is now", with(a, "exp", float64(now.Unix())+0.25), nil, AssertionExpired},
		{"RFC 7523, 3(4): exp is past by less than the leeway", with(a, "exp", at(-time.Second)), nil, AssertionExpired},
		{"exp is no number", with(a, "exp", "9999999999"), nil, AssertionMalformed},
		{"exp is null", with(a, "exp", json.RawMessage("null")), nil, AssertionMalformed},
		{"exp is beyond all dates", with(a, "exp", json.RawMessage("1e300")), nil, AssertionMalformed},
		{"exp is before all dates", with(a, "exp", -1), nil, AssertionMalformed},
		{"exp has a fraction", with(a, "exp", float64(at(time.Minute))+0.5), nil, ""},
		{"RFC 7523, 3(4): exp is unreasonably far", with(a, "exp", at(2*time.Hour), "iat", nil, "nbf", nil), nil, AssertionLifetime},
		{"made long ago to be valid long", with(a, "iat", at(-2*time.Hour)), nil, AssertionLifetime},
		{"RFC 7523, 3(5): nbf is ahead", with(a, "nbf", at(2*time.Minute), "exp", at(4*time.Minute)), nil, AssertionEarly},
		{"RFC 7523, 3(5): nbf is ahead by less than the leeway", with(a, "nbf", at(30*time.Second)), nil, ""},
		{"RFC 7523, 3(6): iat is ahead", with(a, "iat", at(2*time.Minute), "exp", at(4*time.Minute)), nil, AssertionEarly},
		{"RFC 7523, 3(6): no iat, no nbf", with(a, "iat", nil, "nbf", nil), nil, ""},
		{"leeway has a bound", with(a, "nbf", at(10*time.Minute), "exp", at(12*time.Minute)), func(a *Assertions) { a.Leeway = time.Hour }, AssertionEarly},
		{"lifetime has a bound", with(a, "exp", at(3*time.Hour)), func(a *Assertions) { a.Lifetime = 24 * time.Hour }, AssertionLifetime},
		{"a shorter lifetime is demanded", with(a, "exp", at(5*time.Minute)), func(a *Assertions) { a.Lifetime = time.Minute }, AssertionLifetime},
		{"RFC 7523, 3(7): no jti", with(a, "jti", nil), nil, ""},
		{"OpenID Connect Core, 9: no jti where it is demanded", with(a, "jti", nil), func(a *Assertions) { a.NeedsID = true }, AssertionID},
		{"jti is empty", with(a, "jti", ""), nil, AssertionID},
		{"jti is a number", with(a, "jti", 7), nil, AssertionID},
		{"jti is huge", with(a, "jti", strings.Repeat("x", 2000)), nil, AssertionID},
	} {
		t.Run(c.rule, func(t *testing.T) {
			d := demanded()
			if c.change != nil {
				c.change(&d)
			}
			got, err := d.PrivateKeyJWT(rs256(c.claims), keys, now)
			is(t, err, c.want)
			// A node whose clock is a minute slow takes it for a minute more.
			if err == nil && (got.Thumbprint != thumbprint || got.Alg != "RS256" || len(got.Once.Key) == 0 || got.Once.Until.Before(got.Expires.Add(time.Minute))) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAssertionHeader(t *testing.T) {
	keys := keysOf(jwk(rsaKey(), "kid", "k1"))
	h := map[string]any{"alg": "RS256", "kid": "k1"}
	attacker := otherRSA()
	for _, c := range []struct {
		rule   string
		header string
		key    any
		want   Code
	}{
		{"typ JWT", text(with(h, "typ", "JWT")), rsaKey(), ""},
		{"RFC 7515, 4.1.9: typ in full", text(with(h, "typ", "application/jwt")), rsaKey(), ""},
		{"its own typ", text(with(h, "typ", "client-authentication+jwt")), rsaKey(), ""},
		{"RFC 8725, 3.11: typ of an access token", text(with(h, "typ", "at+jwt")), rsaKey(), AssertionType},
		{"RFC 8725, 3.11: typ of a request object", text(with(h, "typ", "oauth-authz-req+jwt")), rsaKey(), AssertionType},
		{"RFC 8725, 3.11: typ of a DPoP proof", text(with(h, "typ", "dpop+jwt")), rsaKey(), AssertionType},
		{"typ is no string", text(with(h, "typ", 1)), rsaKey(), AssertionType},
		{"jwk: the attacker brings the key", text(with(h, "jwk", jwk(attacker))), attacker, AssertionHeader},
		{"jwk: the attacker brings the key, without kid", text(with(h, "kid", nil, "jwk", jwk(attacker))), attacker, AssertionHeader},
		{"jwk: of the client itself", text(with(h, "jwk", jwk(rsaKey()))), rsaKey(), AssertionHeader},
		{"jku", text(with(h, "jku", "https://evil.example/keys")), attacker, AssertionHeader},
		{"x5u", text(with(h, "x5u", "https://evil.example/cert")), attacker, AssertionHeader},
		{"x5c: the attacker brings the certificate", text(with(h, "x5c", [][]byte{selfSigned(attacker)})), attacker, AssertionSignature},
		{"x5c: passed over where the registered key signed", text(with(h, "x5c", [][]byte{selfSigned(attacker)})), rsaKey(), ""},
		{"RFC 7515, 4.1.11: crit", text(with(h, "crit", []string{"exp"}, "exp", 1)), rsaKey(), AssertionHeader},
		{"crit is empty", text(with(h, "crit", []string{})), rsaKey(), AssertionHeader},
		{"RFC 7797: b64 false", text(with(h, "b64", false)), rsaKey(), AssertionHeader},
		{"RFC 7797: b64 false, critical", text(with(h, "b64", false, "crit", []string{"b64"})), rsaKey(), AssertionHeader},
		{"RFC 7519, 5.2: nested", text(with(h, "cty", "JWT")), rsaKey(), AssertionHeader},
		{"alg none", `{"alg":"none"}`, rsaKey(), AssertionAlg},
		{"alg None", `{"alg":"None"}`, rsaKey(), AssertionAlg},
		{"alg is missing", `{"kid":"k1"}`, rsaKey(), AssertionAlg},
		{"alg is no string", `{"alg":["RS256"]}`, rsaKey(), AssertionAlg},
		{"alg was not learned", `{"alg":"PS256"}`, rsaKey(), AssertionAlg},
		{"alg twice", `{"alg":"RS256","alg":"none"}`, rsaKey(), AssertionMalformed},
		{"alg twice, once escaped", `{"alg":"RS256","\u0061lg":"none"}`, rsaKey(), AssertionMalformed},
		{"kid of nobody", text(with(h, "kid", "k2")), rsaKey(), AssertionKeyUnknown},
		{"kid is no string", text(with(h, "kid", 1)), rsaKey(), AssertionMalformed},
		{"no kid", `{"alg":"RS256"}`, rsaKey(), ""},
		{"another's signature", text(h), attacker, AssertionSignature},
		{"a huge header", text(with(h, "x", strings.Repeat("x", 20<<10))), rsaKey(), AssertionMalformed},
		{"a deep header", `{"alg":"RS256","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, rsaKey(), AssertionMalformed},
		{"a byte order mark", "\ufeff" + text(h), rsaKey(), AssertionMalformed},
	} {
		t.Run(c.rule, func(t *testing.T) {
			alg := "RS256"
			_, err := demanded("RS256", "none", "HS256").PrivateKeyJWT(compact(alg, c.header, text(assertion()), c.key), keys, now)
			is(t, err, c.want)
		})
	}
}

func TestAssertionForm(t *testing.T) {
	keys := keysOf(jwk(rsaKey(), "kid", "k1"))
	good := rs256(assertion())
	parts := strings.Split(good, ".")
	for rule, s := range map[string]string{
		"empty":                  "",
		"dots":                   "..",
		"no signature":           parts[0] + "." + parts[1],
		"four parts":             good + ".x",
		"encrypted":              good + ".x.y",
		"line end":               parts[0] + "." + parts[1] + "\n." + parts[2],
		"line end in signature":  good[:len(good)-4] + "\r\n" + good[len(good)-4:],
		"padding":                parts[0] + "=." + parts[1] + "." + parts[2],
		"blank before":           " " + good,
		"JSON serialization":     `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"nested JWT":             compact("RS256", `{"alg":"RS256","kid":"k1"}`, good, rsaKey()),
		"nested JWT as a string": compact("RS256", `{"alg":"RS256","kid":"k1"}`, `"`+good+`"`, rsaKey()),
		"claims twice":           compact("RS256", `{"alg":"RS256","kid":"k1"}`, `{"iss":"x",`+text(assertion())[1:], rsaKey()),
		"claims, then more":      compact("RS256", `{"alg":"RS256","kid":"k1"}`, text(assertion())+"{}", rsaKey()),
		"no UTF-8":               compact("RS256", `{"alg":"RS256","kid":"k1"}`, "{\"x\":\"\xff\"}", rsaKey()),
		"huge":                   rs256(with(assertion(), "x", strings.Repeat("x", 20<<10))),
	} {
		t.Run(rule, func(t *testing.T) {
			_, err := demanded().PrivateKeyJWT(s, keys, now)
			is(t, err, AssertionMalformed)
		})
	}
	{
		spare := good[:len(good)-1] + next(good[len(good)-1])
		// The last of 342 characters has four bits that decode to nothing.
		_, err := demanded().PrivateKeyJWT(spare, keys, now)
		is(t, err, AssertionMalformed)
	}
	for i, rule := range []string{"header", "claims", "signature"} {
		p := strings.Split(good, ".")
		p[i] = strings.Split(compact("RS256", `{"alg":"RS256","kid":"k1","x":1}`, text(with(assertion(), "x", 1)), otherRSA()), ".")[i]
		_, err := demanded().PrivateKeyJWT(strings.Join(p, "."), keys, now)
		if CodeOf(err) != AssertionSignature {
			t.Errorf("%s of another assertion: %v", rule, err)
		}
	}
}

// next is the character after c in base64url, which shares its leading bits where c's trailing ones are zero.
func next(c byte) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(digits[strings.IndexByte(digits, c)+1])
}

// RFC 8725, section 2.1: no form of a public key is a secret.
func TestAssertionAlgConfusion(t *testing.T) {
	public := rsaKey().Public()
	keys := keysOf(jwk(rsaKey(), "kid", "k1"))
	der := must(x509.MarshalPKIXPublicKey(public))
	pkcs1 := x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)
	all := []string{"RS256", "HS256", "HS384", "HS512", "none", ""}
	for form, secret := range map[string][]byte{
		"PEM":             pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"PEM, trimmed":    bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"DER":             der,
		"PKCS #1 PEM":     pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}),
		"PKCS #1 DER":     pkcs1,
		"JWK":             []byte(text(jwk(rsaKey()))),
		"modulus":         rsaKey().N.Bytes(),
		"certificate":     selfSigned(rsaKey()),
		"certificate PEM": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(rsaKey())}),
	} {
		for _, alg := range []string{"HS256", "HS384", "HS512"} {
			s := compact(alg, `{"alg":"`+alg+`","kid":"k1"}`, text(assertion()), secret)
			_, err := demanded(all...).PrivateKeyJWT(s, keys, now)
			is(t, err, AssertionAlg)
			_, err = demanded(all...).ClientSecretJWT(s, theSecret, now)
			is(t, err, AssertionSignature)
		}
		t.Log(form)
	}
	// The other way: a method that was learned as client_secret_jwt takes no key.
	_, err := demanded(all...).ClientSecretJWT(rs256(assertion()), theSecret, now)
	is(t, err, AssertionAlg)
	for _, alg := range []string{"none", "", "NONE"} {
		p := b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64([]byte(text(assertion()))) + "."
		_, err := demanded(all...).PrivateKeyJWT(p, keys, now)
		is(t, err, AssertionAlg)
		_, err = demanded(all...).ClientSecretJWT(p, theSecret, now)
		is(t, err, AssertionAlg)
	}
}

func TestAssertionAlgs(t *testing.T) {
	for alg, key := range map[string]crypto.Signer{
		"RS256": rsaKey(), "RS384": rsaKey(), "RS512": rsaKey(), "PS256": rsaKey(), "PS384": rsaKey(), "PS512": rsaKey(),
		"ES256": ecKey(), "ES384": ec384(), "ES512": ec521(), "EdDSA": edKey(), "Ed25519": edKey(),
	} {
		t.Run(alg, func(t *testing.T) {
			s := compact(alg, `{"alg":"`+alg+`"}`, text(assertion()), key)
			everybody := keysOf(jwk(otherRSA()), jwk(rsaKey()), jwk(otherEC()), jwk(ecKey()), jwk(ec384()), jwk(ec521()), jwk(edKey()))
			_, err := demanded(alg).PrivateKeyJWT(s, everybody, now)
			is(t, err, "")
			_, err = demanded(alg).PrivateKeyJWT(s, keysOf(jwk(key, "alg", alg)), now)
			is(t, err, "")
			forged := compact(alg, `{"alg":"`+alg+`"}`, text(with(assertion(), "jti", "id-2")), key)
			_, err = demanded(alg).PrivateKeyJWT(forged[:strings.LastIndexByte(forged, '.')]+s[strings.LastIndexByte(s, '.'):], everybody, now)
			is(t, err, AssertionSignature)
			_, err = demanded().PrivateKeyJWT(s, everybody, now)
			if alg != "RS256" {
				is(t, err, AssertionAlg)
			}
			_, err = Assertions{Issuer: issuer, Client: client, Audiences: []string{endpoint}}.PrivateKeyJWT(s, everybody, now)
			is(t, err, AssertionAlg)
			for _, none := range []*ClientKeys{nil, {}} {
				_, err = demanded(alg).PrivateKeyJWT(s, none, now)
				is(t, err, AssertionKeyUnknown)
			}
		})
	}
	// RFC 9864: one algorithm, two names.
	for _, p := range [][2]string{{"EdDSA", "Ed25519"}, {"Ed25519", "EdDSA"}} {
		s := compact(p[0], `{"alg":"`+p[0]+`"}`, text(assertion()), edKey())
		_, err := demanded(p[1]).PrivateKeyJWT(s, keysOf(jwk(edKey(), "alg", p[1])), now)
		is(t, err, "")
	}
	// A key for one algorithm only is not used with another (RFC 7517, section 4.4).
	s := compact("RS256", `{"alg":"RS256"}`, text(assertion()), rsaKey())
	_, err := demanded().PrivateKeyJWT(s, keysOf(jwk(rsaKey(), "alg", "PS256")), now)
	is(t, err, AssertionKeyUnknown)
	// A signature of another curve.
	s = compact("ES256", `{"alg":"ES256"}`, text(assertion()), ec384())
	_, err = demanded("ES256").PrivateKeyJWT(s, keysOf(jwk(ec384()), jwk(ecKey())), now)
	is(t, err, AssertionSignature)
	// CVE-2022-21449: r and s are zero.
	input := b64([]byte(`{"alg":"ES256"}`)) + "." + b64([]byte(text(assertion())))
	_, err = demanded("ES256").PrivateKeyJWT(input+"."+b64(make([]byte, 64)), keysOf(jwk(ecKey())), now)
	is(t, err, AssertionSignature)
}

func TestAssertionBySecret(t *testing.T) {
	for _, c := range []struct {
		rule, alg string
		signs     []byte
		secret    Secret
		want      Code
	}{
		{"HS256", "HS256", theSecret, theSecret, ""},
		{"HS384", "HS384", theSecret, theSecret, ""},
		{"HS512", "HS512", theSecret, theSecret, ""},
		{"another secret", "HS256", []byte(strings.Repeat("x", 64)), theSecret, AssertionSignature},
		{"RFC 7518, 3.2: shorter than the hash", "HS256", theSecret[:31], theSecret[:31], AssertionSignature},
		{"RFC 7518, 3.2: as long as the hash", "HS256", theSecret[:32], theSecret[:32], ""},
		{"no secret", "HS256", nil, nil, AssertionSignature},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := compact(c.alg, `{"alg":"`+c.alg+`"}`, text(assertion()), append([]byte{}, c.signs...))
			_, err := demanded(c.alg).ClientSecretJWT(s, c.secret, now)
			is(t, err, c.want)
			if err != nil && len(c.secret) > 0 && strings.Contains(err.Error(), string(c.secret)) {
				t.Error("the error has the secret")
			}
		})
	}
}

// Once is the same for the same use, and another for another client, issuer or jti; without a jti it is the assertion's.
func TestAssertionOnce(t *testing.T) {
	keys := keysOf(jwk(rsaKey()), jwk(ecKey()))
	key := func(d Assertions, s string) string {
		got, err := d.PrivateKeyJWT(s, keys, now)
		if err != nil {
			t.Fatal(err)
		}
		return string(got.Once.Key)
	}
	claims := assertion()
	es := func(claims map[string]any) string { return compact("ES256", `{"alg":"ES256"}`, text(claims), ecKey()) }
	d := demanded("RS256", "ES256")
	first := key(d, es(claims))
	if first != key(d, es(with(claims, "exp", at(2*time.Minute)))) {
		t.Error("the same jti in another assertion is claimed under another key")
	}
	other := d
	other.Issuer = "https://login.example/realms/b"
	if first == key(other, es(claims)) || first == key(d, es(with(claims, "jti", "id-2"))) {
		t.Error("another issuer or jti has the same key")
	}
	two := d
	two.Client = "client-2"
	if first == key(two, es(with(claims, "iss", "client-2", "sub", "client-2"))) {
		t.Error("another client has the same key: it could use up this one's assertions")
	}
	bare := with(claims, "jti", nil)
	s := es(bare)
	sig := must(decode(s[strings.LastIndexByte(s, '.')+1:]))
	// ECDSA: (r, -s) signs the same as (r, s).
	twin := s[:strings.LastIndexByte(s, '.')+1] + b64(append(sig[:32:32], negated(sig[32:])...))
	if key(d, s) != key(d, twin) || key(d, s) == key(d, es(with(bare, "exp", at(2*time.Minute)))) || key(d, s) == first {
		t.Error("an assertion without a jti can be replayed with another spelling of its signature")
	}
	if strings.Contains(first, "id-1") || strings.Contains(first, client) {
		t.Error("the key tells the jti or the client")
	}
}

// The parts of a key do not run into each other.
func TestOnceParts(t *testing.T) {
	if string(once(now, "x", "a\x00\x00\x00\x00b", "c").Key) == string(once(now, "x", "a", "b\x00\x00\x00\x00c").Key) || string(once(now, "x", "a").Key) == string(once(now, "y", "a").Key) {
		t.Error("two uses have one key")
	}
}

func TestPeek(t *testing.T) {
	got, err := Peek(compact("RS256", `{"alg":"RS256","kid":"k1","typ":"JWT"}`, text(assertion()), rsaKey()))
	if want := (Claimed{client, client, "RS256", "k1", "JWT"}); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
	_, err = Peek("a.b.c.d.e")
	is(t, err, RequestObjectEncrypted)
	_, err = Peek("a.b.c")
	is(t, err, RequestObjectMalformed)
}
