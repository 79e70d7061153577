package demo

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"time"

	"understudy/backup"
	"understudy/demo/idp"
	"understudy/gateway"
	"understudy/health"
	"understudy/serve"
)

// understudyCommand is the product as it is, in front of the demo's primary: the same serve.Run, and hooks for what the
// demo watches or breaks.
type understudyCommand struct {
	Upstream string `required:""`
	Address  string `required:""`
	DataDir  string `required:""`
	Broken   string `default:"none"`
}

func (c *understudyCommand) Run(ctx context.Context) error {
	ctx, cancel := untilEOF(ctx)
	defer cancel()
	u, err := gateway.ParseUpstream(c.Upstream)
	if err != nil {
		return err
	}
	key, err := serve.SealingKey(c.DataDir)
	if err != nil {
		return err
	}
	hooks, err := hooksFor(c.Broken)
	if err != nil {
		return err
	}
	broken := hooks.Backup
	hooks.Backup = func(b gateway.Backup) gateway.Backup {
		if broken != nil {
			b = broken(b)
		}
		return reporting{b, json.NewEncoder(os.Stdout)}
	}
	return serve.Run(ctx, serve.Options{
		Listen: c.Address, DataDir: c.DataDir, SealingKey: key, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Tenants: []*gateway.Tenant{{
			Name: "default", Hosts: []string{c.Address}, Scheme: "http", Upstream: u,
			// A configuration for a stage: the way back takes seconds, so that a person sees it.
			Health: health.Config{ProbeServing: 2 * time.Second, ProbeAway: 250 * time.Millisecond, RampStep: 750 * time.Millisecond},
		}},
		Hooks: hooks,
	})
}

// event is one line that the gateway's process tells the demo.
type event struct {
	Learned   int      `json:"learned"`             // sign-ins that are remembered from now on
	Unlearned []string `json:"unlearned,omitempty"` // why others are not
}

// reporting tells the demo what was learned. It changes nothing.
type reporting struct {
	gateway.Backup
	out *json.Encoder // used by the learner alone
}

func (r reporting) Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	outs, err := r.Backup.Learn(ctx, ls)
	var e event
	for _, o := range outs {
		if o.Unlearned == "" {
			e.Learned++
		} else {
			e.Unlearned = append(e.Unlearned, o.Unlearned)
		}
	}
	r.out.Encode(e)
	return outs, err
}

// idpCommand is the demo's own identity provider.
type idpCommand struct {
	Address  string `required:""`
	Issuer   string `required:""`
	State    string `required:""`
	ClientID string `required:""`
	Redirect string `required:""`
	Logout   string `required:""`
	Rotating bool
	Lifetime time.Duration `default:"60s"`
}

// secretVariable holds the client's secret for the demo's identity provider.
const secretVariable = "UNDERSTUDY_DEMO_CLIENT_SECRET"

func (c *idpCommand) Run(ctx context.Context) error {
	ctx, cancel := untilEOF(ctx)
	defer cancel()
	if err := loopback(c.Address); err != nil {
		return err
	}
	p, err := idp.New(idp.Config{
		Issuer: c.Issuer, StateFile: c.State, ClientID: c.ClientID, ClientSecret: os.Getenv(secretVariable),
		RedirectURI: c.Redirect, LogoutURI: c.Logout, Rotate: c.Rotating, Lifetime: c.Lifetime,
	})
	if err != nil {
		return err
	}
	return idp.Serve(ctx, c.Address, p)
}
