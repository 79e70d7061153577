package flows

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"understudy/idptest"
)

const bye = "http://127.0.0.1:9999/bye"

// redirect is where the application gets its responses. One that gets tokens there is a web application, for which oidc-provider wants
// https.
func (a *app) redirect() string {
	if a.response == "id_token" {
		return "https://app.example.test/cb"
	}
	return "http://127.0.0.1:9999/cb"
}

// app is one application: a client of the primary's with openid-client in it.
type app struct {
	id   string
	auth string // its token_endpoint_auth_method
	// Of its requests: they are pushed (RFC 9126), signed (RFC 9101), lie at its own host (RFC 9101, section 5.2), and prove possession
	// of a key (RFC 9449).
	pushed, signed, referenced, dpop bool
	nonces                           bool   // the primary demands them in its proofs
	response                         string // "" is a code; else "jwt", "code id_token", "id_token"
	form                             bool   // the response is posted to it
	audience                         string // another application for which its tokens are meant too
	grants                           []string
	resource                         string // it asks for this one (RFC 8707)
	back                             string // where it is told of logouts
	jwtInfo                          bool   // UserInfo and introspection answer it with JWTs
	there                            bool   // the primary has it already, with the secret "ID-secret"

	secret  string
	cert    *certificate
	objects int // port at which its requests lie; 0: it sends them
	s       *stage
}

