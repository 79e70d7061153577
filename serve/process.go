package serve

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"understudy/admin"
	"understudy/audit"
	"understudy/backup"
	"understudy/backup/notice"
	"understudy/backup/remote"
	"understudy/coverage"
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
	unkept  *unkept
	seal    *session.Sealer
	db      *store.DB
	ring    *keys.Ring
	signins *audit.Log
	store   *session.Store
	remote  *remote.Client // with the role "gateway"
	service *backup.Service
	backup  gateway.Backup

	front     *front // nil with the role "backup", as are the listeners
	listeners *listeners
	crowd     *crowd
	reloads   *reloads
	coverage  *coverage.Book // of all gateways of this process, those that were replaced too
	problems  problems
	ready     atomic.Bool
	open      []net.Listener                // of doors that do not run yet
	doors     []func(context.Context) error // listeners beside those for sign-ins

	mu sync.Mutex // guards o
	o  Options
}

// start opens every part in its order. What the backup needs and does not open is a problem and no error: sign-ins pass
// through (design, laws 3 and 8).
func start(o Options) (_ *process, err error) {
	p := &process{o: o, started: time.Now(), crowd: newCrowd(), reloads: &reloads{}, coverage: coverage.NewBook(time.Now)}
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
	if err := p.openDoors(); err != nil {
		return nil, err
	}
	if o.Role == RoleBackup {
		return p, nil
	}
	p.remembered()
	g, err := p.newGateway(&o)
	if err != nil {
		return nil, err
	}
	p.front = newFront()
	p.listeners = newListeners(p.front, p.crowd, o.Log)
	p.front.use(g)
	if err := p.listeners.inherit(); err != nil {
		return nil, err
	}
	if err := p.listeners.apply(o.listeners()); err != nil {
		return nil, err
	}
	p.listeners.disinherit()
	return p, nil
}

// Roles of a process; "" is all.
const (
	RoleGateway = "gateway"
	RoleBackup  = "backup"
)

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
	if !p.problems.has("sealing_key") {
		if err := sameKey(o.DataDir, p.seal); err != nil {
			p.problems.add("sealing_key", err, "give the key with which the data directory was sealed, or move the directory away to begin anew, then restart")
		}
	}
	dir := o.auditDir()
	log := audit.Options{KeepDays: o.Audit.KeepDays, MaxFileBytes: o.Audit.MaxFileBytes}
	if p.signins, err = log.Open(dir); err != nil {
		p.problems.add("audit_failed", err, "make "+dir+" writable, then restart: no answer without a line in the sign-in log")
		p.signins = nil
	}
	if o.Role == RoleGateway {
		// The rest is the backup's.
		p.remote, err = remote.NewClient(remote.ClientConfig{
			URL: o.Remote.URL, CertFile: o.Remote.CertFile, KeyFile: o.Remote.KeyFile, CAFile: o.Remote.CAFile, ServerName: o.Remote.ServerName,
			SpoolDir: filepath.Join(o.DataDir, "spool"), SpoolMaxBytes: o.Remote.SpoolMaxBytes,
		}, p.seal, o.Log, time.Now)
		if err != nil {
			p.problems.add("backup_failed", err, "mend what backup names in the configuration, then restart")
			p.remote = nil
		}
		return
	}
	if p.unkept, err = openUnkept(o.DataDir); err != nil {
		p.problems.add("store_failed", err, "free space or mend the disk, then restart")
	}
	if len(p.problems.backup(false)) == 0 {
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
}

// newBackup is the backup, or what stands in for it where a part of it did not open.
func (p *process) newBackup() gateway.Backup {
	if ps := p.problems.backup(p.remote != nil); len(ps) > 0 {
		for _, x := range ps {
			p.o.Log.Error("the backup does not play; sign-ins pass through", "code", x.Code, "error", x.Text, "mend", x.Mend)
		}
		return &unable{code: refusalCode(ps[0].Code), cause: errors.New(ps[0].Text), ring: p.ring, list: p.unkept}
	}
	if p.remote != nil {
		return p.remote
	}
	var kv store.KV = p.db
	if p.o.Hooks.KV != nil {
		kv = p.o.Hooks.KV(kv)
	}
	p.store = &session.Store{KV: kv, Seal: p.seal}
	s := &backup.Service{
		Sessions: p.store, Keys: p.ring, Flows: Flows(), Policy: policy.PermitAll, Audit: p.signins, Log: p.o.Log, Now: time.Now,
		Unkept: p.unkept.add,
	}
	box := &notice.Outbox{
		Dir: filepath.Join(p.o.DataDir, "notices"), Seal: p.seal, Sign: s.LogoutToken, Over: s.Noticed, Warn: p.o.Log.Warn, Now: time.Now,
	}
	if err := box.Open(); err != nil {
		p.o.Log.Error("no relying party is told of logouts over the back channel", "error", err)
	} else {
		box.Use(noticed(p.o.Tenants))
		s.Notices = box
	}
	if err := p.unkept.take(func(tenants ...string) error { return s.Mend(context.Background(), tenants...) }); err != nil {
		p.o.Log.Error("what was lost of revocations is not made up for; their tenants are not played", "error", err)
	}
	p.service = s
	return s
}

