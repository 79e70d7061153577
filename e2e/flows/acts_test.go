package flows

import (
	"testing"
)

// everything is what is played at a primary.
func everything(k kind) *scene {
	sc := &scene{}
	for _, auth := range []string{"none", "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"} {
		sc.signIn("code + PKCE, refresh token", &app{id: "code-" + auth, auth: auth})
		if auth != "none" {
			sc.service("client credentials", &app{id: "service-" + auth, auth: auth})
		}
	}
	for _, auth := range []string{"none", "private_key_jwt"} {
		sc.signIn("code + PKCE + DPoP, refresh token", &app{id: "dpop-" + auth, auth: auth, dpop: true})
	}
	sc.service("client credentials + DPoP", &app{id: "dpop-service", auth: "client_secret_basic", dpop: true})
	sc.signIn("pushed request (PAR)", &app{id: "par", auth: "client_secret_basic", pushed: true})
	sc.signIn("pushed request (PAR) + DPoP", &app{id: "par-dpop", auth: "private_key_jwt", pushed: true, dpop: true})
	sc.signIn("signed response (JARM)", &app{id: "jarm", auth: "client_secret_basic", response: "jwt"})
	sc.signIn("signed request (JAR)", &app{id: "jar", auth: "private_key_jwt", signed: true})
	sc.signIn("hybrid code id_token", &app{id: "hybrid", auth: "client_secret_basic", response: "code id_token"})
	return sc
}

// play adds an act of an application.
func (sc *scene) play(flow string, a *app, client string, served, dead, back func(t *testing.T)) {
	sc.apps = append(sc.apps, a)
	sc.acts = append(sc.acts, &act{flow: flow, client: client, parts: [3]func(*testing.T){served, dead, back}})
}

// signIn is a person in a browser: the application is opened, renews, and is opened anew.
func (sc *scene) signIn(flow string, a *app) {
	a.grants = append(a.grants, code, refresh)
	v := &visitor{a: a}
	sc.play(flow, a, a.auth, v.served, v.dead, v.back)
}

// service is an application without a person.
func (sc *scene) service(flow string, a *app) {
	a.grants, a.resource = append(a.grants, credentials), api
	w := &worker{a: a}
	sc.play(flow, a, a.auth, w.served, w.dead, w.back)
}
