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
	if k.nonces {
		for _, auth := range []string{"none", "private_key_jwt"} {
			sc.signIn("code + PKCE + DPoP with nonces", &app{id: "nonce-" + auth, auth: auth, dpop: true, nonces: true})
		}
		sc.service("client credentials + DPoP with nonces", &app{id: "nonce-service", auth: "private_key_jwt", dpop: true, nonces: true})
		sc.signIn("PAR + DPoP with nonces", &app{id: "nonce-par", auth: "private_key_jwt", pushed: true, dpop: true, nonces: true})
		sc.ask("UserInfo + DPoP with nonces", &app{id: "nonce-info", auth: "none", dpop: true, nonces: true}, nil)
	}
	sc.signIn("pushed request (PAR)", &app{id: "par", auth: "client_secret_basic", pushed: true})
	sc.signIn("pushed request (PAR) + DPoP", &app{id: "par-dpop", auth: "private_key_jwt", pushed: true, dpop: true})
	sc.signIn("signed response (JARM)", &app{id: "jarm", auth: "client_secret_basic", response: "jwt"})
	sc.signIn("signed request (JAR)", &app{id: "jar", auth: "private_key_jwt", signed: true})
	if k.fetches {
		sc.signIn("signed request by reference (JAR)", &app{id: "jar-uri", auth: "private_key_jwt", signed: true, referenced: true})
	}
	sc.signIn("pushed, signed request", &app{id: "par-jar", auth: "private_key_jwt", pushed: true, signed: true})
	sc.signIn("hybrid code id_token", &app{id: "hybrid", auth: "client_secret_basic", response: "code id_token"})
	sc.signIn("hybrid code id_token by form_post", &app{id: "hybrid-form", auth: "client_secret_post", response: "code id_token", form: true})
	sc.signIn("code + PKCE by form_post", &app{id: "form", auth: "client_secret_basic", form: true})
	sc.implicit("implicit id_token", &app{id: "implicit", auth: "none", response: "id_token"})
	sc.implicit("implicit id_token by form_post", &app{id: "implicit-form", auth: "none", response: "id_token", form: true})
	sc.wait(k, "device authorization", "device", device, "none")
	sc.wait(k, "CIBA", "ciba", ciba, "client_secret_basic")
	sc.ask("UserInfo", &app{id: "info", auth: "none"}, nil)
	sc.ask("UserInfo + DPoP", &app{id: "info-dpop", auth: "none", dpop: true}, nil)
	sc.ask("UserInfo, certificate-bound", &app{id: "info-tls", auth: "tls_client_auth"}, nil)
	sc.ask("introspection, bound by DPoP", &app{id: "asked-dpop", auth: "none", dpop: true}, &app{id: "server-dpop", auth: "client_secret_basic"})
	sc.ask("introspection, certificate-bound", &app{id: "asked-tls", auth: "tls_client_auth"}, &app{id: "server-tls", auth: "client_secret_basic"})
	sc.ask("UserInfo, signed", &app{id: "info-jwt", auth: "client_secret_basic", jwtInfo: true}, nil)
	for _, auth := range []string{"client_secret_basic", "private_key_jwt", "tls_client_auth"} {
		sc.ask("introspection", &app{id: "asked-" + auth, auth: "none"}, &app{id: "server-" + auth, auth: auth})
	}
	if k.introspectsByJWT {
		sc.ask("introspection, signed", &app{id: "asked-jwt", auth: "none"}, &app{id: "server-jwt", auth: "client_secret_basic", jwtInfo: true})
	}
	r := &revoker{a: &app{id: "revoker", auth: "client_secret_basic", grants: []string{code, refresh}}}
	sc.play("revocation", r.a.auth, r.served, r.dead, r.back, r.a)
	p := newParty()
	l := &leaver{p: p, a: &app{id: "leaver", auth: "client_secret_basic", grants: []string{code, refresh}, back: p.URL}}
	sc.play("logout, back-channel logout", l.a.auth, l.served, l.dead, l.back, l.a)
	sc.parties = append(sc.parties, p)
	if k.onBehalf {
		sc.signIn("code + PKCE for a resource (RFC 8707)", &app{id: "resource", auth: "none", resource: api})
		d := &delegate{
			grant:   bearer,
			a:       &app{id: "caller", auth: "none", grants: []string{code, refresh}, resource: api},
			service: &app{id: "api", auth: "client_secret_post", there: true},
		}
		sc.play("on behalf of, by an assertion", d.service.auth, d.served, d.dead, d.back, d.a, d.service)
	}
	if k.exchanges {
		d := &delegate{
			grant:   exchange,
			a:       &app{id: "subject", auth: "none", grants: []string{code, refresh}, audience: "delegate"},
			service: &app{id: "delegate", auth: "client_secret_basic", grants: []string{exchange}},
		}
		sc.play("token exchange", d.service.auth, d.served, d.dead, d.back, d.a, d.service)
	}
	return sc
}

// play adds an act of some applications.
func (sc *scene) play(flow, client string, served, dead, back func(t *testing.T), apps ...*app) {
	sc.apps = append(sc.apps, apps...)
	sc.acts = append(sc.acts, &act{flow: flow, client: client, parts: [3]func(*testing.T){served, dead, back}})
}

// signIn is a person in a browser: the application is opened, renews, and is opened anew.
func (sc *scene) signIn(flow string, a *app) {
	a.grants = append(a.grants, code, refresh)
	v := &visitor{a: a}
	sc.play(flow, a.auth, v.served, v.dead, v.back, a)
}

// implicit is the same without a code: there is nothing to renew with.
func (sc *scene) implicit(flow string, a *app) {
	a.grants = append(a.grants, implicit)
	v := &visitor{a: a}
	sc.play(flow, a.auth, v.served, v.dead, v.back, a)
}

// service is an application without a person.
func (sc *scene) service(flow string, a *app) {
	a.grants, a.resource = append(a.grants, credentials), api
	w := &worker{a: a}
	sc.play(flow, a.auth, w.served, w.dead, w.back, a)
}

// wait is an application whose person is elsewhere.
func (sc *scene) wait(k kind, flow, command, grant, auth string) {
	of := func(id string) *app { return &app{id: id, auth: auth, grants: []string{grant, refresh}} }
	w := &waiter{command: command, forgets: k.forgets, done: of(command + "-done"), due: of(command + "-due")}
	sc.play(flow, auth, w.served, w.dead, w.back, w.done, w.due)
}

// ask is an application, or its resource server, that asks about a token.
func (sc *scene) ask(flow string, a, server *app) {
	a.grants = append(a.grants, code, refresh)
	q := &asker{a: a, server: server}
	apps, client := []*app{a}, a.auth
	if server != nil {
		server.grants, a.audience = append(server.grants, credentials), server.id
		apps, client = append(apps, server), server.auth
	}
	sc.play(flow, client, q.served, q.dead, q.back, apps...)
}
