package clients

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/public"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/flow/oauth"
	"understudy/idptest"
)

const (
	redirect = "http://127.0.0.1:9999/cb"
	scope    = "openid profile email"
)

// client is an unmodified client library with its own token cache. Each returns the ID token, whose signer tells who answered.
type client interface {
	// begin returns the URL to send a browser to.
	begin(ctx context.Context, prompt string) (string, error)
	// finish takes the browser's way back and redeems the code.
	finish(ctx context.Context, back *url.URL) (string, error)
	// refresh makes the library ask the token endpoint once more.
	refresh(ctx context.Context) (string, error)
}

// informed is a client library that asks UserInfo; it returns the e-mail address.
type informed interface {
	userInfo(ctx context.Context) (string, error)
}

// library is a client library and how it is set up here.
type library struct {
	name     string
	sends    func(r *http.Request) bool // whether a request comes from it
	userInfo bool
	open     func(ctx context.Context, s *stage, u *idptest.Understudy) (client, error)
}

func libraries() []library {
	const sku = "X-Client-Sku" // MSAL Go's own
	return []library{
		{"x/oauth2 + go-oidc", func(r *http.Request) bool {
			return strings.HasPrefix(r.UserAgent(), "Go-http-client") && r.Header.Get(sku) == "" && r.Header.Get("Accept") == "" // which the gateway's probe has
		}, true, openGo},
		{"MSAL Go", func(r *http.Request) bool { return r.Header.Get(sku) == "MSAL.Go" }, false, openMSALGo},
		{"msal-node", func(r *http.Request) bool { return r.UserAgent() == "node" }, false, func(_ context.Context, s *stage, u *idptest.Understudy) (client, error) {
			return s.openNode(s.msal, u, map[string]any{"clientId": "web", "secret": "web-secret"}), nil
		}},
		{"openid-client", func(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "openid-client/") }, true, func(_ context.Context, s *stage, u *idptest.Understudy) (client, error) {
			return &informedNode{s.openNode(s.openid, u, map[string]any{"clientId": "spa", "secret": "", "auth": ""})}, nil
		}},
	}
}

func issuer(u *idptest.Understudy) string { return u.URL() + "/realms/norot" }

// goClient is golang.org/x/oauth2 with go-oidc.
type goClient struct {
	http     *http.Client
	provider *oidc.Provider
	c        *oauth2.Config
	verifier string
	nonce    string
	source   oauth2.TokenSource // the library's own, which keeps the refresh token
	access   *oauth2.Token
}

func openGo(ctx context.Context, _ *stage, u *idptest.Understudy) (client, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), u.Client()), issuer(u))
	if err != nil {
		return nil, err
	}
	endpoint := provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	return &goClient{http: u.Client(), provider: provider, verifier: oauth2.GenerateVerifier(), nonce: oauth2.GenerateVerifier(), c: &oauth2.Config{
		ClientID: "web", ClientSecret: "web-secret", Endpoint: endpoint, RedirectURL: redirect, Scopes: strings.Fields(scope),
	}}, nil
}

func (g *goClient) begin(_ context.Context, prompt string) (string, error) {
	o := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(g.verifier), oidc.Nonce(g.nonce)}
	if prompt != "" {
		o = append(o, oauth2.SetAuthURLParam("prompt", prompt))
	}
	return g.c.AuthCodeURL(oauth2.GenerateVerifier(), o...), nil
}

func (g *goClient) finish(ctx context.Context, back *url.URL) (string, error) {
	if e := back.Query().Get("error"); e != "" {
		return "", errors.New(e) // the application reads it
	}
	lasting := oidc.ClientContext(context.WithoutCancel(ctx), g.http)
	tok, err := g.c.Exchange(oidc.ClientContext(ctx, g.http), back.Query().Get("code"), oauth2.VerifierOption(g.verifier))
	if err != nil {
		return "", err
	}
	// Tokens live a minute: it asks for new ones each time.
	g.source = oauth2.ReuseTokenSourceWithExpiry(nil, g.c.TokenSource(lasting, &oauth2.Token{RefreshToken: tok.RefreshToken, Expiry: time.Unix(1, 0)}), time.Hour)
	return g.take(ctx, tok, g.nonce)
}

func (g *goClient) refresh(ctx context.Context) (string, error) {
	tok, err := g.source.Token()
	if err != nil {
		return "", err
	}
	return g.take(ctx, tok, "")
}

