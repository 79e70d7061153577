package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/idptest"
)

// lifetime of access tokens: short, as Keycloak's realms have it, so that MSAL Go, which has no forced refresh and takes
// a token as expired five minutes before its end, asks again at each silent call.
const lifetime = time.Minute

const redirect = "http://127.0.0.1:9999/cb"

// shape is a primary as clients see it.
type shape struct {
	name       string
	deployment *deployment
	path       string // of the issuer
	// msalGo is the path of MSAL Go's authority: it asks at PATH/v2.0/.well-known/…, or at /adfs/.well-known/….
	msalGo string
	// consent: refresh tokens are given for offline_access with prompt=consent only.
	consent bool
	// rotates says whether a refresh token is superseded by its use.
	rotates func(public bool) bool
	alg     string
	opaque  bool // access tokens
}

func (w *world) shapes() []shape {
	always := func(v bool) func(bool) bool { return func(bool) bool { return v } }
	public := func(p bool) bool { return p }
	return []shape{
		{"Keycloak, rotation", w.keycloak, "/realms/rot", "/realms/rot", false, always(true), "RS256", false},
		{"Keycloak, no rotation", w.keycloak, "/realms/norot", "/realms/norot", false, always(false), "RS256", false},
		{"oidc-provider, opaque", w.opaque, "", "/adfs", true, public, "RS256", true},
		{"oidc-provider, JWT", w.jwt, "/op", "/op", true, public, "RS256", false},
		{"oidc-provider, ES256", w.es256, "/op", "/op", true, public, "ES256", false},
	}
}

// issuer is the issuer identifier at a gateway.
func (s shape) issuer(u *idptest.Understudy) string { return u.URL() + s.path }

// site is a shape behind a running gateway.
type site struct {
	shape
	u        *idptest.Understudy
	tenant   string
	provider *oidc.Provider
	approved atomic.Int64 // exchanges with a refresh token that the primary approved since the gateway started
}

func (s shape) at(ctx context.Context, u *idptest.Understudy) (*site, error) {
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), &http.Client{Transport: shared.transport()})
	p, err := oidc.NewProvider(ctx, s.issuer(u))
	if err != nil {
		return nil, err
	}
	return &site{shape: s, u: u, tenant: "default", provider: p}, nil
}

// visitWith signs a user in at an authorization URL and returns where the browser is sent.
func (s *site) visitWith(ctx context.Context, b *idptest.Browser, authorize, user string) (*url.URL, error) {
	return b.Visit(ctx, authorize, redirect, map[string]string{"username": user, "password": "pw-" + user, "login": user})
}

// signIn takes a client through a sign-in. Keycloak knows alice and bob, oidc-provider everybody.
func (s *site) signIn(ctx context.Context, c client, user string) (*tokens, error) {
	return s.signInWith(ctx, c, &idptest.Browser{Transport: shared.transport()}, user)
}

func (s *site) signInWith(ctx context.Context, c client, b *idptest.Browser, user string) (*tokens, error) {
	to, err := c.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	back, err := s.visitWith(ctx, b, to, user)
	if err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	if back.Query().Get("code") == "" {
		return nil, fmt.Errorf("no code: %s", back.Query())
	}
	t, err := c.finish(ctx, back)
	if err != nil {
		return nil, fmt.Errorf("finish: %w", err)
	}
	s.approved.Add(1)
	return t, nil
}
