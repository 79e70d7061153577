package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"understudy/idptest"
)

// client is the application's part in OpenID Connect, in the hands of golang.org/x/oauth2 and go-oidc. It knows nothing
// of a backup: it talks to one issuer and verifies every ID token against the key set that is published there.
type client struct {
	config   oauth2.Config
	verifier *oidc.IDTokenVerifier
	revokeAt string
	logoutAt string
	http     *http.Client
	prompt   string
}

func newClient(ctx context.Context, gateway string, p *primary, redirect string) (*client, error) {
	c := &client{http: &http.Client{Timeout: 15 * time.Second}, prompt: p.prompt}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, c.http), gateway+p.path)
	if err != nil {
		return nil, fmt.Errorf("find the issuer: %w", err)
	}
	var more struct {
		Revocation string `json:"revocation_endpoint"`
		EndSession string `json:"end_session_endpoint"`
	}
	if err := provider.Claims(&more); err != nil {
		return nil, err
	}
	c.revokeAt, c.logoutAt = more.Revocation, more.EndSession
	c.verifier = provider.VerifierContext(oidc.ClientContext(context.WithoutCancel(ctx), c.http), &oidc.Config{ClientID: p.clientID})
	c.config = oauth2.Config{ClientID: p.clientID, ClientSecret: p.secret, Endpoint: provider.Endpoint(), RedirectURL: redirect, Scopes: p.scopes}
	c.config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	return c, nil
}

// signIn is one visit to the sign-in page.
type signIn struct{ state, nonce, verifier string }

func newSignIn() signIn {
	return signIn{randomText(), randomText(), oauth2.GenerateVerifier()}
}

// startURL is where a browser begins.
func (c *client) startURL(s signIn) string {
	opts := []oauth2.AuthCodeOption{oidc.Nonce(s.nonce), oauth2.S256ChallengeOption(s.verifier)}
	if c.prompt != "" {
		opts = append(opts, oauth2.SetAuthURLParam("prompt", c.prompt))
	}
	return c.config.AuthCodeURL(s.state, opts...)
}

// finish redeems the code that a browser came back with.
func (c *client) finish(ctx context.Context, s signIn, q url.Values) (*tokens, error) {
	if q.Get("state") != s.state {
		return nil, errors.New("the sign-in did not begin here")
	}
	if e := q.Get("error"); e != "" {
		return nil, fmt.Errorf("the identity provider refused: %s", e)
	}
	began := time.Now()
	t, err := c.config.Exchange(context.WithValue(ctx, oauth2.HTTPClient, c.http), q.Get("code"), oauth2.VerifierOption(s.verifier))
	if err != nil {
		return nil, err
	}
	got, err := c.read(t, began)
	if err != nil {
		return nil, err
	}
	if err := c.verify(ctx, got); err != nil {
		return nil, err
	}
	if got.id.Nonce != s.nonce {
		return nil, errors.New("the ID token has another nonce")
	}
	return got, nil
}

// tokens are what one token response brought.
type tokens struct {
	refresh  string
	expires  time.Time // of the access token
	rawID    string
	kid      string
	received time.Time
	latency  time.Duration
	id       *oidc.IDToken // nil until it has been verified
	claims   struct {
		Name     string `json:"name"`
		Username string `json:"preferred_username"`
		Email    string `json:"email"`
		SID      string `json:"sid"`
	}
}

// byBackup says who signed the ID token. Only the key id tells: an application has no reason to look at it.
func (t *tokens) byBackup() bool { return strings.HasPrefix(t.kid, "bk-") }

func (c *client) read(t *oauth2.Token, began time.Time) (*tokens, error) {
	raw, _ := t.Extra("id_token").(string)
	j, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return nil, errors.New("the token response has no signed ID token")
	}
	return &tokens{
		refresh: t.RefreshToken, expires: t.Expiry, rawID: raw, kid: j.Signatures[0].Header.KeyID,
		received: time.Now(), latency: time.Since(began),
	}, nil
}

// verify checks the ID token against the key set that the gateway serves.
func (c *client) verify(ctx context.Context, t *tokens) error {
	id, err := c.verifier.Verify(ctx, t.rawID)
	if err != nil {
		return err
	}
	if err := id.Claims(&t.claims); err != nil {
		return err
	}
	t.id = id
	return nil
}

// refreshed presents a refresh token. What comes back is not verified yet.
func (c *client) refreshed(ctx context.Context, refresh string) (*tokens, error) {
	began := time.Now()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.http)
	t, err := c.config.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
	if err != nil {
		return nil, err
	}
	return c.read(t, began)
}

// revoke is RFC 7009.
func (c *client) revoke(ctx context.Context, refresh string) error {
	form := url.Values{"token": {refresh}, "token_type_hint": {"refresh_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.revokeAt, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(c.config.ClientID), url.QueryEscape(c.config.ClientSecret))
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("revoke: status %d: %s", resp.StatusCode, b)
	}
	return nil
}

// refused says whether an error is the protocol's refusal of a refresh token: 400 invalid_grant.
func refused(err error) bool {
	var e *oauth2.RetrieveError
	return errors.As(err, &e) && e.Response.StatusCode == http.StatusBadRequest && e.ErrorCode == "invalid_grant"
}

// person signs in without a person: at the provider's own page, as a browser does.
func (c *client) person(ctx context.Context, p *primary, user string) (*tokens, error) {
	s := newSignIn()
	fill := map[string]string{"username": user, "login": user, "password": p.passwordOf(user)}
	at, err := (&idptest.Browser{}).Visit(ctx, c.startURL(s), c.config.RedirectURL, fill)
	if err != nil {
		return nil, err
	}
	return c.finish(ctx, s, at.Query())
}
