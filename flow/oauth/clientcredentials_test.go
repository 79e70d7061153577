package oauth

import (
	"encoding/base64"
	"strings"
	"testing"

	"understudy/flow"
	"understudy/session"
)

func asks(t *testing.T, form string) *clientCredentials {
	t.Helper()
	x := ClientCredentials{}.Match(post(form))
	if x == nil {
		t.Fatal("no request of this flow")
	}
	return x.(*clientCredentials)
}

const service = "grant_type=client_credentials&client_id=svc&client_secret=s3cret"

// What is asked for is one place, in whatever order; anything else is another place.
func TestWhatAClientAsksForByItself(t *testing.T) {
	base := service + "&scope=a+b&resource=https://r1&resource=https://r2"
	same := service + "&scope=b+a+a&resource=https://r2&resource=https://r1"
	at := asks(t, base).ask.Artifact
	if at.Kind != session.ClientSecret || strings.Contains(at.Value, "s3cret") {
		t.Fatalf("artifact %+v", at)
	}
	if got := asks(t, same).ask.Artifact.Value; got != at.Value {
		t.Errorf("%q and %q ask for the same", got, at.Value)
	}
	for _, other := range []string{
		service, service + "&scope=a", service + "&scope=a+b", service + "&scope=a+b&resource=https://r1",
		strings.Replace(base, "=svc", "=svc2", 1), strings.Replace(base, "a+b", "a+b+c", 1), strings.Replace(base, "a+b", "ab", 1),
		service + "&scope=a+b&resource=https://r1https://r2", service + "&scope=a+b&resource=https://r1&audience=https://r3",
		strings.Replace(base, "=svc", "=svc%00a", 1),
	} {
		if got := asks(t, other).ask.Artifact.Value; got == at.Value {
			t.Errorf("%s is taken for %s", other, base)
		}
	}
}

func TestAPublicClientDoesNotAskByItself(t *testing.T) {
	for form, why := range map[string]string{
		"grant_type=client_credentials&client_id=svc":                   "no_client_secret",
		"grant_type=client_credentials&client_id=svc&client_secret=":    "no_client_secret",
		service + "&client_assertion=x&client_assertion_type=y":         "client_assertion",
		service + "&authorization_details=%5B%5D":                       "authorization_details",
		service + "&scope=a&scope=b":                                    "repeated_parameters",
		"grant_type=client_credentials&client_secret=s3cret&client_id=": "no_client",
		service + "&requested_token_type=urn:x":                         "requested_token_type",
	} {
		x := asks(t, form)
		if x.ask.Unplayable != why {
			t.Errorf("%s: unplayable for %q, want %q", form, x.ask.Unplayable, why)
		}
	}
	if x := (ClientCredentials{}).Match(post("grant_type=refresh_token")); x != nil {
		t.Error("another grant is taken for this one")
	}
}

func TestWhatAServiceTeaches(t *testing.T) {
	x := asks(t, service)
	l := x.Learn(reply(t, "refresh_token", "", "id_token", ""))
	if l == nil || l.Unlearned != "" || !l.Interactive || l.Record.First || l.Shape == nil || l.Record.Grant != "client_credentials" ||
		len(l.Artifacts) != 1 || l.Artifacts[0] != x.ask.Artifact || l.Presented == nil || *l.Presented != x.ask.Artifact || !l.Artifacts[0].Ends.IsZero() {
		t.Fatalf("%+v", l)
	}
	// A refresh token goes on by itself too.
	if l := x.Learn(reply(t)); len(l.Artifacts) != 1 || l.Artifacts[0] != x.ask.Artifact || l.Beside == nil || l.Beside.Artifacts[0].Kind != session.RefreshToken ||
		l.Beside.Presented != nil || !l.Beside.Record.First || l.Record.First {
		t.Errorf("with a refresh token: %+v", l)
	}
	if l := asks(t, "grant_type=client_credentials&client_id=svc").Learn(reply(t, "refresh_token", "")); l.Unlearned != "no_client_secret" {
		t.Errorf("of a client without a secret: %+v", l)
	}
}

// A token of which somebody may want more than it says of itself is kept.
func TestWhichTokensShowWhatTheyAre(t *testing.T) {
	says := func(with string) string {
		e := base64.RawURLEncoding.EncodeToString
		return e([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + e([]byte(`{"iss":"https://idp.example","iat":1,"exp":301`+with+`}`)) + ".c2ln"
	}
	whole := says(`,"sub":"svc","azp":"svc"`)
	for name, c := range map[string]struct {
		token, scope string
		kind         session.Kind
		change       func(*flow.Permit)
		kept         bool
	}{
		"a service's":             {token: whole, scope: "read"},
		"by the client's key":     {token: whole, scope: "read", kind: session.ClientKey},
		"a person's":              {token: whole, scope: "read", kind: session.RefreshToken, kept: true},
		"with UserInfo":           {token: whole, scope: "read openid", kept: true},
		"opaque":                  {token: "QmFzZTY0dXJs", scope: "read", kept: true},
		"without a client":        {token: says(`,"sub":"svc"`), scope: "read", kept: true},
		"without a subject":       {token: says(`,"client_id":"svc"`), scope: "read", kept: true},
		"another issuer's":        {token: whole, scope: "read", kept: true, change: func(p *flow.Permit) { p.Record.Issuer = "https://other.example" }},
		"bound, and does not say": {token: whole, scope: "read", kept: true, change: func(p *flow.Permit) { p.Record.Certificate, p.Play.Client.Certificate = "x", "x" }},
		"bound, and says so": {token: says(`,"sub":"svc","azp":"svc","cnf":{"x5t#S256":"x"}`), scope: "read",
			change: func(p *flow.Permit) { p.Record.Certificate, p.Play.Client.Certificate = "x", "x" }},
	} {
		rec := &session.Record{
			Issuer: "https://idp.example", Client: "svc", Grant: "client_credentials", Scope: strings.Fields(c.scope),
			Response: session.Object{{Name: "access_token", Value: []byte("null")}, {Name: "expires_in", Value: []byte("300")}, {Name: "token_type", Value: []byte(`"Bearer"`)}},
		}
		if tok, err := ParseJWT(c.token); err == nil {
			rec.AccessToken = tok
		} else {
			look := lookOf(c.token)
			rec.Opaque = &look
		}
		p := permit(rec, nil)
		if p.Play.Artifact.Kind = c.kind; c.kind == "" {
			p.Play.Artifact.Kind = session.ClientSecret
		}
		if c.change != nil {
			c.change(p)
		}
		r, no := answer(p)
		if no != nil || (len(r.Issued) == 1) != c.kept {
			t.Errorf("%s: %+v %+v", name, r, no)
		}
	}
}
