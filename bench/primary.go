package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The bench's own primary is where sessions come from, ten thousand of them in seconds: it signs tokens of Keycloak's
// shape and size (realm "norot") and checks nothing but the client and what it issued itself. It is nobody's peer.
const (
	realm       = "/realms/bench"
	authPath    = realm + "/protocol/openid-connect/auth"
	tokenPath   = realm + "/protocol/openid-connect/token"
	askPath     = tokenPath + "/introspect"
	userPath    = realm + "/protocol/openid-connect/userinfo"
	certsPath   = realm + "/protocol/openid-connect/certs"
	wellKnown   = realm + "/.well-known/openid-configuration"
	pagePath    = "/resources/page.html"
	pageSize    = 2048
	clientID    = "web"
	unlearnedID = "unlearned" // an X-Request-Id that asks for the same reply with the status 201, which is not learned
)

// primary is the handler. In canned mode a session's access and ID token are signed once and sent again and again, so
// that the primary's own work does not stand in the way of what is measured beside it. In opaque mode access tokens are no
// JWTs. In both tokens live long.
type primary struct {
	alg            string
	key            crypto.Signer
	kid            string
	secret         []byte
	canned, opaque bool
	made           sync.Map // subject → [2]string, the signed tokens in canned mode
	codes          sync.Map // code → *granted
	issued         sync.Map // opaque access token → the user's number
}

// primaryChild listens on args[0] and signs with the algorithm args[1], in the mode args[2]: fresh, canned or opaque.
func primaryChild(args []string) error {
	p := &primary{alg: args[1], canned: args[2] == "canned", opaque: args[2] == "opaque", secret: []byte(rand.Text())}
	var err error
	if p.alg == "ES256" {
		p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		p.key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return err
	}
	k := jose.JSONWebKey{Key: p.key.Public()}
	thumb, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	p.kid = base64.RawURLEncoding.EncodeToString(thumb)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wellKnown, p.discovery)
	mux.HandleFunc("GET "+certsPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: p.kid, Algorithm: p.alg, Use: "sig"}}})
	})
	mux.HandleFunc("POST "+tokenPath, p.token)
	mux.HandleFunc("GET "+authPath, p.authorize)
	mux.HandleFunc("POST "+askPath, p.introspect)
	mux.HandleFunc("GET "+pagePath, show("text/html;charset=utf-8", "no-store, must-revalidate, max-age=0", pageSize))
	mux.HandleFunc("GET "+scriptPath, show("text/javascript", "max-age=2592000", scriptSize))
	mux.HandleFunc("GET "+imagePath, show("image/png", "max-age=2592000", imageSize))
	return listenAndServe(args[0], mux)
}

// show answers with so many bytes.
func show(kind, cache string, size int) http.HandlerFunc {
	page := []byte("<!doctype html><title>A page</title>" + strings.Repeat("x", size))[:size]
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Cache-Control", cache)
		h.Set("Content-Length", strconv.Itoa(len(page)))
		w.Write(page)
	}
}

func (p *primary) discovery(w http.ResponseWriter, r *http.Request) {
	base := "http://" + r.Host
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"issuer": base + realm, "authorization_endpoint": base + authPath,
		"token_endpoint": base + tokenPath, "jwks_uri": base + certsPath, "introspection_endpoint": base + askPath, "userinfo_endpoint": base + userPath,
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{p.alg}, "grant_types_supported": []string{"authorization_code", "refresh_token", "client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}, "code_challenge_methods_supported": []string{"plain", "S256"},
	})
}

// authenticated is the client of a request, "" where it proves to be none: any name is a client's, and its secret follows
// from it.
func authenticated(r *http.Request) string {
	if id, secret, _ := r.BasicAuth(); secret == id+"-secret" {
		return id
	}
	return ""
}

