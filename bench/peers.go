package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"understudy/idptest"
)

// peer is another program that answers refresh grants.
type peer struct {
	name   string
	pid    int
	s      *sessions
	kill   func()
	served []sample
}

const redirect = "http://127.0.0.1:9999/cb"

// person signs in as people do, through the pages of a provider at the issuer, as the client web: n sessions, each with
// a browser of its own.
func person(ctx context.Context, issuer string, n, conns int, scopes []string, options ...oauth2.AuthCodeOption) (*sessions, error) {
	p, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, err
	}
	c := &oauth2.Config{ClientID: clientID, ClientSecret: clientID + "-secret", Endpoint: p.Endpoint(), RedirectURL: redirect, Scopes: scopes}
	c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	host, path, _ := strings.Cut(strings.TrimPrefix(c.Endpoint.TokenURL, "http://"), "/")
	s := &sessions{addr: host, host: host, path: "/" + path, tokens: make([]string, n), turn: make([]int, conns)}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(4)
	for i := range n {
		eg.Go(func() error {
			b := &idptest.Browser{}
			at, err := b.Visit(ctx, c.AuthCodeURL("s", options...), redirect, map[string]string{"username": "alice", "password": "pw-alice", "login": "alice"})
			if err != nil {
				return fmt.Errorf("sign in: %w", err)
			}
			t, err := c.Exchange(ctx, at.Query().Get("code"))
			if err != nil {
				return fmt.Errorf("redeem the code: %w", err)
			}
			if t.RefreshToken == "" {
				return fmt.Errorf("no refresh token from %s", issuer)
			}
			s.tokens[i] = t.RefreshToken
			return nil
		})
	}
	return s, eg.Wait()
}

// peerSessions is how many sessions a peer has: fewer than understudy, which is in the peer's favour.
func (l *lab) peerSessions() int { return min(l.sessions, 512) }

func (l *lab) startOIDCProvider(ctx context.Context) (*peer, error) {
	if err := idptest.InstallNode(ctx); err != nil {
		return nil, err
	}
	o, err := idptest.StartOIDCProvider(ctx, filepath.Join(l.dir, "oidc-provider"), idptest.OIDCProviderOptions{AccessTokens: "jwt", Alg: "RS256"})
	if err != nil {
		return nil, err
	}
	p := &peer{name: "oidc-provider, JWT access tokens", pid: o.PID(), kill: o.Kill}
	l.log.Printf("%s: signing in", p.name)
	p.s, err = person(ctx, o.Issuer, l.peerSessions(), outageConns, []string{"openid", "offline_access", "profile", "email"}, oauth2.SetAuthURLParam("prompt", "consent"))
	if err == nil {
		err = p.warm(ctx, l, min(20*time.Second, 4*l.duration))
	}
	if err != nil {
		o.Kill()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, nil
}

func (l *lab) startKeycloak(ctx context.Context) (*peer, error) {
	if err := idptest.InstallKeycloak(ctx); err != nil {
		return nil, err
	}
	k, err := idptest.StartKeycloak(ctx, filepath.Join(l.dir, "keycloak-peer"))
	if err != nil {
		return nil, err
	}
	k.Kill()
	if err := k.RestartForLoad(ctx); err != nil {
		return nil, err
	}
	p := &peer{name: "Keycloak, H2, no rotation", pid: k.PID(), kill: k.Kill}
	l.log.Printf("%s: signing in, then %s of load", p.name, l.warmKC)
	p.s, err = person(ctx, k.URL()+"/realms/norot", l.peerSessions(), outageConns, []string{"openid"})
	if err == nil {
		err = p.warm(ctx, l, l.warmKC)
	}
	if err != nil {
		k.Kill()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, nil
}

func (p *peer) warm(ctx context.Context, l *lab, d time.Duration) error {
	s, err := measure(ctx, p.load(), d, 0, p.pid)
	if err == nil {
		l.log.Printf("%s: %.0f µs of CPU a grant while warming up", p.name, s.cpu)
	}
	return err
}

// load goes on with each new refresh token, as clients do.
func (p *peer) load() load { return p.s.load(byPrimary, "") }

func (p *peer) round(ctx context.Context, d time.Duration) error {
	s, err := measure(ctx, p.load(), d, 0, p.pid)
	p.served = append(p.served, s)
	return err
}

var basic = basicOf(clientID)
