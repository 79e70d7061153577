package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"understudy/demo/idp"
	"understudy/idptest"
)

// server is an identity provider that can die and come back at the same address.
type server interface {
	Restart(ctx context.Context) error
	Kill()
	Freeze() error
	Thaw() error
	PID() int
	URL() string
}

// primary is an identity provider and what the application knows of it.
type primary struct {
	server
	name     string // for people
	path     string // of the issuer, behind the gateway's host
	clientID string
	secret   string
	password string // everybody's: + user
	redirect string // "" where any will do
	scopes   []string
	prompt   string
	settle   time.Duration // how long before a SIGKILL nothing must have changed there
}

func (p *primary) passwordOf(user string) string {
	if p.password == "" {
		return idp.Password
	}
	return p.password + user
}

// registeredRedirect is the one that the real providers' clients are registered with.
const registeredRedirect = "http://127.0.0.1:9999/cb"

// startPrimary starts the chosen identity provider, installing what is missing. issuer is the gateway's public URL.
func startPrimary(ctx context.Context, c *Command, dir, issuer, redirect string) (*primary, error) {
	switch c.Primary {
	case "keycloak":
		if err := idptest.InstallKeycloak(ctx); err != nil {
			return nil, err
		}
		k, err := idptest.StartKeycloak(ctx, filepath.Join(dir, "keycloak"))
		if err != nil {
			return nil, err
		}
		path := "/realms/norot"
		if c.Rotate {
			path = "/realms/rot"
		}
		return &primary{
			server: k, name: "Keycloak", path: path, clientID: "web", secret: "web-secret", password: "pw-", redirect: registeredRedirect,
			scopes: []string{"openid", "profile", "email"}, settle: 1500 * time.Millisecond, // its database writes behind
		}, nil
	case "oidc-provider":
		if err := idptest.InstallNode(ctx); err != nil {
			return nil, err
		}
		o, err := idptest.StartOIDCProvider(ctx, filepath.Join(dir, "oidc-provider"), idptest.OIDCProviderOptions{
			Issuer: issuer, RotateAll: c.Rotate, AccessTokenLifetime: time.Minute,
		})
		if err != nil {
			return nil, err
		}
		return &primary{
			server: o, name: "node-oidc-provider", clientID: "web", secret: "web-secret", redirect: registeredRedirect,
			scopes: []string{"openid", "profile", "email", "offline_access"}, prompt: "consent",
		}, nil
	}
	o := &ownProvider{dir: dir, secret: randomText()}
	port, err := idptest.FreePort()
	if err != nil {
		return nil, err
	}
	o.listen = fmt.Sprintf("127.0.0.1:%d", port)
	o.args = []string{
		"idp", "--address", o.listen, "--issuer", issuer, "--state", filepath.Join(dir, "idp.json"), "--client-id", "demo-app",
		"--redirect", redirect, "--logout", afterLogout(redirect), "--lifetime", "30s",
	}
	if c.Rotate {
		o.args = append(o.args, "--rotating")
	}
	if err := o.Restart(ctx); err != nil {
		return nil, err
	}
	return &primary{
		server: o, name: "the demo's own identity provider", clientID: "demo-app", secret: o.secret,
		scopes: []string{"openid", "profile", "email", "offline_access"},
	}, nil
}

// ownProvider is the demo's own identity provider, a child of this program.
type ownProvider struct {
	dir, listen, secret string
	args                []string
	c                   *child
}

func (o *ownProvider) Restart(ctx context.Context) error {
	c, err := startChild(filepath.Join(o.dir, "idp.log"), nil, []string{secretVariable + "=" + o.secret}, o.args...)
	if err != nil {
		return err
	}
	o.c = c
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return await(ctx, "the demo's identity provider does not serve", c.Process, func() bool {
		return answers(ctx, o.URL()+"/.well-known/openid-configuration")
	})
}

func (o *ownProvider) Kill()         { o.c.kill() }
func (o *ownProvider) Freeze() error { return o.c.Signal(syscall.SIGSTOP) }
func (o *ownProvider) Thaw() error   { return o.c.Signal(syscall.SIGCONT) }
func (o *ownProvider) PID() int      { return o.c.PID() }
func (o *ownProvider) URL() string   { return "http://" + o.listen }