// Grant types by their names in OAuth 2.0.
const (
	code        = "authorization_code"
	refresh     = "refresh_token"
	credentials = "client_credentials"
	device      = "urn:ietf:params:oauth:grant-type:device_code"
	ciba        = "urn:openid:params:grant-type:ciba"
	exchange    = "urn:ietf:params:oauth:grant-type:token-exchange"
	implicit    = "implicit"
	bearer      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// byCertificate says whether it authenticates with one; then its tokens are bound to it (RFC 8705).
func (a *app) byCertificate() bool { return strings.HasSuffix(a.auth, "tls_client_auth") }

// lies is where its request objects are, as it registers that.
func (a *app) lies() string { return fmt.Sprintf("http://127.0.0.1:%d/objects/*", a.objects) }

func (a *app) signs() bool { return a.signed || a.auth == "private_key_jwt" }

// equip gives an application its secret and certificate.
func (a *app) equip(k *keyring) (err error) {
	switch {
	case a.there:
		a.secret = a.id + "-secret"
	case strings.HasPrefix(a.auth, "client_secret"):
		a.secret = a.id + "-secret-of-more-than-thirty-two-bytes"
	}
	if a.referenced {
		if a.objects, err = idptest.FreePort(); err != nil {
			return err
		}
	}
	if a.byCertificate() {
		a.cert, err = k.certify(a.id, strings.HasPrefix(a.auth, "self_signed"))
	}
	return err
}

// configured is what the gateway's configuration says of the application, "" where it need not know anything.
func (a *app) configured(k *keyring) (string, error) {
	lines := []string{fmt.Sprintf("id: %q", a.id)}
	add := func(key string, content []byte) error {
		at, err := k.file(a.id+"."+key, content)
		lines = append(lines, fmt.Sprintf("%s: %q", key, at))
		return err
	}
	if a.signs() || strings.HasPrefix(a.auth, "self_signed") {
		set, err := k.registered(a.cert)
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(set)
		if err != nil {
			return "", err
		}
		if err := add("jwks_file", b); err != nil {
			return "", err
		}
	}
	if a.referenced {
		lines = append(lines, fmt.Sprintf("request_uris: [%q]", a.lies()))
	}
	if a.auth == "client_secret_jwt" {
		if err := add("secret_file", []byte(a.secret)); err != nil {
			return "", err
		}
	}
	if a.back != "" {
		lines = append(lines, fmt.Sprintf("backchannel_logout_uri: %q", a.back), "backchannel_logout_session_required: true")
	}
	if len(lines) == 1 {
		return "", nil
	}
	return "  - {" + strings.Join(lines, ", ") + "}\n", nil
}

// open starts the client library for the application.
func (a *app) open(ctx context.Context, s *stage) error {
	a.s = s
	args := map[string]any{"issuer": s.issuer, "clientId": a.id, "auth": a.auth, "dpop": a.dpop}
	metadata := map[string]any{}
	if a.secret != "" {
		args["secret"] = a.secret
	}
	if a.signs() {
		key, err := shared.keys.private()
		if err != nil {
			return err
		}
		args["key"] = key
	}
	if a.cert != nil {
		args["cert"], args["certKey"], args["ca"] = a.cert.cert, a.cert.keyPEM, s.ca
		metadata["use_mtls_endpoint_aliases"] = true
	}
	if a.response != "" {
		args["response"] = a.response
	}
	if a.jwtInfo {
		metadata["userinfo_signed_response_alg"], metadata["introspection_signed_response_alg"] = "RS256", "RS256"
	}
	args["metadata"] = metadata
	return a.do(ctx, "open", args, nil)
}

// restart lets the application forget the key set that it had. Some of the backup's keys are made when the first answer of their class is
// seen, and the library looks for new ones once a minute at most.
func (a *app) restart(ctx context.Context) error { return a.open(ctx, a.s) }

func (a *app) do(ctx context.Context, command string, args map[string]any, reply any) error {
	all := map[string]any{"as": a.id}
	for k, v := range args {
		all[k] = v
	}
	return a.s.node.Do(ctx, command, all, reply)
}

// tokens are what the library handed to its application.
type tokens struct {
	ID      string `json:"idToken"`
	Access  string `json:"accessToken"`
	Refresh string `json:"refreshToken"`
	Type    string `json:"tokenType"`
	Scope   string `json:"scope"`
}

// ask makes the library ask for tokens by one of its commands.
func (a *app) ask(ctx context.Context, command string, args map[string]any) (*tokens, error) {
	var t tokens
	if err := a.do(ctx, command, args, &t); err != nil {
		return nil, err
	}
	return &t, nil
}

// parameters are those of a request for tokens.
func (a *app) parameters(more ...string) map[string]any {
	p := map[string]any{"scope": "openid profile email"}
	if a.resource != "" {
		p["resource"] = a.resource
	}
	for i := 0; i+1 < len(more); i += 2 {
		p[more[i]] = more[i+1]
	}
	return p
}

// begin is the URL to which the application sends a browser.
func (a *app) begin(ctx context.Context, more ...string) (string, error) {
	var r struct {
		URL string `json:"url"`
	}
	p := a.parameters(append([]string{"redirect_uri", a.redirect()}, more...)...)
	if a.form {
		p["response_mode"] = "form_post"
	}
	err := a.do(ctx, "begin", map[string]any{"parameters": p, "pushed": a.pushed, "signed": a.signed, "objects": a.objects}, &r)
	return r.URL, err
}

// signIn takes a person through the primary's pages.
func (a *app) signIn(ctx context.Context, b *idptest.Browser, user string) (*tokens, error) {
	to, err := a.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	back, err := b.Visit(ctx, to, a.redirect(), map[string]string{"username": user, "password": "pw-" + user, "login": user})
	if err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	return a.finish(ctx, back, b)
}

// again opens the application anew in a browser that is signed in: there must be no page, but for what leads on by itself.
func (a *app) again(ctx context.Context, b *idptest.Browser, more ...string) (*tokens, error) {
	to, err := a.begin(ctx, more...)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	resp, page, err := b.Get(ctx, to)
	if err != nil {
		return nil, err
	}
	// A primary may go through a place of its own first.
	for range 3 {
		if a.form && resp.StatusCode == http.StatusOK {
			return a.posted(ctx, page)
		}
		at, err := resp.Location()
		if err != nil {
			return nil, fmt.Errorf("no redirect: status %d: %.300s", resp.StatusCode, page)
		}
		if strings.HasPrefix(at.String(), a.redirect()) {
			return a.finish(ctx, at, b)
		}
		if at.Host != resp.Request.URL.Host {
			return nil, fmt.Errorf("it leads to %s", at)
		}
		if resp, page, err = b.Get(ctx, at.String()); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no end of redirects")
}

func (a *app) finish(ctx context.Context, back *url.URL, b *idptest.Browser) (*tokens, error) {
	args := map[string]any{"url": back.String()}
	if a.form {
		args["posted"] = b.Transport.(*postman).body
	}
	t, err := a.ask(ctx, "finish", args)
	if err != nil {
		return nil, fmt.Errorf("finish: %w", err)
	}
	return t, nil
}

// claims are a token's or a reply's.
type claims map[string]json.RawMessage

// text is a claim that is a string.
func (c claims) text(name string) string {
	var s string
	json.Unmarshal(c[name], &s)
	return s
}

// about asks UserInfo or introspection.
func (a *app) about(ctx context.Context, command string, args map[string]any) (claims, error) {
	var r struct{ Claims claims }
	err := a.do(ctx, command, args, &r)
	return r.Claims, err
}

// Claims that are other in each token.
var fresh = []string{"iat", "nbf", "exp", "jti", "at_hash", "c_hash", "s_hash", "nonce"}

// same compares the backup's claims with the primary's: the same names, and the same values but of what is fresh.
func same(backup, primary claims) error {
	for name, v := range primary {
		got, ok := backup[name]
		switch {
		case !ok && name != "nonce": // a refresh has none, a code has
			return fmt.Errorf("the backup says nothing of %s", name)
		case ok && !slices.Contains(fresh, name) && !bytes.Equal(got, v):
			return fmt.Errorf("%s is %s, the primary's %s", name, got, v)
		}
	}
	for name := range backup {
		if _, ok := primary[name]; !ok && name != "nonce" {
			return fmt.Errorf("the backup says %s, the primary nothing", name)
		}
	}
	return nil
}
