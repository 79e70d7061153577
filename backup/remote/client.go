package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// Client stands in for the backup at a gateway: it has the methods of backup.Service. Run must be running. It is safe for
// concurrent use.
//
// A request is sent once: only where its connection was lost before anything of it was sent, or where its method may be
// applied twice by contract, may it be sent again.
type Client struct {
	base  string
	t     Timeouts
	id    *Identity
	log   *slog.Logger
	now   func() time.Time
	http  *http.Transport
	codec codec
	spool *spool

	away     atomic.Bool
	untold   sync.Map      // tenant → untold
	late     atomic.Int32  // deadlines in a row
	answered atomic.Int64  // when the backup last did, Unix nanoseconds
	kick     chan struct{} // wakes Run

	// learning is held while what was learned goes out or into the spool: its order is the callers'.
	learning sync.Mutex
	dialed   atomic.Pointer[material] // with which the newest connection was made
}

// NewClient opens the spool and the certificates; the backup need not be there. seal is the deployment's.
func NewClient(c ClientConfig, seal *session.Sealer, log *slog.Logger, now func() time.Time) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("the backup's URL %q is not of the form https://host:port", c.URL)
	}
	if c.ServerName == "" {
		c.ServerName = u.Hostname()
	}
	id, err := newIdentity(c.CertFile, c.KeyFile, c.CAFile, nil, log)
	if err != nil {
		return nil, err
	}
	sp, err := openSpool(c.SpoolDir, seal, c.SpoolMaxBytes, now)
	if err != nil {
		return nil, err
	}
	x := &Client{base: "https://" + u.Host + pathPrefix, t: c.Timeouts.withDefaults(), id: id, log: log, now: now, codec: newCodec(), spool: sp, kick: make(chan struct{}, 1)}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	x.http = &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return x.dial(ctx, network, addr, c.ServerName)
		},
		Protocols: &protocols, ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: time.Second, WriteByteTimeout: 5 * time.Second},
	}
	return x, nil
}

func (c *Client) dial(ctx context.Context, network, addr, name string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.t.Dial)
	defer cancel()
	cfg, m := c.id.clientTLS(name)
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 15 * time.Second}, Config: cfg}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if p := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; p != "h2" {
		conn.Close()
		return nil, errors.New("the backup does not speak HTTP/2")
	}
	c.dialed.Store(m)
	return conn, nil
}

// Close closes the spool. Run must have returned, and every other call.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return c.spool.close()
}

// Counts returns what waits in the spool and what became of the rest.
func (c *Client) Counts() Counts { return c.spool.snapshot() }

// Away says whether the backup was found away when it was last asked.
func (c *Client) Away() bool { return c.away.Load() }

// call sends one message. once forbids the transport to send it again.
func (c *Client) call(ctx context.Context, method string, timeout time.Duration, once bool, in, out any) error {
	body, err := c.codec.encode(in)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(bounded, http.MethodPost, c.base+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if once {
		req.GetBody = nil
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.http.RoundTrip(req)
	var answer []byte
	if err == nil {
		answer, err = readAll(resp.Body, maxAnswer, resp.ContentLength)
		drainAndClose(resp.Body)
	}
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ask the backup (%s): %w", method, ctx.Err()) // the caller left: this says nothing of the backup
		}
		c.missed(err, bounded.Err() != nil)
		return fmt.Errorf("%w (%s): %w", ErrAway, method, err)
	}
	c.seen()
	if resp.StatusCode != http.StatusOK {
		e := &Error{Method: method, Code: CodeFailed}
		var a errorAnswer
		if c.codec.decode(answer, &a) == nil && slices.Contains([]string{CodeBadMessage, CodeTooLarge, CodeNotReceived, CodeUnknownMethod, CodeNotAllowed}, a.Code) {
			e.Code = a.Code
		} else if resp.StatusCode == http.StatusForbidden {
			e.Code = CodeNotAllowed
		}
		return e
	}
	if err := c.codec.decode(answer, out); err != nil {
		return &Error{Method: method, Code: CodeBadAnswer}
	}
	return nil
}

// lateInARow is how many deadlines in a row make a backup that is slow one that is away.
const lateInARow = 3

func (c *Client) missed(err error, deadline bool) {
	if deadline && c.late.Add(1) < lateInARow {
		return
	}
	if !c.away.Swap(true) {
		c.log.Error("the backup does not answer: sign-ins pass through unprotected, what is learned waits in the spool", "error", err)
	}
	c.wake()
}

func (c *Client) seen() {
	c.answered.Store(c.now().UnixNano())
	c.late.Store(0)
	if c.away.Swap(false) {
		c.log.Warn("the backup answers again")
		c.wake()
	}
}

