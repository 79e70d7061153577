// Package idp is the demo's own identity provider: small, but a real one on the wire, so that the demo needs nothing but
// Go.
//
// It owns its people, its one client and its state file. It refuses to be anything but the demo's: its people are
// invented, their password stands on its sign-in page, and every page and path says so. It may not import what it is
// there to show.
package idp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Config of a provider.
type Config struct {
	Issuer       string // the public URL, which is the gateway's
	StateFile    string // keeps the key, sessions and refresh tokens over a SIGKILL
	ClientID     string
	ClientSecret string
	RedirectURI  string
	LogoutURI    string // where a browser may go after a logout
	// Rotate makes every refresh token good for one use (RFC 9700, section 4.14.2).
	Rotate bool
	// Lifetime of access and ID tokens; 0: one minute.
	Lifetime time.Duration
}

// People who can sign in, all with Password.
var people = map[string]string{"alice": "Alice Archer", "bob": "Bob Baker", "carol": "Carol Carter"}

// Password is everybody's.
const Password = "demo"

// Base is the path below which everything of the provider but its metadata lies.
const Base = "/demo-idp"

// Provider is an http.Handler.
type Provider struct {
	c     Config
	store *store
	mux   *http.ServeMux
	codes codes
	key   jose.JSONWebKey // private
	now   func() time.Time
}

// New opens the state file, or makes it.
func New(c Config) (*Provider, error) {
	if c.Lifetime == 0 {
		c.Lifetime = time.Minute
	}
	s, key, err := openStore(c.StateFile)
	if err != nil {
		return nil, err
	}
	p := &Provider{c: c, store: s, mux: http.NewServeMux(), now: time.Now}
	p.key = jose.JSONWebKey{Key: key, Algorithm: string(jose.RS256), Use: "sig"}
	print, err := p.key.Thumbprint(sha256Hash)
	if err != nil {
		return nil, fmt.Errorf("name the demo identity provider's key: %w", err)
	}
	p.key.KeyID = base64.RawURLEncoding.EncodeToString(print)
	p.mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	p.mux.HandleFunc("GET "+Base+"/jwks", p.jwks)
	p.mux.HandleFunc(Base+"/authorize", p.authorize)
	p.mux.HandleFunc("POST "+Base+"/token", p.token)
	p.mux.HandleFunc(Base+"/userinfo", p.userinfo)
	p.mux.HandleFunc("POST "+Base+"/revoke", p.revoke)
	p.mux.HandleFunc(Base+"/logout", p.logout)
	return p, nil
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "demo-identity-provider")
	p.mux.ServeHTTP(w, r)
}

// Serve answers on a loopback address until ctx ends.
func Serve(ctx context.Context, listen string, p *Provider) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("start the demo identity provider: %w", err)
	}
	srv := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	at := func(path string) string { return p.c.Issuer + Base + path }
	writeJSON(w, http.StatusOK, struct {
		Issuer        string   `json:"issuer"`
		Authorization string   `json:"authorization_endpoint"`
		Token         string   `json:"token_endpoint"`
		UserInfo      string   `json:"userinfo_endpoint"`
		JWKS          string   `json:"jwks_uri"`
		Revocation    string   `json:"revocation_endpoint"`
		EndSession    string   `json:"end_session_endpoint"`
		Scopes        []string `json:"scopes_supported"`
		ResponseTypes []string `json:"response_types_supported"`
		Grants        []string `json:"grant_types_supported"`
		Subjects      []string `json:"subject_types_supported"`
		Algs          []string `json:"id_token_signing_alg_values_supported"`
		Auth          []string `json:"token_endpoint_auth_methods_supported"`
		PKCE          []string `json:"code_challenge_methods_supported"`
		Iss           bool     `json:"authorization_response_iss_parameter_supported"`
	}{
		p.c.Issuer, at("/authorize"), at("/token"), at("/userinfo"), at("/jwks"), at("/revoke"), at("/logout"),
		[]string{"openid", "profile", "email", "offline_access"}, []string{"code"}, []string{"authorization_code", "refresh_token"},
		[]string{"public"}, []string{"RS256"}, []string{"client_secret_basic", "client_secret_post"}, []string{"S256"}, true,
	})
}

func (p *Provider) jwks(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{p.key.Public()}})
}

// sign makes a JWT of the given type.
func (p *Provider) sign(typ string, claims any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.key}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(claims).Serialize()
}

// open verifies one of the provider's own tokens. An expired one is returned with its claims and true.
func (p *Provider) open(token, typ string) (claims tokenClaims, expired bool, err error) {
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return claims, false, err
	}
	if len(t.Headers) != 1 || t.Headers[0].ExtraHeaders[jose.HeaderType] != typ {
		return claims, false, errors.New("a token of another type")
	}
	if err := t.Claims(p.key.Public().Key, &claims); err != nil {
		return claims, false, err
	}
	if claims.Issuer != p.c.Issuer {
		return claims, false, errors.New("another issuer's token")
	}
	return claims, claims.Expiry <= p.now().Unix(), nil
}

// tokenClaims are the members of access and ID tokens, in the order in which they are written.
type tokenClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
	ID       string `json:"jti,omitempty"`
	SID      string `json:"sid"`
	Client   string `json:"client_id,omitempty"`
	Scope    string `json:"scope,omitempty"`
	AuthTime int64  `json:"auth_time,omitempty"`
	Nonce    string `json:"nonce,omitempty"`
	AtHash   string `json:"at_hash,omitempty"`
	Name     string `json:"name,omitempty"`
	Username string `json:"preferred_username,omitempty"`
	Email    string `json:"email,omitempty"`
}

// random returns 32 random bytes as text.
func random() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// digest is how secrets are kept.
func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
}

// oauthError writes RFC 6749, section 5.2.
func oauthError(w http.ResponseWriter, status int, code, description string) {
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="demo-idp"`)
	}
	writeJSON(w, status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, description})
}

func withQuery(uri string, q url.Values) (string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	have := u.Query()
	for k, v := range q {
		have[k] = v
	}
	u.RawQuery = have.Encode()
	return u.String(), nil
}
