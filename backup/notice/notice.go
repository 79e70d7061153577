// Package notice tells relying parties of logouts that were carried out while the primary was away (OpenID Connect Back-Channel
// Logout 1.0).
//
// It owns what waits to be told, on disk until it is told or its hour is over, and how it is sent. It posts only to URIs of the
// configuration, follows no redirect, and signs nothing by itself. It imports session only.
package notice

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/renameio/v2"

	"understudy/session"
)

// Client is how a relying party is told (OpenID Connect Back-Channel Logout 1.0, section 2.2).
type Client struct {
	URI             string // its backchannel_logout_uri
	SessionRequired bool   // it wants to be told which session: the sub alone does not do
}

// Clients are the relying parties that can be told, by tenant and client_id.
type Clients map[string]map[string]Client

// Notice is one logout that one relying party is to be told of.
type Notice struct {
	Tenant  string `cbor:"0,keyasint"`
	Issuer  string `cbor:"1,keyasint"`
	Client  string `cbor:"2,keyasint"`
	Subject string `cbor:"3,keyasint,omitempty"`
	SID     string `cbor:"4,keyasint,omitempty"`
	Alg     string `cbor:"5,keyasint"` // of the client's ID tokens
	Typ     string `cbor:"6,keyasint,omitempty"`
	JTI     string `cbor:"7,keyasint"`
	At      int64  `cbor:"8,keyasint"` // Unix nanoseconds: when the session ended
}

const (
	// keepFor is how long it is tried to tell a relying party.
	keepFor = time.Hour
	// maxWaiting bounds what waits.
	maxWaiting = 10_000
	// againAfter is how long the same logout is not told anew: who holds an ID token must not make a relying party busy with it.
	againAfter = time.Minute
	maxRecent  = 10_000
)

// ErrFull says that too much waits already.
var ErrFull = errors.New("too many logouts wait to be told")

// Outbox is what waits. Put may be called before Run is running. Its exported members are set before and do not change.
type Outbox struct {
	Dir  string
	Seal *session.Sealer
	// Sign makes the logout token of a notice, anew for each attempt: it lives for minutes, a notice for an hour.
	Sign func(*Notice) (token, kid string, err error)
	// Over is called when a notice is told, or when it is given up. It leaves the line of the sign-in log.
	Over func(n *Notice, told bool, kid string)
	Warn func(msg string, args ...any)
	Now  func() time.Time

	clients atomic.Pointer[Clients]
	nudge   chan struct{}

	mu     sync.Mutex // guards what follows
	recent map[string]time.Time
	tries  map[string]*try // by name of the file
}

// Open makes the directory.
func (o *Outbox) Open() error {
	o.nudge, o.recent, o.tries = make(chan struct{}, 1), map[string]time.Time{}, map[string]*try{}
	o.clients.Store(&Clients{})
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of logouts to be told: %w", err)
	}
	return nil
}

// Use puts a configuration in force. What waits for a client that is none any more is given up.
func (o *Outbox) Use(c Clients) { o.clients.Store(&c) }

// Client is a relying party of the configuration.
func (o *Outbox) Client(tenant, client string) (Client, bool) {
	c, ok := (*o.clients.Load())[tenant][client]
	return c, ok && c.URI != ""
}

// Names are the configured relying parties of a tenant.
func (o *Outbox) Names(tenant string) (out []string) {
	for name := range (*o.clients.Load())[tenant] {
		out = append(out, name)
	}
	return out
}

// name is that of a notice's file: one logout is one file, however often it is asked for.
func (o *Outbox) name(n *Notice) string {
	id := o.Seal.Pseudonym("notice", n.Tenant, n.Issuer, session.Joined(n.Client, n.Subject, n.SID))
	return fmt.Sprintf("%x.notice", id[:])
}

// Put keeps a notice durably: it is told soon. What was told a moment ago is not told again.
func (o *Outbox) Put(n *Notice) error {
	name, now := o.name(n), o.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.recent[name]; ok && now.Sub(at) < againAfter {
		return nil
	}
	names, err := o.names()
	if err != nil {
		return err
	}
	if len(names) >= maxWaiting {
		return ErrFull
	}
	plain, err := cbor.Marshal(n)
	if err != nil {
		return fmt.Errorf("keep a logout to be told: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(o.Dir, name), o.Seal.Seal([]byte(name), plain), 0o600); err != nil {
		return fmt.Errorf("keep a logout to be told: %w", err)
	}
	if len(o.recent) >= maxRecent {
		clear(o.recent)
	}
	o.recent[name] = now
	select {
	case o.nudge <- struct{}{}:
	default:
	}
	return nil
}

func (o *Outbox) names() ([]string, error) {
	es, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("look for logouts to be told: %w", err)
	}
	var out []string
	for _, e := range es {
		if strings.HasSuffix(e.Name(), ".notice") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// read reads a notice; nil where it is gone.
func (o *Outbox) read(name string) (*Notice, error) {
	b, err := os.ReadFile(filepath.Join(o.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	plain, err := o.Seal.Unseal([]byte(name), b)
	if err != nil {
		return nil, err
	}
	var n Notice
	return &n, cbor.Unmarshal(plain, &n)
}
