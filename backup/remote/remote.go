// Package remote lets the gateway and the backup be two processes: the server side in front of a backup.Service, and a
// Client that stands in for it at the gateway.
//
// It owns the wire between them (CBOR over HTTP/2 under mutual TLS 1.3, one POST a method), the certificates' rules, and
// the spool in which the gateway keeps what the backup could not take. It refuses plain HTTP, peers without a certificate
// of the configured authority and name, and messages beyond its caps. It decides nothing about a sign-in and may not import
// gateway.
//
// What an acknowledgement means (design, law 3):
//
//   - Mark returns nil only when the backup has kept the mark durably. A mark that lies in the spool is accepted, delivered
//     as soon as the backup answers, and not yet in force: the error then wraps [ErrSpooled].
//   - MarkGrant, Refused and Step carry what the primary itself has decided and what passes by: they return nil when the
//     backup or the spool keeps them durably. Until the spooled ones are delivered, Play through this client refuses for
//     their tenant.
//   - Learn puts into the spool what cannot be sent and says so in the outcome ("spooled"). Order is kept.
package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// Backup is what the server serves: a *backup.Service. A Client has the same methods.
type Backup interface {
	Play(ctx context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error)
	Opens(ctx context.Context, ps []*flow.Play) ([]bool, error)
	Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error)
	Standing(ctx context.Context, tenant string, lookup session.ID) (backup.Standing, error)
	Held(ctx context.Context, tenant string, lookup session.ID) (backup.Held, error)
	Barred(ctx context.Context, in *backup.SignIn) (bool, error)
	Refused(ctx context.Context, r *backup.Refused) error
	Step(ctx context.Context, tenant string, lookup session.ID, at int64, v session.Successor) error
	MarkGrant(ctx context.Context, g *backup.GrantMark) (bool, error)
	SignedOut(ctx context.Context, in *backup.SignOut) (backup.Parties, error)
	Mark(ctx context.Context, tenant string, ms ...session.Mark) error
	Untold(ctx context.Context, tenant string) (bool, error)
	PublicKeys(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error)
}

var (
	// ErrAway says that no backup answered: it is down, out of reach or too slow.
	ErrAway = errors.New("the backup does not answer")
	// ErrSpooled says that a revocation is kept here and will be delivered, and is not yet in force.
	ErrSpooled = errors.New("accepted, not yet in force: the backup does not answer, the revocation waits in the gateway's spool")
	// ErrSpoolFull says that the spool has no room left, even without what was learned.
	ErrSpoolFull = errors.New("the spool is full")
)

// Codes of an Error. They are stable; what they mean inside stays in the backup's log.
const (
	CodeBadMessage    = "bad_message"    // no message of this method
	CodeTooLarge      = "too_large"      // over the method's cap
	CodeNotReceived   = "not_received"   // the body did not come in time
	CodeUnknownMethod = "unknown_method" // the backup is older than this gateway
	CodeNotAllowed    = "not_allowed"    // the peer's certificate does not carry a configured name, or has ended
	CodeFailed        = "failed"         // the backup itself failed
	CodeBadAnswer     = "bad_answer"     // the answer is none (found by the client)
)

// Error is the backup's refusal of a message.
type Error struct {
	Method string
	Code   string
}

func (e *Error) Error() string { return fmt.Sprintf("the backup refused %s: %s", e.Method, e.Code) }

// permanent says whether the same message would be refused again by the same backup.
func permanent(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == CodeBadMessage || e.Code == CodeTooLarge || e.Code == CodeUnknownMethod
}

// ServerConfig is the backup's side.
type ServerConfig struct {
	Listen string // host:port
	// CertFile and KeyFile are this server's (PEM); CAFile is the authority whose certificates gateways carry. They are
	// read again when they change.
	CertFile, KeyFile, CAFile string
	// AllowedNames are the DNS names or URIs (SPIFFE IDs) of which a gateway's certificate must carry one. There is no
	// default: another certificate of the same authority is no gateway.
	AllowedNames []string
}

// ClientConfig is the gateway's side.
type ClientConfig struct {
	URL string // https://host:port of the backup
	// CertFile and KeyFile are this gateway's (PEM); CAFile is the authority of the backup's certificate. They are read
	// again when they change.
	CertFile, KeyFile, CAFile string
	// ServerName must be in the backup's certificate; "": the host of URL.
	ServerName string
	Timeouts   Timeouts
	// SpoolDir is a directory of the spool's own, on this gateway's disk.
	SpoolDir string
	// SpoolMaxBytes bounds what waits in it; 0: 256 MiB. The oldest of what was learned goes first, marks never.
	SpoolMaxBytes int64
}

// Timeouts bound the calls; zero values are the defaults in brackets.
type Timeouts struct {
	Dial     time.Duration // connection and handshake [500 ms]
	Standing time.Duration // it stands before every known sign-in [250 ms]
	Play     time.Duration // [2 s]
	Write    time.Duration // Refused, MarkGrant, Mark, Step [8 s: a revocation waits for a slow disk]
	Learn    time.Duration // one batch, behind the clients' backs [10 s]
	Keys     time.Duration // [2 s]
	Probe    time.Duration // between two questions whether the backup is back [250 ms]
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&t.Dial, 500 * time.Millisecond}, {&t.Standing, 250 * time.Millisecond}, {&t.Play, 2 * time.Second}, {&t.Write, 8 * time.Second},
		{&t.Learn, 10 * time.Second}, {&t.Keys, 2 * time.Second}, {&t.Probe, 250 * time.Millisecond},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return t
}
