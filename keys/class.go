package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"strings"
	"time"

	"understudy/session"
)

const (
	// minReach is the least time for which a retired key stays published.
	minReach = 24 * time.Hour
	// maxLifetime bounds the lifetime of a token.
	maxLifetime = 400 * 24 * time.Hour
	// leeway is how far the clocks of two nodes may differ.
	leeway = time.Minute
)

// contradicts says why a token of this form is none of the class, or "". The class is in the key; this only keeps a
// token that says of itself that it is something else (a logout token, a refresh token) from being signed at all.
func contradicts(class string, header, claims session.Object) string {
	typ := strings.TrimPrefix(strings.ToLower(header.Text("typ")), "application/")
	switch class {
	case LogoutToken:
		return noLogoutToken(typ, claims)
	case Introspection:
		return noIntrospection(typ, claims)
	}
	switch {
	case typ == "at+jwt": // RFC 9068
		if class != AccessToken {
			return "its header says access token"
		}
	case strings.HasSuffix(typ, "+jwt"): // RFC 8725, section 3.11: every other explicit type is something else
		return "its header names another type"
	}
	switch claims.Text("typ") { // Keycloak
	case "Bearer", "DPoP":
		if class != AccessToken {
			return "its claims say access token"
		}
	case "ID":
		if class != IDToken {
			return "its claims say ID token"
		}
	case "Refresh", "Offline", "Logout", "Serialized-ID", "InitialAccessToken", "RegistrationAccessToken", "Permission":
		return "its claims name another type"
	}
	if class == AuthorizationResponse && (claims.Has("sub") || claims.Has("nonce")) { // JARM, section 2.1: it says nothing of a person
		return "it says who signed in"
	}
	if class == UserInfo && (claims.Text("sub") == "" || claims.Has("nonce") || claims.Has("at_hash") || claims.Has("scope")) {
		return "it says more than who somebody is"
	}
	if claims.Has("events") { // RFC 8417; OpenID Connect Back-Channel Logout, section 2.4
		return "it carries security events"
	}
	return ""
}

// noLogoutToken says why a token is no logout token (OpenID Connect Back-Channel Logout, sections 2.4 and 2.6), or "". What
// sets one apart from an ID token is demanded beside its key: the explicit type, the event, and that there is no nonce.
func noLogoutToken(typ string, claims session.Object) string {
	switch {
	case typ != "logout+jwt":
		return "its header does not say logout token"
	case !claims.Has("events"):
		return "it carries no event"
	case claims.Has("nonce"):
		return "it carries a nonce"
	case claims.Has("typ") && claims.Text("typ") != "Logout": // Keycloak
		return "its claims name another type"
	case claims.Text("sub") == "" && claims.Text("sid") == "":
		return "it names neither subject nor session"
	}
	return ""
}

// noIntrospection says why a token is no introspection response (RFC 9701, section 5), or "". It must not be taken for the token that
// it is about: the explicit type, and what it says inside a member of its own.
func noIntrospection(typ string, claims session.Object) string {
	switch {
	case typ != "token-introspection+jwt":
		return "its header does not say introspection response"
	case !claims.Has("token_introspection"):
		return "it says of no token what it is"
	case claims.Has("sub") || claims.Has("exp"):
		return "it could be taken for a token"
	}
	return ""
}

// method is how an algorithm signs (RFC 7518, section 3.1; RFC 8037).
type method struct {
	hash crypto.Hash
	opts crypto.SignerOpts
	size int // of one half of an ECDSA signature, else 0
}

func methods() map[string]method {
	pss := func(h crypto.Hash) method {
		return method{hash: h, opts: &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}}
	}
	return map[string]method{
		"RS256": {hash: crypto.SHA256, opts: crypto.SHA256},
		"RS384": {hash: crypto.SHA384, opts: crypto.SHA384},
		"RS512": {hash: crypto.SHA512, opts: crypto.SHA512},
		"PS256": pss(crypto.SHA256),
		"PS384": pss(crypto.SHA384),
		"PS512": pss(crypto.SHA512),
		"ES256": {hash: crypto.SHA256, opts: crypto.SHA256, size: 32},
		"ES384": {hash: crypto.SHA384, opts: crypto.SHA384, size: 48},
		"ES512": {hash: crypto.SHA512, opts: crypto.SHA512, size: 66},
		"EdDSA": {opts: crypto.Hash(0)},
	}
}

// fits says whether a public key is one for the method.
func (m method) fits(pub crypto.PublicKey) bool {
	switch p := pub.(type) {
	case *rsa.PublicKey:
		return m.size == 0 && m.hash != 0 && p.N.BitLen() >= 2048
	case *ecdsa.PublicKey:
		return m.size != 0 && m.size == (p.Curve.Params().BitSize+7)/8
	case ed25519.PublicKey:
		return m.hash == 0
	}
	return false
}