// token answers authorization_code, where the code comes from the authorization endpoint, or is any number and makes a session
// of it, refresh_token and client_credentials.
func (p *primary) token(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	client := authenticated(r)
	if client == "" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}`)
		return
	}
	var sub, jti, nonce string
	invalid := func(what string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"%s"}`, what)
	}
	switch r.FormValue("grant_type") {
	case "authorization_code":
		sub, jti = r.FormValue("code"), "onrtac:"
		if _, err := strconv.Atoi(sub); err != nil {
			if sub, nonce = p.redeem(r, client); sub == "" {
				invalid("Code not valid")
				return
			}
		}
	case "refresh_token":
		sub, jti = p.subject(r.FormValue("refresh_token")), "onrtrt:"
		if sub == "" {
			invalid("Invalid refresh token")
			return
		}
	case "client_credentials":
		body := p.service(r.Host, client)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
		return
	default:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"unsupported_grant_type","error_description":"Unsupported grant_type"}`)
		return
	}
	body := p.response(r.Host, sub, jti, nonce)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Header.Get("X-Request-Id") == unlearnedID {
		w.WriteHeader(http.StatusCreated)
	}
	w.Write(body)
}

// life is how many seconds tokens live.
func (p *primary) life() int64 {
	if p.canned || p.opaque {
		return 7200
	}
	return 300
}

// subjectOf are the identifiers of a user, and of her session.
func subjectOf(n string) (sub, sid string) {
	id := sha256.Sum256([]byte(n))
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]), base64.RawURLEncoding.EncodeToString(id[:18])
}

func (p *primary) response(host, n, jti, nonce string) []byte {
	iss, now, life := "http://"+host+realm, time.Now().Unix(), p.life()
	sub, sid := subjectOf(n)
	if nonce != "" {
		nonce = fmt.Sprintf(`"nonce":"%s",`, nonce)
	}
	var at, it string
	if made, ok := p.made.Load(host + n + jti + nonce); ok {
		at, it = made.([2]string)[0], made.([2]string)[1]
	} else {
		at = p.sign(fmt.Sprintf(`{"exp":%d,"iat":%d,"auth_time":%d,"jti":"%s%s","iss":"%s","aud":"account","sub":"%s","typ":"Bearer","azp":"web","sid":"%s","acr":"1","allowed-origins":["http://127.0.0.1:9999"],"realm_access":{"roles":["default-roles-bench","offline_access","staff","uma_authorization"]},"resource_access":{"account":{"roles":["manage-account","manage-account-links","view-profile"]}},"scope":"openid email profile","email_verified":true,"name":"User %s","groups":["/engineering"],"preferred_username":"user%s","given_name":"User","family_name":"%s","email":"user%s@example.test"}`,
			now+life, now, now-20, jti, uuid(), iss, sub, sid, n, n, n, n))
		if p.opaque {
			at = rand.Text() + rand.Text()[:17]
			p.issued.Store(at, n)
		}
		hash := sha256.Sum256([]byte(at))
		it = p.sign(fmt.Sprintf(`{"exp":%d,"iat":%d,"auth_time":%d,"jti":"%s","iss":"%s","aud":"web","sub":"%s","typ":"ID","azp":"web",%s"sid":"%s","at_hash":"%s","acr":"1","email_verified":true,"name":"User %s","groups":["/engineering"],"preferred_username":"user%s","given_name":"User","family_name":"%s","email":"user%s@example.test"}`,
			now+life, now, now-20, uuid(), iss, sub, nonce, sid, base64.RawURLEncoding.EncodeToString(hash[:16]), n, n, n, n))
		if p.canned {
			p.made.Store(host+n+jti+nonce, [2]string{at, it})
		}
	}
	rt := p.mac(fmt.Sprintf(`{"exp":%d,"iat":%d,"jti":"%s","iss":"%s","aud":"%s","sub":"%s","typ":"Refresh","azp":"web","sid":"%s","scope":"openid web-origins roles acr email basic profile","prov":"default","n":"%s"}`,
		now+36000, now, uuid(), iss, iss, sub, sid, n))
	return fmt.Appendf(nil, `{"access_token":"%s","expires_in":%d,"refresh_expires_in":36000,"refresh_token":"%s","token_type":"Bearer","id_token":"%s","not-before-policy":0,"session_state":"%s","scope":"openid email profile"}`, at, life, rt, it, sid)
}

// sign makes a compact JWS with a header of the bytes that Keycloak writes.
func (p *primary) sign(claims string) string {
	e := base64.RawURLEncoding
	in := e.EncodeToString(fmt.Appendf(nil, `{"alg":"%s","typ" : "JWT","kid" : "%s"}`, p.alg, p.kid)) + "." + e.EncodeToString([]byte(claims))
	digest := sha256.Sum256([]byte(in))
	var sig []byte
	if k, ok := p.key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			panic(err)
		}
		sig = make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
	} else {
		var err error
		if sig, err = p.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
			panic(err)
		}
	}
	return in + "." + e.EncodeToString(sig)
}

// mac makes a refresh token as Keycloak does: a JWT under a key that nobody else has.
func (p *primary) mac(claims string) string {
	e := base64.RawURLEncoding
	in := e.EncodeToString([]byte(`{"alg":"HS512","typ" : "JWT","kid" : "`+p.kid+`"}`)) + "." + e.EncodeToString([]byte(claims))
	m := hmac.New(sha512.New, p.secret)
	m.Write([]byte(in))
	return in + "." + e.EncodeToString(m.Sum(nil))
}

// subject is the number of the session of a refresh token, "" where it is none of ours.
func (p *primary) subject(token string) string {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return ""
	}
	sig, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	m := hmac.New(sha512.New, p.secret)
	m.Write([]byte(token[:i]))
	if err != nil || !hmac.Equal(sig, m.Sum(nil)) {
		return ""
	}
	_, claims, _ := strings.Cut(token[:i], ".")
	b, err := base64.RawURLEncoding.DecodeString(claims)
	if err != nil {
		return ""
	}
	return text(b, "n")
}

func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
