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

// Command is `understudy demo`.
type Command struct {
	Play       Play              `cmd:"" default:"withargs" help:"Sign-ins that survive their identity provider, on this machine."`
	IDP        idpCommand        `cmd:"" name:"idp" hidden:"" help:"The demo's own identity provider."`
	Understudy understudyCommand `cmd:"" hidden:"" help:"The demo's gateway and backup."`
	Guard      guardCommand      `cmd:"" hidden:"" help:"Ends what the demo leaves behind."`
}

// Play runs the demo.
type Play struct {
	Once    bool   `help:"Play every scene without a person, print one line for each, and fail where one fails."`
	Break   string `help:"Break a running part and see which scene fails: ${enum}." enum:"none,backup,keys,store,revocation" default:"none"`
	Primary string `help:"Identity provider to play with: ${enum}. Without \"own\" the module's source is needed, and what is missing is installed." enum:"own,keycloak,oidc-provider" default:"own"`
	Rotate  bool   `help:"Play with an identity provider that rotates refresh tokens."`
	Listen  string `help:"Loopback address of the demo's page." default:"127.0.0.1:9999"`
}

// Run implements the command.
func (c *Play) Run(ctx context.Context) error {
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
func (c *Play) stage(ctx context.Context, f func(*stage) error) error {
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
