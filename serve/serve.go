// Package serve wires one process together: the gateway, the backup, the embedded store and the admin API.
//
// It owns the order in which parts start and end, and what becomes of the process where a part does not open: sign-ins
// pass through, the backup does not play, and status says why. It refuses to decide anything else: configuration comes
// resolved.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/flow/oidc"
	"understudy/gateway"
	"understudy/store"
)

// Flows is the list of sign-in patterns; a new one is one file and one line here.
func Flows() []flow.Flow {
	return []flow.Flow{
		oauth.Refresh{},
		oauth.ClientCredentials{},
		oauth.Code{},
		oauth.Authorization{},
		oauth.Pushed{},
		oauth.TokenExchange{},
		oauth.JWTBearer{},
		oauth.Grant{},
		oidc.UserInfo{},
		oauth.Introspection{},
	}
}

// Options of a process. Only Listen or Listeners, Tenants, DataDir and Log must be given.
type Options struct {
	Listen     string     // one plain listener, beside Listeners
	Listeners  []Listener // may be empty with the role "backup"
	HealthPath string     // "": the gateway's default
	Tenants    []*gateway.Tenant
	DataDir    string

	SealingKey           []byte // 32 bytes or more, from outside the data directory; nil: SealingKeyFile
	SealingKeyFile       string // "": beside the data directory; made where there is none and nothing is sealed yet
	KeyEncryptionKeyFile string // "": derived from the sealing key

	Role   string // "all" ("" too), "gateway" or "backup"
	Remote Remote // between gateway and backup where they are separate processes
	Admin  Admin
	Audit  Audit

	Log *slog.Logger
	// LogLevel is Log's, for a reload to change; nil: it does not.
	LogLevel *slog.LevelVar
	Hooks    Hooks

	// Settings shows the configuration in force; nil: there is nothing to show.
	Settings func() (map[string]any, error)
	// Reload resolves the configuration anew, on SIGHUP; nil: SIGHUP changes nothing.
	Reload func() (Options, error)

	print  string // tells tenants that have not changed; "" never equals
	level  slog.Level
	format string
}

// Hooks change parts of a running process, for the demo's breaks. Nil members change nothing.
type Hooks struct {
	KV     func(store.KV) store.KV
	Backup func(gateway.Backup) gateway.Backup
}

// Admin is the admin API over TCP; the unix socket in the data directory is always there. The zero value has none.
type Admin struct {
	Listen, CertFile, KeyFile string
	TokenFile                 string
}

// Audit is the sign-in log; zero values are defaults.
type Audit struct {
	Dir          string // "": "audit" in the data directory
	KeepDays     int
	MaxFileBytes int64
}

func (o *Options) auditDir() string {
	if o.Audit.Dir != "" {
		return o.Audit.Dir
	}
	return filepath.Join(o.DataDir, "audit")
}

// Version names this build: the module's version, and the commit where it is known.
func Version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := b.Main.Version
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "(devel)" {
			v = s.Value[:12]
		}
	}
	return v
}

func (o *Options) listeners() []Listener {
	out := o.Listeners
	if o.Listen != "" {
		out = append([]Listener{{Address: o.Listen}}, out...)
	}
	return out
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	collect(os.Getenv, memoryLimit(controlGroup))
	p, err := start(o)
	if err != nil {
		return err
	}
	defer p.close()
	eg, ctx := errgroup.WithContext(ctx)
	p.background(ctx, eg)
	err = eg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// hangups reloads on every SIGHUP until ctx ends.
func (p *process) hangups(ctx context.Context) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
		}
		if p.o.Reload == nil {
			p.o.Log.Info("SIGHUP changes nothing: there is no configuration file to read again")
			continue
		}
		began := time.Now()
		if err := p.reload(); err != nil {
			p.o.Log.Error("the new configuration is not taken; the old one stays in force", "error", err)
			p.reloads.failed(err)
			continue
		}
		p.reloads.done()
		p.o.Log.Info("the new configuration is in force", "took", time.Since(began).Round(time.Millisecond))
	}
}

// reload puts a new configuration in force, or changes nothing.
func (p *process) reload() error {
	n, err := p.o.Reload()
	if err != nil {
		return err
	}
	if err := p.o.fixed(&n); err != nil {
		return err
	}
	var g *gateway.Gateway
	if p.front != nil && (n.print == "" || n.print != p.o.print) {
		p.remember(n.Tenants)
		if g, err = p.newGateway(&n); err != nil {
			return err
		}
	}
	if p.listeners != nil {
		if err := p.listeners.apply(n.listeners()); err != nil {
			return err
		}
	}
	if g != nil {
		p.front.use(g)
	}
	if p.service != nil && p.service.Notices != nil {
		p.service.Notices.Use(noticed(n.Tenants))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n.Log, n.Hooks, n.Reload, n.LogLevel = p.o.Log, p.o.Hooks, p.o.Reload, p.o.LogLevel
	if n.LogLevel != nil {
		n.LogLevel.Set(n.level)
	}
	p.o = n
	return nil
}

// fixed refuses changes of what only a new start can change.
func (o *Options) fixed(n *Options) error {
	for _, c := range []struct {
		what string
		same bool
	}{
		{"role", o.Role == n.Role},
		{"data_dir", o.DataDir == n.DataDir},
		{"sealing_key_file", o.SealingKeyFile == n.SealingKeyFile},
		{"key_encryption_key_file", o.KeyEncryptionKeyFile == n.KeyEncryptionKeyFile},
		{"admin", o.Admin == n.Admin},
		{"audit", o.Audit == n.Audit},
		{"backup", o.Remote.same(n.Remote)},
		{"log.format", o.format == n.format},
	} {
		if !c.same {
			return fmt.Errorf("%s has changed, and that needs a restart", c.what)
		}
	}
	return nil
}
