// Package demo shows Understudy at work on one machine: an identity provider that can be killed, the gateway with the
// backup, and a small application whose people stay signed in.
//
// It owns the processes of a demo and ends them with itself. It refuses to be a switch in the product: what it breaks
// for --break it breaks through serve.Hooks, in a child that is the demo's own. It listens on loopback only.
package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
)

// Part is `understudy demo-part`, which is hidden: the processes of a demo.
type Part struct {
	IDP        idpCommand        `cmd:"" name:"idp" help:"The demo's own identity provider."`
	Understudy understudyCommand `cmd:"" help:"The demo's gateway and backup."`
	Guard      guardCommand      `cmd:"" help:"Ends what the demo leaves behind."`
}

// Command is `understudy demo`.
type Command struct {
	Once    bool   `help:"Play every scene without a person, print one line for each, and fail where one fails."`
	Break   string `help:"Break a running part and see which scene fails: ${enum}." enum:"none,backup,keys,store,revocation" default:"none"`
	Primary string `help:"Identity provider to play with: ${enum}. The others than \"own\" need the module's source, and install what they need." enum:"own,keycloak,oidc-provider" default:"own"`
	Rotate  bool   `help:"Let the identity provider rotate refresh tokens."`
	Listen  string `help:"Loopback address of the demo's page." default:"127.0.0.1:9999"`
}

// Help is the longer help.
func (c *Command) Help() string {
	return `An identity provider of the demo's own, Understudy in front of it, and a small application, on this machine only.
The page has buttons that kill the identity provider, black-hole it, bring it back, and revoke you.

Examples:
  understudy demo                       a page to play with
  understudy demo --once                every scene, one line each; exit status 1 where one fails
  understudy demo --once --break keys   break a part, and see which scene finds it
  understudy demo --primary keycloak    the same with a Keycloak`
}

// Run implements the command.
func (c *Command) Run(ctx context.Context) error {
	if err := loopback(c.Listen); err != nil {
		return err
	}
	if c.Once {
		return c.stage(ctx, func(s *stage) error { return playScenes(ctx, s, os.Stdout) })
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("%w: choose another address with --listen", err)
	}
	defer ln.Close()
	c.Listen = ln.Addr().String()
	return c.stage(ctx, func(s *stage) error { return servePage(ctx, s, ln, os.Stdout) })
}

// stage sets the stage for f, and clears it.
func (c *Command) stage(ctx context.Context, f func(*stage) error) error {
	s, err := newStage(ctx, c)
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

// loopback refuses addresses that others can reach: whoever reaches the page can kill processes.
func loopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", listen, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--listen %s: the demo listens on loopback only; choose an address like 127.0.0.1:9999", listen)
	}
	return nil
}

// untilEOF ends the returned context when standard input does: a child of the demo ends with it, even when the demo was
// killed.
func untilEOF(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx, cancel
}
