// Package serve wires one process together: the gateway, the backup and the embedded store.
//
// It owns the order in which parts start and end. It refuses to decide anything: configuration comes resolved.
package serve

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/audit"
	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/gateway"
	"understudy/keys"
	"understudy/policy"
	"understudy/session"
	"understudy/store"
)

// Flows is the list of sign-in patterns; a new one is one file and one line here.
func Flows() []flow.Flow {
	return []flow.Flow{
		oauth.Refresh{},
		oauth.Grant{},
	}
}

// Options of a process.
type Options struct {
	Listen     string
	Tenants    []*gateway.Tenant
	DataDir    string
	SealingKey []byte // 32 bytes or more, from outside the data directory
	Log        *slog.Logger
	Hooks      Hooks
}

// Hooks change parts of a running process, for the demo's breaks. Nil members change nothing.
type Hooks struct {
	KV     func(store.KV) store.KV
	Backup func(gateway.Backup) gateway.Backup
}

// SealingKey reads the deployment's sealing key, or makes it beside the data directory, where a copy of that does not
// have it.
func SealingKey(dataDir string) ([]byte, error) {
	path := filepath.Clean(dataDir) + ".key"
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		b = make([]byte, 32)
		rand.Read(b)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make the sealing key: %w", err)
		}
		if _, err := f.Write(b); err != nil {
			return nil, fmt.Errorf("write the sealing key: %w", err)
		}
		return b, errors.Join(f.Sync(), f.Close())
	}
	return b, err
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	seal, err := session.NewSealer(o.SealingKey)
	if err != nil {
		return err
	}
	db, err := store.Open(filepath.Join(o.DataDir, "store"), store.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	kek, err := hkdf.Key(sha256.New, o.SealingKey, nil, "understudy 1 key encryption", 32)
	if err != nil {
		return err
	}
	ring, err := keys.Open(filepath.Join(o.DataDir, "keys"), kek, time.Now)
	if err != nil {
		return err
	}
	signins, err := audit.Open(filepath.Join(o.DataDir, "audit"))
	if err != nil {
		return err
	}
	defer signins.Close()
	var kv store.KV = db
	if o.Hooks.KV != nil {
		kv = o.Hooks.KV(kv)
	}
	svc := &backup.Service{
		Sessions: &session.Store{KV: kv, Seal: seal}, Keys: ring, Flows: Flows(), Policy: policy.PermitAll,
		Audit: signins, Log: o.Log, Now: time.Now,
	}
	var b gateway.Backup = svc
	if o.Hooks.Backup != nil {
		b = o.Hooks.Backup(b)
	}
	g, err := gateway.New(gateway.Config{
		Tenants: o.Tenants, Flows: Flows(), Backup: b, Seal: seal, DataDir: o.DataDir, Log: o.Log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 128 << 10, IdleTimeout: 2 * time.Minute}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return g.Run(ctx) })
	eg.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	eg.Go(func() error {
		<-ctx.Done()
		c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return srv.Shutdown(c)
	})
	o.Log.Info("serving", "listen", ln.Addr().String())
	return eg.Wait()
}
