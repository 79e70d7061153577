package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/public"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/idptest"
)

// tokens are what a client library handed to its application, and the refresh token in its cache.
type tokens struct {
	ID      string `json:"idToken"`
	Access  string `json:"accessToken"`
	Refresh string `json:"refreshToken"`
}

// client is an unmodified client library with its own token cache.
type client interface {
	// begin returns the URL to send a browser to.
	begin(ctx context.Context) (string, error)
	// finish takes the browser's way back and redeems the code.
	finish(ctx context.Context, back *url.URL) (*tokens, error)
	// refresh makes the library ask for new tokens once. An error is the library's.
	refresh(ctx context.Context) (*tokens, error)
	close()
}

// library is a client library and how it is set up here.
type library struct {
	name   string
	id     string // client_id
	public bool
	open   func(s *site, dir string) (client, error)
}

func libraries() []library {
	return []library{
		{"x/oauth2 + go-oidc", "web", false, openGo},
		{"MSAL Go", "spa", true, openMSALGo},
		{"msal-node", "", false, func(s *site, dir string) (client, error) {
			return openNode(s, dir, "msal.js", s.postClient(), s.postClient()+"-secret", "client_secret_post")
		}},
		{"openid-client", "spa", true, func(s *site, dir string) (client, error) {
			return openNode(s, dir, "openid-client.js", "spa", "", "")
		}},
	}
}

// clientID is the client_id that a library uses at a site.
func (l library) clientID(s *site) string {
	if l.id != "" {
		return l.id
	}
	return s.postClient()
}

// postClient is the confidential client that may use client_secret_post.
func (s shape) postClient() string {
	if s.consent {
		return "webpost"
	}
	return "web"
}

func (s shape) scope() string {
	if s.consent {
		return "openid profile email offline_access"
	}
	return "openid profile email"
}

func (s shape) prompt() string {
	if s.consent {
		return "consent"
	}
	return ""
}

// goClient is golang.org/x/oauth2 with go-oidc.
type goClient struct {
	s        *site
	c        *oauth2.Config
	verifier string
	nonce    string
	tok      *oauth2.Token
	tap      tap
}

// tap keeps the last reply of a transport.
type tap struct {
	http.RoundTripper
	last *reply
}

func (w *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if w.last, err = readReply(resp); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(strings.NewReader(w.last.raw))
	return resp, nil
}

func openGo(s *site, _ string) (client, error) {
	return newGoClient(s, "web", "web-secret"), nil
}

func newGoClient(s *site, id, secret string) *goClient {
	endpoint := s.provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if secret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &goClient{s: s, verifier: oauth2.GenerateVerifier(), nonce: oauth2.GenerateVerifier(), c: &oauth2.Config{
		ClientID: id, ClientSecret: secret, Endpoint: endpoint, RedirectURL: redirect, Scopes: strings.Fields(s.scope()),
	}}
}

func (g *goClient) begin(context.Context) (string, error) {
	o := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(g.verifier), oidc.Nonce(g.nonce)}
	if p := g.s.prompt(); p != "" {
		o = append(o, oauth2.SetAuthURLParam("prompt", p))
	}
	return g.c.AuthCodeURL("state", o...), nil
}

func (g *goClient) context(ctx context.Context) context.Context {
	if g.tap.RoundTripper == nil {
		g.tap.RoundTripper = shared.transport()
	}
	return oidc.ClientContext(ctx, &http.Client{Transport: &g.tap})
}

func (g *goClient) finish(ctx context.Context, back *url.URL) (*tokens, error) {
	tok, err := g.c.Exchange(g.context(ctx), back.Query().Get("code"), oauth2.VerifierOption(g.verifier))
	if err != nil {
		return nil, err
	}
	return g.take(ctx, tok, g.nonce)
}

func (g *goClient) refresh(ctx context.Context) (*tokens, error) {
	expired := &oauth2.Token{RefreshToken: g.tok.RefreshToken, Expiry: time.Unix(1, 0)}
	tok, err := g.c.TokenSource(g.context(ctx), expired).Token()
	if err != nil {
		return nil, err
	}
	return g.take(ctx, tok, "")
}

