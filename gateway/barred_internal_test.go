package gateway

import (
	"context"
	"encoding/base64"
	"slices"
	"testing"
	"time"

	"understudy/backup"
	"understudy/flow/oauth"
	"understudy/session"
)

// ended is a backup at which sessions of one client have ended.
type ended struct {
	asked
	client session.ID
}

func (b *ended) Barred(_ context.Context, in *backup.SignIn) (bool, error) {
	return in.Client == b.client, nil
}

// Tokens of a session that was ended here are seen wherever the reply comes from that carries them, and for each client that they are for.
func TestEndedHere(t *testing.T) {
	const issuerID = "https://id.example/oidc"
	jwt := func(claims string) string {
		e := base64.RawURLEncoding.EncodeToString
		return e([]byte(`{"alg":"RS256"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature"))
	}
	b := &ended{}
	g := asking(t, b, time.Now)
	b.client = g.c.Seal.Pseudonym("client", "t", issuerID, "app")
	tenant := &Tenant{Name: "t", meta: &metadata{}}
	tenant.meta.all.Store(&map[string]*issuer{"/oidc/.well-known/openid-configuration": {ID: issuerID}})
	v := &visit{tenant: tenant, path: "/login", endpoint: "other", began: time.Now()} // a page that lies outside of the issuer's path
	for claims, want := range map[string]bool{
		`{"iss":"` + issuerID + `","sub":"a","aud":"app"}`:               true,
		`{"iss":"` + issuerID + `","sub":"a","aud":["api","app"]}`:       true,
		`{"iss":"` + issuerID + `","sub":"a","aud":"api","azp":"app"}`:   true,
		`{"iss":"` + issuerID + `","sub":"a","aud":"app","azp":"other"}`: false,
		`{"iss":"` + issuerID + `","sub":"a","aud":"other"}`:             false,
		`{"iss":"https://id.example/another","sub":"a","aud":"app"}`:     false,
	} {
		for how, carried := range map[string][]string{
			"fragment":                           oauth.Carried("https://app.example/cb#state=x&id_token=" + jwt(claims)),
			"query":                              oauth.Carried("https://app.example/cb?access_token=" + jwt(claims) + "&state=x"),
			"behind another in the redirect URI": oauth.Carried("https://app.example/cb?id_token=x#id_token=" + jwt(claims)),
			"a JWT":                              oauth.Carried("https://app.example/cb?response=" + jwt(`{"aud":"app","id_token":"`+jwt(claims)+`"}`)),
			"a form":                             oauth.CarriedByForm([]byte(`<form action="https://app.example/cb"><input name=state value=x><input type="hidden" name="id_token" value="` + jwt(claims) + `"/></form>`)),
		} {
			if got := g.endedHere(t.Context(), v, carried); got != want || !slices.ContainsFunc(carried, func(s string) bool { return len(s) > 1 }) {
				t.Errorf("%s, by %s: %v, want %v (%d carried)", claims, how, got, want, len(carried))
			}
		}
	}
	if oauth.Carried("https://app.example/cb?code=c&state=id_token%3D"+jwt(`{}`)) != nil {
		t.Error("a state is taken for a token")
	}
}
