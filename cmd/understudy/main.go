// Command understudy is a backup authentication system: it stands in front of an identity provider, learns what it
// approves, and answers in its place while it cannot.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"understudy/demo"
	"understudy/gateway"
	"understudy/serve"
)

type cli struct {
	Demo  demo.Command `cmd:"" help:"Watch sign-ins survive their identity provider, on this machine."`
	Serve serveCommand `cmd:"" help:"Run the gateway and the backup."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	k := kong.Parse(&c, kong.Name("understudy"), kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Description("A backup for your identity provider: sign-ins go on when it cannot."))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "understudy:", err)
		os.Exit(1)
	}
}

type serveCommand struct {
	Primary string `help:"URL of the identity provider." required:""`
	Listen  string `help:"Address to listen on." required:""`
	Host    string `help:"Public host name; the listening address where not given."`
	DataDir string `help:"Where to keep what must not be forgotten." default:"understudy-data"`
}

func (c *serveCommand) Run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if c.Host == "" {
		c.Host = c.Listen
	}
	u, err := gateway.ParseUpstream(c.Primary)
	if err != nil {
		return err
	}
	key, err := serve.SealingKey(c.DataDir)
	if err != nil {
		return err
	}
	return serve.Run(ctx, serve.Options{
		Listen: c.Listen, DataDir: c.DataDir, SealingKey: key, Log: log,
		Tenants: []*gateway.Tenant{{Name: "default", Hosts: []string{c.Host}, Scheme: "http", Upstream: u}},
	})
}