// noticed are the relying parties that are told of logouts over the back channel.
func noticed(ts []*gateway.Tenant) notice.Clients {
	out := notice.Clients{}
	for _, t := range ts {
		out[t.Name] = map[string]notice.Client{}
		for name, l := range t.Logouts {
			if l.Backchannel.URI != "" {
				out[t.Name][name] = l.Backchannel
			}
		}
	}
	return out
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
		Coverage: p.coverage, Audit: p.signins, Log: p.o.Log, Now: time.Now,
	})
}

// background starts everything that runs beside the requests.
func (p *process) background(ctx context.Context, eg *errgroup.Group) {
	for _, d := range p.doors {
		eg.Go(func() error { return d(ctx) })
	}
	eg.Go(func() error { return p.hangups(ctx) })
	if p.ring != nil {
		eg.Go(func() error { return p.ring.Run(ctx) })
		eg.Go(func() error { return p.republish(ctx) })
	}
	if p.store != nil {
		eg.Go(func() error { return p.sweep(ctx) })
	}
	if p.service != nil && p.service.Notices != nil {
		eg.Go(func() error { return p.service.Notices.Run(ctx) })
	}
	if p.signins != nil {
		eg.Go(func() error { return p.signins.Run(ctx) })
	}
	if p.remote != nil {
		eg.Go(func() error { return p.remote.Run(ctx) })
	}
	if p.listeners != nil {
		eg.Go(func() error { return p.listeners.run(ctx) })
		eg.Go(func() error { return p.note(ctx) })
		for _, a := range p.listeners.addresses() {
			p.o.Log.Info("serving", "listen", a)
		}
	}
	p.ready.Store(true)
	p.tell(daemon.SdNotifyReady)
	eg.Go(func() error {
		<-ctx.Done()
		p.ready.Store(false)
		p.tell(daemon.SdNotifyStopping)
		return nil
	})
}

// tell tells the service manager, where there is one that asked (sd_notify).
func (p *process) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		p.o.Log.Warn("the service manager is not told", "error", err)
	}
}

// sweepEvery is how often what is over is forgotten.
const sweepEvery = 5 * time.Minute

