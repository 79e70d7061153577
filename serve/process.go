package serve

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"understudy/audit"
	"understudy/backup"
	"understudy/gateway"
	"understudy/keys"
	"understudy/policy"
	"understudy/session"
	"understudy/store"
)

// process is everything that runs. Parts that did not open are nil, and problems says why.
type process struct {
	started time.Time
	lock    *os.File
	seal    *session.Sealer
	db      *store.DB
	ring    *keys.Ring
	signins *audit.Log
	store   *session.Store
	backup  gateway.Backup

	front     *front // nil with the role "backup"
	listeners *listeners
	crowd     *crowd
	reloads   *reloads
	problems  problems

	mu sync.Mutex // guards o
	o  Options
}

// start opens every part in its order. What the backup needs and does not open is a problem and no error: sign-ins pass
// through (design, laws 3 and 8).
func start(o Options) (_ *process, err error) {
	p := &process{o: o, started: time.Now(), crowd: newCrowd(), reloads: &reloads{}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := keys.HardenProcess(); err != nil {
		p.problems.add("core_dumps", fmt.Errorf("keys in memory could reach the disk: %w", err), "run it where prctl and setrlimit are allowed")
	}
	if err := p.own(); err != nil {
		return nil, err
	}
	p.openParts()
	p.backup = p.newBackup()
	if o.Hooks.Backup != nil {
		p.backup = o.Hooks.Backup(p.backup)
	}
	p.remembered()
	g, err := p.newGateway(&o)
	if err != nil {
		return nil, err
	}
	p.front = newFront()
	p.listeners = newListeners(p.front, p.crowd, o.Log)
	if err := p.listeners.apply(o.listeners()); err != nil {
		return nil, err
	}
	p.front.use(g)
	return p, nil
}

// own makes the data directory this process's alone.
func (p *process) own() error {
	dir := p.o.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the data directory: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("the data directory %s is open to others (mode %04o): chmod 700 it: %w", dir, st.Mode().Perm(), err)
		}
		p.o.Log.Warn("the data directory was open to others and is not any more", "dir", dir, "mode", fmt.Sprintf("%04o", st.Mode().Perm()))
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("another understudy runs on the data directory %s: end it first, or give this one another data_dir", dir)
	}
	p.lock = f
	return nil
}

// openParts opens what the backup needs.
func (p *process) openParts() {
	o := &p.o
	sealing := o.SealingKey
	if sealing == nil {
		var err error
		if sealing, err = sealingKey(o.SealingKeyFile, o.DataDir); err != nil {
			p.problems.add("sealing_key", err, "give the key with which the data directory was sealed, then restart")
		}
	}
	var err error
	if p.seal, err = session.NewSealer(sealing); err != nil {
		if sealing != nil {
			p.problems.add("sealing_key", err, "give a key file of 32 random bytes, then restart")
		}
		// The gateway needs one to tell requests apart. What it would open is not opened.
		sealing = make([]byte, 32)
		rand.Read(sealing)
		if p.seal, err = session.NewSealer(sealing); err != nil {
			panic(err) // 32 bytes are enough
		}
	}
	if len(p.problems.backup()) == 0 {
		if p.db, err = store.Open(filepath.Join(o.DataDir, "store"), store.Options{}); err != nil {
			p.problems.add("store_failed", err, "free space or mend the disk, or move "+filepath.Join(o.DataDir, "store")+" away to begin anew (sign-ins and revocations it held are forgotten), then restart")
		}
	}
	if kek, err := keyEncryptionKey(o.KeyEncryptionKeyFile, sealing); err != nil {
		p.problems.add("keys_failed", err, "mend key_encryption_key_file, then restart")
	} else if !p.problems.has("sealing_key") || o.KeyEncryptionKeyFile != "" {
		if p.ring, err = keys.Open(filepath.Join(o.DataDir, "keys"), kek, keys.Options{Now: time.Now, Log: o.Log}); err != nil {
			p.problems.add("keys_failed", err, "give the key with which the signing keys were encrypted, then restart")
			p.ring = nil
		}
	}
	dir := o.Audit.Dir
	if dir == "" {
		dir = filepath.Join(o.DataDir, "audit")
	}
	if p.signins, err = audit.Open(dir); err != nil {
		p.problems.add("audit_failed", err, "make "+dir+" writable, then restart: no answer without a line in the sign-in log")
		p.signins = nil
	}
}

