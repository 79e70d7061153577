package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"understudy/gateway"
)

const (
	scriptPath = "/resources/script.js"
	scriptSize = 100 << 10
	imagePath  = "/resources/background.png"
	imageSize  = 200 << 10
	signInSize = 10 << 10 // of the page that asks for name and password
)

// sessionCookie carries the session at the bench's own primary, as Keycloak's does.
var sessionCookie = gateway.SessionCookies()[0]

// granted is what a code was given for.
type granted struct {
	user    string
	request url.Values
}

// authorize lets in, without a person, a browser with the session cookie, which it replaces as Keycloak does; and a browser
// with a login_hint, the user's number, as if she had just typed it. Any other gets the page on which people sign in.
func (p *primary) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n := q.Get("login_hint")
	if c, err := r.Cookie(sessionCookie); err == nil {
		n = p.subject(c.Value)
	}
	if n == "" {
		askForPassword(w, r)
		return
	}
	now, iss := time.Now().Unix(), "http://"+r.Host+realm
	sub, sid := subjectOf(n)
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Path: realm + "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteNoneMode,
		Value: p.mac(fmt.Sprintf(`{"exp":%d,"iat":%d,"jti":"%s","iss":"%s","sub":"%s","typ":"Serialized-ID","sid":"%s","state_checker":"%s","n":"%s"}`,
			now+36000, now, uuid(), iss, sub, sid, rand.Text(), n)),
	})
	code := uuid() + "." + sid + "." + uuid()
	p.codes.Store(code, &granted{n, q})
	back := fmt.Sprintf("%s?state=%s&session_state=%s&iss=%s&code=%s",
		q.Get("redirect_uri"), url.QueryEscape(q.Get("state")), sid, url.QueryEscape(iss), code)
	w.Header().Set("Location", back)
	w.Header().Set("Cache-Control", "no-store, must-revalidate, max-age=0")
	w.WriteHeader(http.StatusFound)
}

// askForPassword shows the page on which people sign in.
func askForPassword(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: "AUTH_SESSION_ID", Value: uuid(), Path: realm + "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteNoneMode})
	signInPage(w, r)
}

var signInPage = show("text/html;charset=utf-8", "no-store, must-revalidate, max-age=0", signInSize)

// redeem is the user of a code and the nonce of the request that it was given for, "" where the request may not redeem it.
func (p *primary) redeem(r *http.Request, client string) (n, nonce string) {
	v, ok := p.codes.LoadAndDelete(r.FormValue("code"))
	if !ok {
		return "", ""
	}
	g := v.(*granted)
	if sum := sha256.Sum256([]byte(r.FormValue("code_verifier"))); base64.RawURLEncoding.EncodeToString(sum[:]) != g.request.Get("code_challenge") ||
		g.request.Get("client_id") != client || g.request.Get("redirect_uri") != r.FormValue("redirect_uri") {
		return "", ""
	}
	return g.user, g.request.Get("nonce")
}

// service is the reply to a client that asks for itself.
func (p *primary) service(host, client string) []byte {
	now, life := time.Now().Unix(), p.life()
	sub, _ := subjectOf(client)
	at := p.sign(fmt.Sprintf(`{"exp":%d,"iat":%d,"jti":"trrtcc:%s","iss":"%s","aud":"account","sub":"%s","typ":"Bearer","azp":"%s","acr":"1","realm_access":{"roles":["default-roles-bench","offline_access","uma_authorization"]},"resource_access":{"account":{"roles":["manage-account","manage-account-links","view-profile"]}},"scope":"email profile","clientHost":"127.0.0.1","email_verified":false,"preferred_username":"service-account-%s","clientAddress":"127.0.0.1","client_id":"%s"}`,
		now+life, now, uuid(), "http://"+host+realm, sub, client, client, client))
	return fmt.Appendf(nil, `{"access_token":"%s","expires_in":%d,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"email profile"}`, at, life)
}

// introspect tells any client of an opaque token.
func (p *primary) introspect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if authenticated(r) == "" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
		return
	}
	n, ok := p.issued.Load(r.FormValue("token"))
	if !ok {
		fmt.Fprint(w, `{"active":false}`)
		return
	}
	now := time.Now().Unix()
	sub, _ := subjectOf(n.(string))
	fmt.Fprintf(w, `{"active":true,"sub":"%s","client_id":"%s","exp":%d,"iat":%d,"iss":"%s","scope":"openid email profile","token_type":"Bearer"}`,
		sub, clientID, now+p.life(), now, "http://"+r.Host+realm)
}