func (g *goClient) take(ctx context.Context, tok *oauth2.Token, nonce string) (string, error) {
	raw, _ := tok.Extra("id_token").(string)
	id, err := g.provider.Verifier(&oidc.Config{ClientID: "web"}).Verify(oidc.ClientContext(ctx, g.http), raw)
	if err != nil {
		return "", err
	}
	if nonce != "" && id.Nonce != nonce {
		return "", fmt.Errorf("nonce is %q", id.Nonce)
	}
	g.access = tok
	return raw, nil
}

func (g *goClient) userInfo(ctx context.Context) (string, error) {
	info, err := g.provider.UserInfo(oidc.ClientContext(ctx, g.http), oauth2.StaticTokenSource(g.access))
	if err != nil {
		return "", err
	}
	return info.Email, nil
}

// msalGo is MSAL for Go as a public client. It has no forced refresh, and takes a token as expired five minutes before its end.
type msalGo struct {
	c        public.Client
	verifier string
	account  public.Account
}

func openMSALGo(_ context.Context, _ *stage, u *idptest.Understudy) (client, error) {
	c, err := public.New("spa", public.WithAuthority(issuer(u)), public.WithInstanceDiscovery(false), public.WithHTTPClient(u.Client()))
	return &msalGo{c: c, verifier: oauth2.GenerateVerifier()}, err
}

func (m *msalGo) begin(ctx context.Context, prompt string) (string, error) {
	to, err := m.c.AuthCodeURL(ctx, "spa", redirect, []string{"email", "openid", "profile", "offline_access"})
	if err != nil {
		return "", err
	}
	u, err := url.Parse(to)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("code_challenge", oauth2.S256ChallengeFromVerifier(m.verifier))
	q.Set("code_challenge_method", "S256")
	q.Set("state", oauth2.GenerateVerifier())
	q.Del("prompt")
	if prompt != "" {
		q.Set("prompt", prompt)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (m *msalGo) finish(ctx context.Context, back *url.URL) (string, error) {
	if e := back.Query().Get("error"); e != "" {
		return "", errors.New(e) // the application reads it
	}
	r, err := m.c.AcquireTokenByAuthCode(ctx, back.Query().Get("code"), redirect, []string{"email"}, public.WithChallenge(m.verifier))
	m.account = r.Account
	return r.IDToken.RawToken, err
}

func (m *msalGo) refresh(ctx context.Context) (string, error) {
	r, err := m.c.AcquireTokenSilent(ctx, []string{"email"}, public.WithSilentAccount(m.account))
	return r.IDToken.RawToken, err
}

// nodeClient is one client of a library on Node.js, in a process that it shares with others of its kind.
type nodeClient struct {
	n    *idptest.NodeClient
	name string
	args map[string]any
}

func (s *stage) openNode(n *idptest.NodeClient, u *idptest.Understudy, args map[string]any) *nodeClient {
	args["issuer"], args["redirect"], args["scope"] = issuer(u), redirect, scope
	return &nodeClient{n, fmt.Sprint("client ", s.clients.Add(1)), args}
}

func (n *nodeClient) do(ctx context.Context, command string, args map[string]any, reply any) error {
	all := map[string]any{"client": n.name}
	for k, v := range args {
		all[k] = v
	}
	return n.n.Do(ctx, command, all, reply)
}

func (n *nodeClient) begin(ctx context.Context, prompt string) (string, error) {
	n.args["prompt"] = prompt
	var r struct {
		URL string `json:"url"`
	}
	err := n.do(ctx, "begin", n.args, &r)
	return r.URL, err
}

func (n *nodeClient) finish(ctx context.Context, back *url.URL) (string, error) {
	if e := back.Query().Get("error"); e != "" && n.args["auth"] == nil {
		return "", errors.New(e) // the application reads it: msal-node takes codes only
	}
	return n.idToken(ctx, "finish", map[string]any{"url": back.String()})
}

func (n *nodeClient) refresh(ctx context.Context) (string, error) {
	return n.idToken(ctx, "refresh", nil)
}

func (n *nodeClient) idToken(ctx context.Context, command string, args map[string]any) (string, error) {
	var t struct {
		ID string `json:"idToken"`
	}
	err := n.do(ctx, command, args, &t)
	return t.ID, err
}

type informedNode struct{ *nodeClient }

func (n *informedNode) userInfo(ctx context.Context) (string, error) {
	var r struct {
		Email string `json:"email"`
	}
	err := n.do(ctx, "userInfo", nil, &r)
	return r.Email, err
}

// byBackup says whether the backup signed a token.
func byBackup(token string) bool {
	t, err := oauth.ParseJWT(token)
	return err == nil && strings.HasPrefix(t.Header.Text("kid"), "bk-")
}
