package oauth

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

// entra is an assertion as Entra ID has it.
const entra = `{"iss":"` + issuer + `","sub":"s","aud":"api","azp":"spa","scp":"b a","sid":"1","tid":"t","oid":"o","acr":"1","exp":2,"iat":1,"jti":"x"}`

func onBehalfOf(claims string, more ...string) *flow.Ask {
	f := url.Values{"grant_type": {jwtBearerGrant}, "requested_token_use": {"on_behalf_of"}, "assertion": {jwt(`{"alg":"RS256","typ":"JWT","kid":"k"}`, claims)},
		"client_id": {"svc"}, "client_secret": {"s3cret"}, "scope": {"api openid"}}
	for i := 0; i < len(more); i += 2 {
		f.Set(more[i], more[i+1])
	}
	return JWTBearer{}.Match(post(f.Encode())).Ask()
}

// What an assertion says of person, session, client, audience, scope and strength is part of what is asked for; what belongs to
// the one token alone is not.
func TestOnWhoseBehalf(t *testing.T) {
	was := onBehalfOf(entra)
	if was.Unplayable != "" || was.Artifact.Kind != session.ClientSecret || was.SubjectRefused != "invalid_grant" || strings.Contains(was.Artifact.Value, "s3cret") {
		t.Fatalf("%+v", was)
	}
	for what, a := range map[string]*flow.Ask{
		"later":                onBehalfOf(strings.NewReplacer(`"exp":2,"iat":1,"jti":"x"`, `"jti":"y","iat":8,"exp":9`).Replace(entra)),
		"scope in other order": onBehalfOf(strings.Replace(entra, `"b a"`, `"a b"`, 1)),
		"scope as a list":      onBehalfOf(strings.Replace(entra, `"b a"`, `["b","a"]`, 1)),
		"what MSAL adds":       onBehalfOf(entra, "x-client-ver", "9", "client-request-id", "z", "x-app-ver", "2", "x-ms-lib-capability", "h429"),
	} {
		if a.Artifact != was.Artifact {
			t.Errorf("%s: another thing is asked for: %q", what, a.Unplayable)
		}
	}
	for from, to := range map[string]string{
		`"sub":"s"`: `"sub":"S"`, `"aud":"api"`: `"aud":["api","x"]`, `"azp":"spa"`: `"azp":"spb"`, `"scp":"b a"`: `"scp":"a"`, `"sid":"1"`: `"sid":"2"`,
		`"tid":"t"`: `"tid":"u"`, `"oid":"o"`: `"oid":"p"`, `"acr":"1"`: `"acr":"0"`, `"exp":2`: `"exp":2,"may_act":{}`, `"iat":1`: `"iat":1,"appid":"x"`,
		`"jti":"x"`: `"jti":"x","scope":"b a"`,
	} {
		if a := onBehalfOf(strings.Replace(entra, from, to, 1)); a.Artifact == was.Artifact || a.Artifact.Value == "" {
			t.Errorf("%s is taken for %s", to, from)
		}
	}
	for _, more := range [][2]string{{"requested_token_use", "x"}, {"claims", "{}"}, {"scope", "api"}, {"resource", "r"}, {"client_id", "svd"}, {"client_info", "1"}} {
		if a := onBehalfOf(entra, more[0], more[1]); a.Artifact == was.Artifact {
			t.Errorf("%s=%s asks for the same", more[0], more[1])
		}
	}
	if a := onBehalfOf(entra, "assertion", jwt(`{"alg":"RS256","typ":"at+jwt","kid":"k"}`, entra)); a.Artifact == was.Artifact || a.Artifact.Value == "" {
		t.Error("a token of another class asks for the same")
	}
	for why, a := range map[string]*flow.Ask{
		"subject_issuer":   onBehalfOf(strings.Replace(entra, issuer, "https://login.partner.example", 1)),
		"subject_token":    onBehalfOf(entra, "assertion", "opaque"),
		"cnf":              onBehalfOf(strings.Replace(entra, `"exp":2`, `"cnf":{"jkt":"x"}`, 1)),
		"no_client_secret": onBehalfOf(entra, "client_secret", ""),
	} {
		if a.Unplayable != why || a.Artifact.Value != "" {
			t.Errorf("%+v, want %s", a, why)
		}
	}
}

// A token is taken within its own times alone: without exp for never, from nbf on, and not at all where one of them cannot be read.
func TestLives(t *testing.T) {
	for claims, want := range map[string]bool{
		`{"exp":101}`: true, `{"exp":100}`: false, `{"exp":99}`: false, `{}`: false, `{"exp":"x"}`: false,
		`{"exp":101,"nbf":100}`: true, `{"exp":101,"nbf":0}`: true, `{"exp":102,"nbf":101}`: false, `{"exp":101,"nbf":"x"}`: false, `{"exp":101,"nbf":null}`: false,
	} {
		tok, err := ParseJWT(jwt(`{"alg":"RS256"}`, claims))
		if err != nil {
			t.Fatal(err)
		}
		if got := Lives(tok, time.Unix(100, 0)); got != want {
			t.Errorf("%s: %v", claims, got)
		}
	}
}