func (c *Client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Play asks for an answer, once and in bounded time. It refuses what the backup cannot decide yet: where a revocation of
// the tenant, or what was learned with this artifact, still waits in the spool, it waits for its delivery within the
// same bound.
func (c *Client) Play(ctx context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	if c.spool.held(p.Tenant) {
		return nil, flow.NotNow("stopped"), nil
	}
	deadline := time.Now().Add(c.t.Play)
	wait := time.NewTimer(c.t.Play)
	defer wait.Stop()
	for {
		behind, changed := c.spool.behind(p.Tenant, p.Artifact.Lookup)
		if !behind {
			break
		}
		if c.away.Load() {
			return nil, nil, fmt.Errorf("%w (play)", ErrAway)
		}
		c.wake()
		select {
		case <-changed:
		case <-wait.C:
			return nil, flow.NotNow("spool_behind"), nil
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	left := time.Until(deadline)
	if left <= 0 {
		return nil, flow.NotNow("spool_behind"), nil
	}
	var a playAnswer
	if err := c.call(ctx, methodPlay, left, true, p, &a); err != nil {
		return nil, nil, err
	}
	switch {
	case a.Reply != nil && a.Refusal == nil && a.Reply.Status >= 200 && a.Reply.Status < 500:
		if a.Reply.Header == nil {
			a.Reply.Header = http.Header{}
		}
		return a.Reply, nil, nil
	case a.Refusal != nil && a.Reply == nil && a.Refusal.Status >= 400 && a.Refusal.Status < 600:
		return nil, a.Refusal, nil
	}
	return nil, nil, &Error{Method: methodPlay, Code: CodeBadAnswer}
}

// Opens asks what a browser would be let into, in bounded time and at once where the backup is known to be away. It waits for nothing
// in the spool: of what the backup cannot decide yet the answer is no.
func (c *Client) Opens(ctx context.Context, ps []*flow.Play) ([]bool, error) {
	if c.away.Load() {
		return nil, fmt.Errorf("%w (opens)", ErrAway)
	}
	out := make([]bool, len(ps))
	var m opensMessage
	var at []int // in ps
	for i, p := range ps {
		if behind, _ := c.spool.behind(p.Tenant, p.Artifact.Lookup); !behind && !c.spool.held(p.Tenant) {
			m.Plays, at = append(m.Plays, *p), append(at, i)
		}
	}
	if len(at) == 0 {
		return out, nil
	}
	var a opensAnswer
	if err := c.call(ctx, methodOpens, c.t.Play, true, m, &a); err != nil {
		return nil, err
	}
	if len(a.Opens) != len(at) {
		return nil, &Error{Method: methodOpens, Code: CodeBadAnswer}
	}
	for i, yes := range a.Opens {
		out[at[i]] = yes
	}
	return out, nil
}

// Standing looks an artifact up, in bounded time and at once where the backup is known to be away. A step that waits in
// the spool is part of the answer, also of one with an error.
func (c *Client) Standing(ctx context.Context, tenant string, lookup session.ID) (backup.Standing, error) {
	var st backup.Standing
	err := fmt.Errorf("%w (standing)", ErrAway)
	if !c.away.Load() {
		err = c.call(ctx, methodStanding, c.t.Standing, false, standingMessage{tenant, lookup}, &st)
		if err != nil {
			st = backup.Standing{}
		}
	}
	if v := c.spool.step(tenant, lookup); v != nil {
		st.Successor = v
	}
	return st, err
}

// Held looks up what a browser holds, in bounded time and at once where the backup is known to be away.
func (c *Client) Held(ctx context.Context, tenant string, lookup session.ID) (backup.Held, error) {
	if c.away.Load() {
		return backup.Held{}, fmt.Errorf("%w (held)", ErrAway)
	}
	var h backup.Held
	err := c.call(ctx, methodHeld, c.t.Standing, false, standingMessage{tenant, lookup}, &h)
	if err != nil {
		return backup.Held{}, err
	}
	return h, nil
}

// Barred asks whether a session was ended here, in bounded time and at once where the backup is known to be away.
func (c *Client) Barred(ctx context.Context, in *backup.SignIn) (bool, error) {
	if c.away.Load() {
		return false, fmt.Errorf("%w (barred)", ErrAway)
	}
	var a boolAnswer
	err := c.call(ctx, methodBarred, c.t.Standing, false, in, &a)
	return a.Yes && err == nil, err
}

// Learn sends what was learned, or keeps it in the spool; the outcome of what waits there is "spooled". An error means that
// it is kept nowhere.
func (c *Client) Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	if len(ls) == 0 {
		return nil, nil
	}
	ctx = context.WithoutCancel(ctx)
	c.learning.Lock()
	defer c.learning.Unlock()
	var out []backup.Outcome
	for len(ls) > 0 {
		n := independent(ls)
		if waits, _ := c.spool.waiting(); !waits && !c.away.Load() {
			os, err := c.learn(ctx, ls[:n])
			if err == nil {
				out, ls = append(out, os...), ls[n:]
				continue
			}
			if permanent(err) && n == 1 {
				c.log.Error("the backup does not take what was learned", "tenant", ls[0].Tenant, "error", err)
				c.spool.count(func(n *Counts) { n.Rejected++ })
				out, ls = append(out, backup.Outcome{Unlearned: "rejected"}), ls[1:]
				continue
			}
		}
		if err := c.spool.learn(ctx, ls); err != nil {
			return nil, err
		}
		for range ls {
			out = append(out, backup.Outcome{Unlearned: "spooled"})
		}
		c.wake()
		return out, nil
	}
	return out, nil
}

// learn sends one message.
func (c *Client) learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	m := learnMessageBody{Learned: make([]backup.Learned, len(ls))}
	for i, l := range ls {
		m.Learned[i] = *l
	}
	var a learnAnswer
	if err := c.call(ctx, methodLearn, c.t.Learn, false, m, &a); err != nil {
		return nil, err
	}
	if len(a.Outcomes) != len(ls) {
		return nil, &Error{Method: methodLearn, Code: CodeBadAnswer}
	}
	out := make([]backup.Outcome, len(ls))
	for i, o := range a.Outcomes {
		out[i] = backup.Outcome{Unlearned: o.Unlearned, Alarm: o.Alarm}
	}
	return out, nil
}

const (
	batchLearned = 256
	batchBytes   = 2 << 20
)

// independent returns how many of the first can go in one message: a batch is looked up before any of it is kept, so that
// an exchange and the one before it in the same grant go one after the other.
func independent(ls []*backup.Learned) int {
	seen := map[session.ID]bool{}
	size := 0
	for i, l := range ls {
		ids := lookups(l)
		size += len(l.Sealed.Data) + 512*(1+len(ids))
		if i == batchLearned || i > 0 && size > batchBytes || slices.ContainsFunc(ids, func(id session.ID) bool { return seen[id] }) {
			return i
		}
		for _, id := range ids {
			seen[id] = true
		}
	}
	return len(ls)
}

// Refused keeps at the backup, or in the spool until it answers, that the primary refused.
func (c *Client) Refused(ctx context.Context, r *backup.Refused) error {
	ctx = context.WithoutCancel(ctx)
	err := fmt.Errorf("%w (refused)", ErrAway)
	if !c.away.Load() {
		err = c.call(ctx, methodRefused, c.t.Write, false, r, &noAnswer{})
		if waits, _ := c.spool.waiting(); err == nil && !waits {
			return nil
		}
	}
	// What it is about may itself wait in the spool: then the backup does not know it yet.
	return c.keep(ctx, &mark{Refused: r}, err)
}

// Step keeps at the backup, or in the spool until it answers, what is known of an exchange without a reply.
func (c *Client) Step(ctx context.Context, tenant string, lookup session.ID, at int64, v session.Successor) error {
	ctx = context.WithoutCancel(ctx)
	m := &stepMessage{tenant, lookup, at, v}
	err := fmt.Errorf("%w (step)", ErrAway)
	if !c.away.Load() {
		if err = c.call(ctx, methodStep, c.t.Write, false, m, &noAnswer{}); err == nil {
			return nil
		}
	}
	return c.keep(ctx, &mark{Step: m}, err)
}

// MarkGrant keeps at the backup, or in the spool until it answers, that an artifact's grant is over. It is true where the
// backup knows the artifact; false and nil may mean that it is only spooled.
func (c *Client) MarkGrant(ctx context.Context, m *backup.GrantMark) (bool, error) {
	ctx = context.WithoutCancel(ctx)
	c.ended(m.Tenant, session.Mark{Final: !m.Inferred, Told: m.Told})
	err := fmt.Errorf("%w (mark_grant)", ErrAway)
	if !c.away.Load() {
		var a boolAnswer
		if err = c.call(ctx, methodMarkGrant, c.t.Write, false, m, &a); err == nil {
			if waits, _ := c.spool.waiting(); a.Yes || !waits {
				return a.Yes, nil
			}
		}
	}
	return false, c.keep(ctx, &mark{Grant: m}, err)
}

// SignedOut asks the backup to tell the relying parties of a session. A backup that is away, or older than this gateway, tells
// nobody.
func (c *Client) SignedOut(ctx context.Context, in *backup.SignOut) (backup.Parties, error) {
	if c.away.Load() {
		return backup.Parties{}, fmt.Errorf("%w (signed_out)", ErrAway)
	}
	var p backup.Parties
	if err := c.call(ctx, methodSignedOut, c.t.Play, false, in, &p); err != nil {
		return backup.Parties{}, err
	}
	return p, nil
}

// Mark keeps marks at the backup. nil means that they hold there. Where it does not answer they are spooled and the error
// wraps ErrSpooled: they will hold when it is back. Any other error means that they are kept nowhere.
func (c *Client) Mark(ctx context.Context, tenant string, ms ...session.Mark) error {
	if len(ms) > maxMarks {
		return fmt.Errorf("%d marks in one call, at most %d are taken", len(ms), maxMarks)
	}
	ctx = context.WithoutCancel(ctx)
	c.ended(tenant, ms...)
	m := &markMessageBody{tenant, ms}
	err := c.call(ctx, methodMark, c.t.Write, false, m, &noAnswer{})
	if err == nil {
		return nil
	}
	if permanent(err) {
		return err
	}
	if err := c.spool.put(ctx, &mark{Marks: m}); err != nil {
		return fmt.Errorf("keep a revocation: %w", err)
	}
	c.wake()
	return fmt.Errorf("%w (%w)", ErrSpooled, err)
}

// untoldFor is how long it holds at a gateway that nothing of a tenant was ended for good: what another one ends meanwhile is seen then.
const untoldFor = time.Second

// untold is an answer of the backup's.
type untold struct {
	yes bool
	at  time.Time
}

// Untold says whether something of the tenant was ended for good of which the primary may not know. It may be where the backup does not
// say.
func (c *Client) Untold(ctx context.Context, tenant string) (bool, error) {
	if u, ok := c.untold.Load(tenant); ok && (u.(untold).yes || time.Since(u.(untold).at) < untoldFor) {
		return u.(untold).yes, nil
	}
	if c.away.Load() {
		return true, fmt.Errorf("%w (untold)", ErrAway)
	}
	at, a := time.Now(), boolAnswer{}
	if err := c.call(ctx, methodUntold, c.t.Standing, true, untoldMessage{tenant}, &a); err != nil {
		return true, err
	}
	if _, marks := c.spool.waiting(); marks {
		return true, nil
	}
	u := untold{a.Yes, at}
	if was, there := c.untold.LoadOrStore(tenant, u); there && !was.(untold).yes { // what was ended meanwhile stays so
		c.untold.CompareAndSwap(tenant, was, u)
	}
	return a.Yes, nil
}

// ended notes before it is kept that marks end something for good.
func (c *Client) ended(tenant string, ms ...session.Mark) {
	if slices.ContainsFunc(ms, func(m session.Mark) bool { return m.Final && !m.Told }) {
		c.untold.Store(tenant, untold{yes: true})
	}
}

// keep puts into the spool what the backup did not take; why is nil where it did. What cannot be kept stops the tenant's
// play.
func (c *Client) keep(ctx context.Context, m *mark, why error) error {
	if err := c.spool.put(ctx, m); err != nil {
		if m.Step == nil {
			c.spool.lost(m.tenant())
			c.log.Error("a revocation is kept nowhere: the backup is not asked for this tenant through this gateway while records live that it could block", "tenant", m.tenant(), "error", err)
		}
		return errors.Join(err, why)
	}
	c.wake()
	return nil
}

// PublicKeys returns the backup's public keys, or, while it does not answer, those that it gave last.
func (c *Client) PublicKeys(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error) {
	var a keysAnswer
	err := c.call(ctx, methodKeys, c.t.Keys, false, keysMessage{tenant, issuer, algs}, &a)
	if err == nil {
		ks, err := parseKeys(a.Keys)
		if err != nil {
			return nil, &Error{Method: methodKeys, Code: CodeBadAnswer}
		}
		if err := c.spool.putKeys(context.WithoutCancel(ctx), tenant, issuer, a.Keys); err != nil {
			c.log.Error("the backup's public keys are not kept: this gateway cannot start while the backup is away", "error", err)
		}
		return ks, nil
	}
	raw, at, kept := c.spool.keys(tenant, issuer)
	if kept != nil {
		return nil, err
	}
	c.log.Warn("the backup's public keys are those of its last answer", "tenant", tenant, "issuer", issuer, "at", at, "error", err)
	return parseKeys(raw)
}