// newBackup is the backup, or what stands in for it where a part of it did not open.
func (p *process) newBackup() gateway.Backup {
	if ps := p.problems.backup(); len(ps) > 0 {
		for _, x := range ps {
			p.o.Log.Error("the backup does not play; sign-ins pass through", "code", x.Code, "error", x.Text, "mend", x.Mend)
		}
		return &unable{code: refusalCode(ps[0].Code), cause: errors.New(ps[0].Text), ring: p.ring}
	}
	var kv store.KV = p.db
	if p.o.Hooks.KV != nil {
		kv = p.o.Hooks.KV(kv)
	}
	p.store = &session.Store{KV: kv, Seal: p.seal}
	return &backup.Service{
		Sessions: p.store, Keys: p.ring, Flows: Flows(), Policy: policy.PermitAll, Audit: p.signins, Log: p.o.Log, Now: time.Now,
	}
}

func refusalCode(problem string) string {
	if problem == "sealing_key" {
		return "store_failed" // it does not open
	}
	return problem
}

func (p *process) newGateway(o *Options) (*gateway.Gateway, error) {
	return gateway.New(gateway.Config{
		Tenants: o.Tenants, Flows: Flows(), Backup: p.backup, Seal: p.seal, DataDir: o.DataDir, HealthPath: o.HealthPath,
		Log: p.o.Log, Now: time.Now,
	})
}

// background starts everything that runs beside the listeners.
func (p *process) background(ctx context.Context, eg *errgroup.Group) {
	eg.Go(func() error { return p.listeners.run(ctx) })
	eg.Go(func() error { return p.hangups(ctx) })
	eg.Go(func() error { return p.note(ctx) })
	for _, a := range p.listeners.addresses() {
		p.o.Log.Info("serving", "listen", a)
	}
}

// close ends what is left in the opposite order. It may be called on a process that did not start.
func (p *process) close() {
	if p.front != nil && p.front.cur.Load() != nil {
		p.front.stop()
		p.saveNote()
	}
	if p.ring != nil {
		p.ring.Close()
	}
	if p.signins != nil {
		if err := p.signins.Close(); err != nil {
			p.o.Log.Error("the sign-in log is not complete", "error", err)
		}
	}
	if p.db != nil {
		if err := p.db.Close(); err != nil {
			p.o.Log.Error("the store does not close", "error", err)
		}
	}
	if p.lock != nil {
		p.lock.Close()
	}
}

// lastServed is what survives a restart of when each primary was last seen serving: an outage begins there.
type lastServed struct {
	Noted   time.Time            `json:"noted"`
	Tenants map[string]time.Time `json:"tenants"`
}

const noteEvery = 10 * time.Second

func (p *process) noteFile() string { return filepath.Join(p.o.DataDir, "last-served.json") }

// remembered gives the tenants what the last process noted.
func (p *process) remembered() {
	b, err := os.ReadFile(p.noteFile())
	if err != nil {
		return
	}
	var n lastServed
	if json.Unmarshal(b, &n) != nil {
		return
	}
	for _, t := range p.o.Tenants {
		t.Health.LastServed, t.Health.LastNoted = n.Tenants[t.Name], n.Noted
	}
}

// remember gives new tenants what is known of the old ones of the same name.
func (p *process) remember(ts []*gateway.Tenant) {
	now, served := time.Now(), p.served()
	for _, t := range ts {
		t.Health.LastServed, t.Health.LastNoted = served[t.Name], now
	}
}

// served is when each tenant's primary was last seen serving, by any class of endpoints.
func (p *process) served() map[string]time.Time {
	out := map[string]time.Time{}
	for name, classes := range p.front.gateway().States() {
		for _, s := range classes {
			if s.LastServed.After(out[name]) {
				out[name] = s.LastServed
			}
		}
	}
	return out
}

func (p *process) note(ctx context.Context) error {
	t := time.NewTicker(noteEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.saveNote()
		}
	}
}

func (p *process) saveNote() {
	b, err := json.Marshal(lastServed{Noted: time.Now(), Tenants: p.served()})
	if err == nil {
		err = renameio.WriteFile(p.noteFile(), b, 0o600)
	}
	if err != nil {
		p.o.Log.Warn("when the primary last served is not noted", "error", err)
	}
}
