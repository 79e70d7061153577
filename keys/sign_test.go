package keys

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/session"
)

var allAlgs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func TestEveryAlgorithmSignsAndVerifies(t *testing.T) {
	for _, goRSA := range []bool{false, true} {
		dir := t.TempDir()
		r := open(t, dir, Options{GoRSA: goRSA})
		for _, alg := range allAlgs {
			if err := r.Ensure(fence, alg, AccessToken); err != nil {
				t.Fatal(err)
			}
			token, kid := sign(t, r, fence, AccessToken, alg, time.Minute)
			// Another implementation accepts it against the published set.
			jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			set := jose.JSONWebKeySet{Keys: r.Public(fence)}
			if _, err := jws.Verify(set.Key(kid)[0]); err != nil {
				t.Errorf("%s, Go's RSA %v: %v", alg, goRSA, err)
			}
			got, by, err := r.Verify(fence, AccessToken, token)
			if err != nil || by != kid || got.Text("sub") != "ann" {
				t.Errorf("%s: Verify = %v, %s, %v", alg, got, by, err)
			}
			if !strings.HasPrefix(kid, "bk-") {
				t.Errorf("kid %s", kid)
			}
		}
	}
}

func TestHeaderKeepsItsMembersButTheKeys(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "ES256")
	for in, want := range map[string]string{
		`{"alg":"ES256","typ" : "JWT","kid" : "x","z":{"a":1}}`:                                         `{"alg":"ES256","typ":"JWT","kid":"KID","z":{"a":1}}`,
		`{"typ":"JWT","alg":"ES256"}`:                                                                   `{"typ":"JWT","alg":"ES256","kid":"KID"}`,
		`{"x5t":"a","alg":"ES256","x5t#S256":"b","jku":"c","jwk":{},"x5u":"d","x5c":["e"],"kid":"old"}`: `{"alg":"ES256","kid":"KID"}`,
	} {
		token, kid, err := r.Sign(fence, IDToken, object(t, in), claims(t, fence, time.Now(), time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		h, _, _ := strings.Cut(token, ".")
		got, err := base64.RawURLEncoding.DecodeString(h)
		if err != nil || string(got) != strings.ReplaceAll(want, "KID", kid) {
			t.Errorf("%s became %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestWhatNoKeySigns(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "ES256")
	now := time.Now()
	good, head := claims(t, fence, now, time.Minute), `{"alg":"ES256"}`
	with := func(name, value string) session.Object {
		c := good.Clone()
		c.Set(name, []byte(value))
		return c
	}
	if _, _, err := r.Sign(fence, AccessToken, object(t, head), good); err != nil {
		t.Fatal(err)
	}
	for rule, c := range map[string]struct {
		f      Fence
		class  string
		header string
		claims session.Object
	}{
		"another issuer's claims":           {fence, AccessToken, head, claims(t, other, now, time.Minute)},
		"claims of an issuer with no keys":  {other, AccessToken, head, claims(t, other, now, time.Minute)},
		"another tenant":                    {Fence{"evil", fence.Issuer}, AccessToken, head, good},
		"no issuer":                         {Fence{"acme", ""}, AccessToken, head, good.Without("iss")},
		"an unknown class":                  {fence, "request_object", head, good},
		"an algorithm without a key":        {fence, AccessToken, `{"alg":"RS256"}`, good},
		"alg none":                          {fence, AccessToken, `{"alg":"none"}`, good},
		"alg HS256":                         {fence, AccessToken, `{"alg":"HS256"}`, good},
		"no alg":                            {fence, AccessToken, `{}`, good},
		"crit":                              {fence, AccessToken, `{"alg":"ES256","crit":["exp"]}`, good},
		"an unencoded payload":              {fence, AccessToken, `{"alg":"ES256","b64":false}`, good},
		"an ID token as access token":       {fence, AccessToken, head, with("typ", `"ID"`)},
		"an access token as ID token":       {fence, IDToken, head, with("typ", `"Bearer"`)},
		"an RFC 9068 token as ID token":     {fence, IDToken, `{"alg":"ES256","typ":"application/AT+jwt"}`, good},
		"a refresh token":                   {fence, AccessToken, head, with("typ", `"Refresh"`)},
		"a logout token by its type":        {fence, IDToken, `{"alg":"ES256","typ":"logout+jwt"}`, good},
		"a security event by its claims":    {fence, IDToken, head, with("events", `{}`)},
		"no end":                            {fence, AccessToken, head, good.Without("exp")},
		"an end in the past":                {fence, AccessToken, head, claims(t, fence, now, -time.Second)},
		"an end that is no whole number":    {fence, AccessToken, head, with("exp", "1e99")},
		"an end centuries away":             {fence, AccessToken, head, claims(t, fence, now, 200*365*day)},
		"an end beyond the range of a time": {fence, AccessToken, head, with("exp", "9223372036854775807")},
	} {
		token, _, err := r.Sign(c.f, c.class, object(t, c.header), c.claims)
		if !errors.Is(err, ErrNoKey) || token != "" {
			t.Errorf("%s: %q, %v", rule, token, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "RS256", "ES256")
	ensure(t, r, other, "RS256")
	access, kid := sign(t, r, fence, AccessToken, "RS256", time.Hour)
	id, _ := sign(t, r, fence, IDToken, "RS256", time.Hour)
	foreign, _ := sign(t, r, other, AccessToken, "RS256", time.Hour)
	now := time.Now()
	enc := base64.RawURLEncoding
	k := byID(r.of(fence), kid)
	// by signs anything with the fence's own key: what an attacker with a signing oracle would try.
	by := func(header string, c session.Object) string {
		sc := &scratch{out: []byte(enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString(c.Append(nil)))}
		sig, err := k.signature(sc)
		if err != nil {
			t.Fatal(err)
		}
		return string(sc.out) + "." + enc.EncodeToString(sig)
	}
	own := `{"alg":"RS256","kid":"` + kid + `"}`
	good := claims(t, fence, now, time.Hour)
	with := func(name, value string) session.Object {
		c := good.Clone()
		c.Set(name, []byte(value))
		return c
	}
	if _, _, err := r.Verify(fence, AccessToken, by(own, good)); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(access, ".")
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	strange, err := (&Key{signer: stranger, method: k.method}).signature(&scratch{out: []byte(parts[0] + "." + parts[1])})
	if err != nil {
		t.Fatal(err)
	}
	for rule, c := range map[string]struct {
		f            Fence
		class, token string
	}{
		"an ID token as access token":        {fence, AccessToken, id},
		"an access token as ID token":        {fence, IDToken, access},
		"another issuer's token":             {fence, AccessToken, foreign},
		"a token at another issuer":          {other, AccessToken, access},
		"a token at another tenant":          {Fence{"evil", fence.Issuer}, AccessToken, access},
		"an unknown class":                   {fence, "", access},
		"alg of the header":                  {fence, AccessToken, by(`{"alg":"PS256","kid":"`+kid+`"}`, good)},
		"alg none":                           {fence, AccessToken, enc.EncodeToString([]byte(`{"alg":"none","kid":"`+kid+`"}`)) + "." + parts[1] + "."},
		"HMAC under the public key's name":   {fence, AccessToken, by(`{"alg":"HS256","kid":"`+kid+`"}`, good)},
		"no kid":                             {fence, AccessToken, by(`{"alg":"RS256"}`, good)},
		"crit":                               {fence, AccessToken, by(`{"alg":"RS256","crit":["x"],"kid":"`+kid+`"}`, good)},
		"two kids":                           {fence, AccessToken, by(`{"alg":"RS256","kid":"x","kid":"`+kid+`"}`, good)},
		"two subjects":                       {fence, AccessToken, by(own, append(good.Clone(), session.Member{Name: "sub", Value: []byte(`"eve"`)}))},
		"a logout token":                     {fence, AccessToken, by(own, with("events", `{}`))},
		"a header that says ID token":        {fence, AccessToken, by(own, with("typ", `"ID"`))},
		"iss of another":                     {fence, AccessToken, by(own, claims(t, other, now, time.Hour))},
		"no iss":                             {fence, AccessToken, by(own, good.Without("iss"))},
		"expired":                            {fence, AccessToken, by(own, with("exp", strconv.FormatInt(now.Unix()-1, 10)))},
		"no exp":                             {fence, AccessToken, by(own, good.Without("exp"))},
		"exp that is a word":                 {fence, AccessToken, by(own, with("exp", `"never"`))},
		"exp beyond all":                     {fence, AccessToken, by(own, with("exp", "9223372036854775807"))},
		"nbf to come":                        {fence, AccessToken, by(own, with("nbf", strconv.FormatInt(now.Unix()+120, 10)))},
		"iat to come":                        {fence, AccessToken, by(own, with("iat", strconv.FormatInt(now.Unix()+120, 10)))},
		"another's signature":                {fence, AccessToken, parts[0] + "." + parts[1] + "." + enc.EncodeToString(strange)},
		"no signature":                       {fence, AccessToken, parts[0] + "." + parts[1] + "."},
		"claims of another token":            {fence, AccessToken, parts[0] + "." + enc.EncodeToString(with("sub", `"eve"`).Append(nil)) + "." + parts[2]},
		"a second spelling of the signature": {fence, AccessToken, access + "\n"},
		"padding":                            {fence, AccessToken, access + "="},
		"four parts":                         {fence, AccessToken, access + ".x"},
		"two parts":                          {fence, AccessToken, parts[0] + "." + parts[1]},
		"nothing":                            {fence, AccessToken, ""},
		"much":                               {fence, AccessToken, strings.Repeat("a", maxToken) + access},
	} {
		got, _, err := r.Verify(c.f, c.class, c.token)
		if !errors.Is(err, ErrToken) || got != nil {
			t.Errorf("%s: %v, %v", rule, got, err)
		} else if len(c.token) > 20 && strings.Contains(err.Error(), c.token[len(c.token)-12:]) {
			t.Errorf("%s: the error quotes the token", rule)
		}
	}
}

func FuzzVerify(f *testing.F) {
	r := open(f, f.TempDir(), Options{GoRSA: true})
	ensure(f, r, fence, "ES256", "EdDSA")
	token, _ := sign(f, r, fence, AccessToken, "ES256", time.Hour)
	id, _ := sign(f, r, fence, IDToken, "EdDSA", time.Hour)
	for _, s := range []string{token, id, "", "..", "e30.e30.", "eyJhbGciOiJub25lIn0.e30.AA", strings.Repeat(".", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, _, err := r.Verify(fence, AccessToken, s); err == nil && s != token {
			t.Fatalf("accepted %q", s)
		}
	})
}

// A logout token is signed by a key of its own, and says what it is; nothing else is signed by that key, and it is taken for nothing
// else (OpenID Connect Back-Channel Logout, sections 2.4 and 2.6).
func TestLogoutTokens(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "ES256")
	const head = `{"alg":"ES256","typ":"logout+jwt"}`
	good := claims(t, fence, time.Now(), time.Minute)
	good.Set("sid", []byte(`"s"`))
	good.Set("events", []byte(`{"http://schemas.openid.net/event/backchannel-logout":{}}`))
	with := func(name, value string) session.Object {
		c := good.Clone()
		c.Set(name, []byte(value))
		return c
	}
	if _, _, err := r.Sign(fence, LogoutToken, object(t, head), good); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without a key of the class: %v", err)
	}
	if err := r.Ensure(fence, "ES256", LogoutToken); err != nil {
		t.Fatal(err)
	}
	token, _, err := r.Sign(fence, LogoutToken, object(t, head), good)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Verify(fence, LogoutToken, token); err != nil {
		t.Error(err)
	}
	for _, class := range []string{AccessToken, IDToken, AuthorizationResponse} {
		if _, _, err := r.Verify(fence, class, token); !errors.Is(err, ErrToken) {
			t.Errorf("as %s: %v", class, err)
		}
	}
	for rule, c := range map[string]struct {
		class, header string
		claims        session.Object
	}{
		"a nonce":                  {LogoutToken, head, with("nonce", `"n"`)},
		"no event":                 {LogoutToken, head, good.Without("events")},
		"no type":                  {LogoutToken, `{"alg":"ES256"}`, good},
		"an access token's type":   {LogoutToken, `{"alg":"ES256","typ":"at+jwt"}`, good},
		"an ID token by its claim": {LogoutToken, head, with("typ", `"ID"`)},
		"nobody's":                 {LogoutToken, head, good.Without("sub").Without("sid")},
		"as an ID token":           {IDToken, head, good},
		"another issuer's":         {LogoutToken, head, with("iss", `"https://evil.example"`)},
	} {
		if token, _, err := r.Sign(fence, c.class, object(t, c.header), c.claims); !errors.Is(err, ErrNoKey) || token != "" {
			t.Errorf("%s: %q, %v", rule, token, err)
		}
	}
}
