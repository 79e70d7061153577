package proof

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const parameters = `"response_type":"code","client_id":"client-1","redirect_uri":"https://app.example/cb","max_age":60,` +
	`"resource":["https://null.example","https://b.example"],"claims":{"id_token":{"acr":null}},"scope":"openid \u00e9","prompt":"login"`

func requested(more string) string {
	return `{"iss":"client-1","aud":"` + issuer + `","exp":` + number(at(time.Minute)) + more + `,` + parameters + `}`
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func TestRequestObject(t *testing.T) {
	const typ = `{"alg":"ES256","typ":"oauth-authz-req+jwt"}`
	keys := keysOf(jwk(ecKey()))
	exp := `"exp":` + number(at(time.Minute))
	change := func(old, new string) string { return strings.Replace(requested(""), old, new, 1) }
	endless := func(r *RequestObjects) { r.Endless = true }
	for _, c := range []struct {
		rule, header, claims string
		change               func(*RequestObjects)
		want                 Code
	}{
		{"RFC 9101, 4: all is well", typ, requested(""), nil, ""},
		{"RFC 9101, 10.8: no typ", `{"alg":"ES256"}`, requested(""), nil, ""},
		{"RFC 9101, 10.8: typ JWT", `{"alg":"ES256","typ":"JWT"}`, requested(""), nil, ""},
		{"RFC 9101, 10.8: another typ", `{"alg":"ES256","typ":"dpop+jwt"}`, requested(""), nil, RequestObjectType},
		{"RFC 9101, 10.8: a client assertion", `{"alg":"ES256"}`, requested(`,"sub":"client-1"`), nil, RequestObjectType},
		{"alg none", `{"alg":"none"}`, requested(""), nil, RequestObjectAlg},
		{"alg HS256", `{"alg":"HS256"}`, requested(""), nil, RequestObjectAlg},
		{"alg not learned", `{"alg":"RS256"}`, requested(""), nil, RequestObjectAlg},
		{"jwk", `{"alg":"ES256","jwk":` + text(jwk(ecKey())) + `}`, requested(""), nil, RequestObjectHeader},
		{"jku", `{"alg":"ES256","jku":"https://evil.example"}`, requested(""), nil, RequestObjectHeader},
		{"x5u", `{"alg":"ES256","x5u":"https://evil.example"}`, requested(""), nil, RequestObjectHeader},
		{"crit", `{"alg":"ES256","crit":["x"],"x":1}`, requested(""), nil, RequestObjectHeader},
		{"RFC 9101, 4: request inside", typ, requested(`,"request":"x"`), nil, RequestObjectNested},
		{"RFC 9101, 4: request_uri inside", typ, requested(`,"request_uri":"https://app.example/r"`), nil, RequestObjectNested},
		{"RFC 9101, 4: request_uri null inside", typ, requested(`,"request_uri":null`), nil, RequestObjectNested},
		{"no iss", typ, change(`"iss":"client-1",`, ``), nil, RequestObjectClient},
		{"another iss", typ, change(`"iss":"client-1"`, `"iss":"client-2"`), nil, RequestObjectClient},
		{"RFC 9101, 5: another client_id", typ, change(`"client_id":"client-1"`, `"client_id":"client-2"`), nil, RequestObjectClient},
		{"client_id is no string", typ, change(`"client_id":"client-1"`, `"client_id":["client-1"]`), nil, RequestObjectClient},
		{"RFC 9101, 5: no client_id, it is beside", typ, change(`"client_id":"client-1",`, ``), nil, ""},
		{"no aud", typ, change(`"aud":"`+issuer+`",`, ``), nil, RequestObjectAudience},
		{"another aud", typ, change(issuer, "https://evil.example"), nil, RequestObjectAudience},
		{"several auds", typ, change(`"`+issuer+`"`, `["`+issuer+`","https://b.example"]`), nil, ""},
		{"expired", typ, change(exp, `"exp":`+number(at(-time.Second))), nil, RequestObjectExpired},
		{"no exp", typ, change(exp+",", ""), nil, RequestObjectLifetime},
		{"no exp, where the primary takes such", typ, change(exp+",", ""), endless, ""},
		{"expired, where the primary takes such without", typ, change(exp, `"exp":1`), endless, RequestObjectExpired},
		{"for years", typ, change(exp, `"exp":`+number(at(48*time.Hour))), nil, RequestObjectLifetime},
		{"nbf is ahead", typ, requested(`,"nbf":` + number(at(2*time.Minute))), nil, RequestObjectEarly},
		{"a parameter twice", typ, requested(`,"scope":"openid admin"`), nil, RequestObjectMalformed},
		{"a parameter is null", typ, requested(`,"state":null`), nil, RequestObjectMalformed},
		{"jti is no string", typ, requested(`,"jti":1`), nil, RequestObjectID},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := RequestObjects{Issuer: issuer, Client: client, Algs: []string{"ES256", "none", "HS256"}, Audiences: []string{issuer}}
			if c.change != nil {
				c.change(&r)
			}
			got, err := r.Verify(compact("ES256", c.header, c.claims, ecKey()), keys, now)
			is(t, err, c.want)
			if err == nil && (len(got.Parameters) < 8 || got.Once.Key != nil) {
				t.Errorf("%+v", got)
			}
		})
	}
	r := RequestObjects{Issuer: issuer, Client: client, Algs: []string{"ES256"}, Audiences: []string{issuer}}
	_, err := r.Verify(compact("ES256", typ, requested(""), otherEC()), keys, now)
	is(t, err, RequestObjectSignature)
	_, err = r.Verify(compact("ES256", typ, requested(""), ecKey()), keysOf(jwk(rsaKey())), now)
	is(t, err, RequestObjectKeyUnknown)
	_, err = r.Verify("e30.a.b.c.d", keys, now)
	is(t, err, RequestObjectEncrypted)
	_, err = r.Verify(compact("ES256", typ, requested(`,"x":"`+strings.Repeat("x", 40<<10)+`"`), ecKey()), keys, now)
	is(t, err, RequestObjectMalformed)
	// A client assertion is no request object, and the other way.
	_, err = r.Verify(compact("ES256", `{"alg":"ES256"}`, text(with(assertion(), "aud", issuer)), ecKey()), keys, now)
	is(t, err, RequestObjectType)
	_, err = demanded("ES256").PrivateKeyJWT(compact("ES256", `{"alg":"ES256"}`, requested(""), ecKey()), keys, now)
	is(t, err, AssertionClient)

	got, err := r.Verify(compact("ES256", typ, requested(`,"jti":"r-1","nbf":1,"iat":1`), ecKey()), keys, now)
	if err != nil || len(got.Once.Key) == 0 {
		t.Fatal(got, err)
	}
	if want := []Parameter{
		{"response_type", "code"}, {"client_id", "client-1"}, {"redirect_uri", "https://app.example/cb"}, {"max_age", "60"},
		{"resource", "https://null.example"}, {"resource", "https://b.example"}, {"claims", `{"id_token":{"acr":null}}`},
		{"scope", "openid é"}, {"prompt", "login"},
	}; !slices.Equal(got.Parameters, want) {
		t.Errorf("parameters\n%v, want\n%v", got.Parameters, want)
	}
}