func (g *goClient) take(ctx context.Context, tok *oauth2.Token, nonce string) (*tokens, error) {
	raw, _ := tok.Extra("id_token").(string)
	id, err := g.s.provider.Verifier(&oidc.Config{ClientID: g.c.ClientID}).Verify(g.context(ctx), raw)
	if err != nil {
		return nil, err
	}
	if nonce != "" && id.Nonce != nonce {
		return nil, fmt.Errorf("nonce is %q", id.Nonce)
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(tok.AccessToken); err != nil {
			return nil, err
		}
	}
	g.tok = tok
	return &tokens{ID: raw, Access: tok.AccessToken, Refresh: tok.RefreshToken}, nil
}

func (g *goClient) close() {}

// msalGo is MSAL for Go.
type msalGo struct {
	s        *site
	c        public.Client
	verifier string
	account  public.Account
	wire     *wire
}

// wire sees the refresh tokens in the requests of a library that does not show its cache.
type wire struct {
	http.RoundTripper
	presented string
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.GetBody != nil {
		b, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		copied := *r
		copied.Body = b
		if err := copied.ParseForm(); err == nil && copied.PostForm.Get("refresh_token") != "" {
			w.presented = copied.PostForm.Get("refresh_token")
		}
	}
	return w.RoundTripper.RoundTrip(r)
}

func openMSALGo(s *site, _ string) (client, error) {
	w := &wire{RoundTripper: shared.transport()}
	c, err := public.New("spa", public.WithAuthority(s.u.URL()+s.msalGo), public.WithInstanceDiscovery(false), public.WithHTTPClient(&http.Client{Transport: w}))
	if err != nil {
		return nil, err
	}
	return &msalGo{s: s, c: c, verifier: oauth2.GenerateVerifier(), wire: w}, nil
}

// scopes are the application's; the library adds openid, profile and offline_access to its token requests.
func (m *msalGo) scopes() []string { return []string{"email"} }

func (m *msalGo) begin(ctx context.Context) (string, error) {
	to, err := m.c.AuthCodeURL(ctx, "spa", redirect, append(m.scopes(), "openid", "profile", "offline_access"))
	if err != nil {
		return "", err
	}
	return m.s.proved(to, m.verifier)
}

// proved is an authorization URL of MSAL Go's with what an application must add to it: PKCE, a state, and the shape's prompt.
func (s *site) proved(to, verifier string) (string, error) {
	u, err := url.Parse(to)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("code_challenge", oauth2.S256ChallengeFromVerifier(verifier))
	q.Set("code_challenge_method", "S256")
	q.Set("state", "state")
	if p := s.prompt(); p != "" {
		q.Set("prompt", p)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (m *msalGo) finish(ctx context.Context, back *url.URL) (*tokens, error) {
	r, err := m.c.AcquireTokenByAuthCode(ctx, back.Query().Get("code"), redirect, m.scopes(), public.WithChallenge(m.verifier))
	return m.take(r, err)
}

func (m *msalGo) refresh(ctx context.Context) (*tokens, error) {
	r, err := m.c.AcquireTokenSilent(ctx, m.scopes(), public.WithSilentAccount(m.account))
	return m.take(r, err)
}

func (m *msalGo) take(r public.AuthResult, err error) (*tokens, error) {
	if err != nil {
		return nil, err
	}
	m.account = r.Account
	return &tokens{ID: r.IDToken.RawToken, Access: r.AccessToken, Refresh: m.wire.presented}, nil
}

func (m *msalGo) close() {}

// nodeClient is a library on Node.js.
type nodeClient struct {
	n    *idptest.NodeClient
	args map[string]any
}

func openNode(s *site, dir, script, id, secret, auth string) (client, error) {
	n, err := idptest.StartNodeClient(script, shared.authority.CAFile, filepath.Join(dir, script+".log"))
	if err != nil {
		return nil, err
	}
	return &nodeClient{n, map[string]any{
		"issuer": s.issuer(s.u), "clientId": id, "secret": secret, "auth": auth, "redirect": redirect, "scope": s.scope(), "prompt": s.prompt(),
	}}, nil
}

func (n *nodeClient) begin(ctx context.Context) (string, error) {
	var r struct {
		URL string `json:"url"`
	}
	err := n.n.Do(ctx, "begin", n.args, &r)
	return r.URL, err
}

func (n *nodeClient) finish(ctx context.Context, back *url.URL) (*tokens, error) {
	var t tokens
	return &t, n.n.Do(ctx, "finish", map[string]any{"url": back.String()}, &t)
}

func (n *nodeClient) refresh(ctx context.Context) (*tokens, error) {
	var t tokens
	return &t, n.n.Do(ctx, "refresh", nil, &t)
}

func (n *nodeClient) close() { n.n.Close() }
