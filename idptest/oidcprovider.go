package idptest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// OIDCProviderOptions are how an oidc-provider differs from its defaults.
type OIDCProviderOptions struct {
	// Issuer is the issuer identifier: the gateway's public URL, and a path if any. "": the provider's own URL.
	Issuer string
	// AccessTokens is "opaque" (where empty) or "jwt".
	AccessTokens string
	// Alg signs ID tokens and access tokens: "RS256" (where empty) or "ES256".
	Alg string
	// AccessTokenLifetime; 0: an hour.
	AccessTokenLifetime time.Duration
	// RotateAll rotates refresh tokens of confidential clients too; else only public clients' rotate.
	RotateAll bool
	// ClockShift is how far the provider's clock is ahead. (Keycloak's cannot be shifted: no library that fakes a
	// process's clock is among the parts.)
	ClockShift time.Duration
	// Clients are more clients, as OpenID Connect Dynamic Client Registration writes their metadata. With them every
	// feature of the provider that they may use is on.
	Clients []map[string]any
	// ClientCA is the authority (PEM) of certificates for tls_client_auth, which are read from the header Client-Cert
	// (RFC 9440).
	ClientCA string
	// Nonces are ids of those Clients of whom it demands a nonce in DPoP proofs (RFC 9449, section 8). With any, it gives nonces to all.
	Nonces []string
}

// OIDCProvider is a running node-oidc-provider with the users alice and bob (any password), the public clients spa and
// spa2 (PKCE), and the confidential ones web, web2 (client_secret_basic), webpost (client_secret_post), and the services api and
// api2 (client_secret_post; client credentials, on-behalf-of), whose secrets are their names and "-secret". Redirect URI: http://127.0.0.1:9999/cb. A refresh token is given for the scope
// offline_access with prompt=consent. Its state is in a directory and survives Kill.
type OIDCProvider struct {
	Port   int
	Issuer string

	dir string
	p   *Process
}

// StartOIDCProvider starts an instance with its data in dir and waits until it is ready. It comes back at the same port
// after Kill and Restart.
func StartOIDCProvider(ctx context.Context, dir string, o OIDCProviderOptions) (*OIDCProvider, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	p := &OIDCProvider{Port: port, Issuer: o.Issuer, dir: dir}
	if p.Issuer == "" {
		p.Issuer = p.URL()
	}
	c := map[string]any{
		"port": port, "issuer": p.Issuer, "dir": dir, "accessTokens": or(o.AccessTokens, "opaque"), "alg": or(o.Alg, "RS256"),
		"accessTokenSeconds": int(o.AccessTokenLifetime / time.Second), "rotateAll": o.RotateAll,
		"clockShiftSeconds": int(o.ClockShift / time.Second),
	}
	if o.Clients != nil {
		c["clients"], c["clientCA"] = o.Clients, o.ClientCA
	}
	if o.Nonces != nil {
		c["nonces"] = o.Nonces
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return nil, err
	}
	return p, p.Restart(ctx)
}

// Restart starts the instance again, where it has ended, and waits until it is ready. Seldom, and for no reason that was found, Node stays without
// a word before it listens: then it is started once more, and what its threads waited for is told on standard error.
func (o *OIDCProvider) Restart(ctx context.Context) error {
	if o.p != nil && !o.p.over() {
		return nil
	}
	err := o.restart(ctx, 25*time.Second)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "oidc-provider is started once more: %v\n", err)
		o.p.Kill()
		err = o.restart(ctx, time.Minute)
	}
	return err
}

func (o *OIDCProvider) restart(ctx context.Context, most time.Duration) error {
	u, err := url.Parse(o.Issuer)
	if err != nil {
		return err
	}
	cmd := exec.Command("node", filepath.Join(nodeDir(), "provider.js"), filepath.Join(o.dir, "config.json"))
	// It ends when its standard input ends: with this process at the latest.
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	p, err := Start(filepath.Join(o.dir, "oidc-provider.log"), cmd)
	if err != nil {
		return err
	}
	o.p = p
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return p.await(ctx, "oidc-provider is not ready", func() bool {
		return serves(ctx, o.URL()+strings.TrimSuffix(u.Path, "/")+"/.well-known/openid-configuration")
	})
}

// URL is scheme and host at which the instance listens.
func (o *OIDCProvider) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", o.Port) }

// PID is the process's id.
func (o *OIDCProvider) PID() int { return o.p.PID() }

// Kill ends the instance with SIGKILL.
func (o *OIDCProvider) Kill() { o.p.Kill() }

// Freeze stops the process without ending it: connections are taken and nothing is answered.
func (o *OIDCProvider) Freeze() error { return o.p.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (o *OIDCProvider) Thaw() error { return o.p.Signal(syscall.SIGCONT) }

// Disable makes the provider refuse everything of a user, and Enable undoes it. Nobody is told.
func (o *OIDCProvider) Disable(user string) error {
	return os.WriteFile(filepath.Join(o.dir, "disabled", user), nil, 0o600)
}

// Enable undoes Disable.
func (o *OIDCProvider) Enable(user string) error {
	if err := os.Remove(filepath.Join(o.dir, "disabled", user)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