// sweep forgets what is over, until ctx ends.
func (p *process) sweep(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		began := time.Now()
		swept, err := p.store.Sweep(ctx, began)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			p.o.Log.Error("what is over cannot be forgotten; it is tried again", "error", err)
		case swept != session.Swept{}:
			p.o.Log.Info("forgot what is over", "doors", swept.Doors, "marks", swept.Marks, "took", time.Since(began).Round(time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// republish brings keys that changed into the published sets, until ctx ends.
func (p *process) republish(ctx context.Context) error {
	if p.front == nil {
		return nil
	}
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	var told uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		v := p.ring.Version()
		if v == told {
			continue
		}
		if err := p.front.gateway().Republish(ctx); err != nil {
			p.o.Log.Warn("changed backup keys are not published yet; it is tried again", "error", err)
			continue
		}
		told = v
	}
}

// openDoors opens the admin API, and the backup's door for its gateways.
func (p *process) openDoors() error {
	api := admin.New(p.parts())
	p.doors = append(p.doors, api.Run)
	path := filepath.Join(p.o.DataDir, "admin.sock")
	p.doors = append(p.doors, func(ctx context.Context) error {
		if err := api.ServeSocket(ctx, path, func() {}); err != nil && ctx.Err() == nil {
			// Sign-ins go on.
			p.problems.add("admin_socket", err, "mend it, then restart: no command reaches this process")
			p.o.Log.Error("the admin socket is closed; sign-ins go on", "error", err)
		}
		return nil
	})
	if a := p.o.Admin; a.Listen != "" {
		token, err := admin.Token(a.TokenFile)
		if err != nil {
			return err
		}
		cert, err := newCertificate(a.CertFile, a.KeyFile, p.o.Log)
		if err != nil {
			return fmt.Errorf("admin listener: %w", err)
		}
		ln, err := net.Listen("tcp", a.Listen)
		if err != nil {
			return fmt.Errorf("admin listener: %w", err)
		}
		p.open = append(p.open, ln)
		p.doors = append(p.doors, func(ctx context.Context) error { return api.ServeTLS(ctx, ln, cert.config(), token) })
	}
	if r := p.o.Remote; r.Listen != "" && p.o.Role != RoleGateway {
		id, err := remote.ServerConfig{Listen: r.Listen, CertFile: r.CertFile, KeyFile: r.KeyFile, CAFile: r.CAFile, AllowedNames: r.AllowedNames}.Identity(p.o.Log)
		if err != nil {
			return fmt.Errorf("listen for gateways: %w", err)
		}
		ln, err := net.Listen("tcp", r.Listen)
		if err != nil {
			return fmt.Errorf("listen for gateways: %w", err)
		}
		p.open = append(p.open, ln)
		h := remote.NewHandler(p.backup, p.o.Log)
		p.doors = append(p.doors, func(ctx context.Context) error { return remote.Serve(ctx, ln, h, id, p.o.Log) })
	}
	return nil
}

// parts are what the admin API shows.
func (p *process) parts() admin.Parts {
	out := admin.Parts{
		Version: Version(), Role: p.o.Role, Started: p.started, Backup: p.backup, Seal: p.seal, Sessions: p.store, Keys: p.ring, Audit: p.signins,
		Problems: p.trouble, Ready: p.ready.Load, Log: p.o.Log, Now: time.Now, Connections: p.crowd.numbers,
		Settings: func() (map[string]any, error) {
			p.mu.Lock()
			f := p.o.Settings
			p.mu.Unlock()
			if f == nil {
				return map[string]any{}, nil
			}
			return f()
		},
	}
	if out.Role == "" {
		out.Role = "all"
	}
	if p.signins != nil {
		out.AuditDir = p.o.auditDir()
	}
	if p.o.Role != RoleBackup {
		out.Gateway = func() *gateway.Gateway { return p.front.gateway() }
		out.Counts = func() map[string]uint64 { return p.front.counts() }
		out.Coverage = p.coverage
	}
	return out
}

// trouble is everything that an operator must mend now.
func (p *process) trouble() []admin.Problem {
	out := p.problems.all()
	if x, ok := p.reloads.problem(); ok {
		out = append(out, x)
	}
	if p.db != nil {
		if err := p.db.Failed(); err != nil {
			out = append(out, admin.Problem{Code: "store_failed", Text: err.Error(), Mend: "free space or mend the disk, then restart: until then nothing is learned and the backup does not play"})
		}
	}
	if p.signins != nil {
		if err := p.signins.Err(); err != nil {
			out = append(out, admin.Problem{Code: "audit_failed", Text: err.Error(), Mend: "free space, or make " + p.o.auditDir() + " writable: until then the backup does not play, because every answer leaves a line"})
		}
	}
	if p.service != nil {
		stopped := p.service.Stopped()
		for _, tenant := range slices.Sorted(maps.Keys(stopped)) {
			out = append(out, admin.Problem{
				Code: "stopped", Text: "tenant " + tenant + " is not played, because its revocations cannot be kept: " + stopped[tenant],
				Mend: "mend the disk, then restart; what was learned until then waits for the primary's approval",
			})
		}
	}
	if p.remote != nil && p.remote.Away() {
		out = append(out, admin.Problem{Code: "backup_away", Text: "the backup at " + p.o.Remote.URL + " does not answer", Mend: "start it, or mend the way to it; what is learned waits on this gateway's disk"})
	}
	return out
}

// close ends what is left in the opposite order. It may be called on a process that did not start.
func (p *process) close() {
	for _, ln := range p.open {
		ln.Close()
	}
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
	if p.remote != nil {
		if err := p.remote.Close(); err != nil {
			p.o.Log.Error("the spool does not close", "error", err)
		}
	}
	if p.unkept != nil {
		p.unkept.close()
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
