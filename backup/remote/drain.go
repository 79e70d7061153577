package remote

import (
	"context"
	"errors"
	"time"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

const (
	// heartbeat is how long the backup may not have been heard of before it is asked.
	heartbeat = time.Second
	// stuckBound is how long a running backup may fail on the oldest Learned before it is dropped.
	stuckBound = 10 * time.Minute
)

// Run watches the backup and delivers what waits in the spool, marks first, until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	t := time.NewTicker(c.t.Probe)
	defer t.Stop()
	d := &drain{c: c}
	for {
		c.refresh()
		if c.away.Load() || c.now().UnixNano()-c.answered.Load() >= int64(heartbeat) {
			// call notes where there is no answer; a refusal is told here.
			var refused *Error
			if err := c.call(ctx, methodPing, c.t.Dial+c.t.Standing, false, pingMessage{}, &noAnswer{}); errors.As(err, &refused) {
				d.complain(err)
			}
		}
		if !c.away.Load() {
			if err := d.run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrAway) {
				d.complain(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-c.kick:
			// Whoever waits wakes us again; a backup that fails is not asked without a pause.
			if d.failed || c.away.Load() {
				select {
				case <-ctx.Done():
					return nil
				case <-t.C:
				}
			}
		}
	}
}

// refresh leaves connections that were made with former certificates, once they are idle.
func (c *Client) refresh() {
	if was := c.dialed.Load(); was != nil && was != c.id.now() {
		c.dialed.Store(nil)
		c.http.CloseIdleConnections()
	}
}

// drain delivers the spool; only Run uses it.
type drain struct {
	c      *Client
	failed bool // the last pass did not get through
	stuck  time.Time
	said   time.Time
}

func (d *drain) complain(err error) {
	if now := d.c.now(); now.Sub(d.said) >= time.Minute {
		d.said = now
		d.c.log.Error("the backup answers, and does not take what it is sent", "error", err)
	}
}

func (d *drain) run(ctx context.Context) error {
	d.failed = true
	for ctx.Err() == nil {
		markErr := d.marks(ctx)
		if errors.Is(markErr, ErrAway) {
			return markErr
		}
		more, err := d.learned(ctx)
		if err != nil {
			return err
		}
		if !more {
			d.failed = markErr != nil
			return markErr
		}
	}
	return ctx.Err()
}

// marks delivers every mark that waits. One that the backup refuses stays, and its tenant is not played; the others go on.
func (d *drain) marks(ctx context.Context) error {
	s := d.c.spool
	s.mu.Lock()
	ms := append([]*mark(nil), s.marks...)
	s.mu.Unlock()
	var first error
	for _, m := range ms {
		err := d.mark(ctx, m)
		if err == nil {
			if err = s.delivered(ctx, m); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, ErrAway) || ctx.Err() != nil {
			return err
		}
		if m.Step != nil && permanent(err) {
			d.c.log.Error("the backup does not take a step of an exchange without a reply", "tenant", m.tenant(), "error", err)
			if err := s.delivered(ctx, m); err != nil {
				return err
			}
			continue
		}
		if !m.refused {
			m.refused = true
			d.c.log.Error("the backup does not take a spooled revocation: its tenant is not played through this gateway until it does", "tenant", m.tenant(), "error", err)
		}
		first = err
	}
	return first
}

// mark delivers one mark. What waits in the spool of the same grant is marked with it, before it is delivered: else the
// backup, which does not know the artifact yet, would learn a session that is over.
func (d *drain) mark(ctx context.Context, m *mark) error {
	c := d.c
	switch {
	case m.Step != nil:
		return c.call(ctx, methodStep, c.t.Write, false, m.Step, &noAnswer{})
	case m.Marks != nil:
		return c.call(ctx, methodMark, c.t.Write, false, m.Marks, &noAnswer{})
	case m.Grant != nil:
		g := *m.Grant
		ids, ls := c.spool.family(g.Tenant, g.Lookup)
		for _, id := range ids {
			g.Lookup = id
			var a boolAnswer
			if err := c.call(ctx, methodMarkGrant, c.t.Write, false, &g, &a); err != nil {
				return err
			}
		}
		var ms []session.Mark
		for _, l := range ls {
			if !g.Client.Zero() && l.client != g.Client {
				return nil // the wrong client marks nothing
			}
			// A grant that begins in the spool is named after its first record.
			ms = append(ms, g.Marks(l.record, l.session)...)
		}
		return d.put(ctx, g.Tenant, ms)
	}
	r := *m.Refused
	if err := c.call(ctx, methodRefused, c.t.Write, false, r, &noAnswer{}); err != nil {
		return err
	}
	if r.Error == "invalid_client" || r.Error == "unauthorized_client" {
		return nil // about the client's secret, not about a grant
	}
	ids, ls := c.spool.family(r.Tenant, r.Lookup)
	var ms []session.Mark
	for _, l := range ls {
		if l.client != r.Client {
			return nil // the wrong client marks nothing
		}
		ms = append(ms, r.Marks(l.record, l.session, l.subject)...)
	}
	if len(ls) > 0 {
		for _, id := range ids {
			var st backup.Standing
			if err := c.call(ctx, methodStanding, c.t.Write, false, standingMessage{r.Tenant, id}, &st); err != nil {
				return err
			}
			if st.Known {
				ms = append(ms, r.Marks(st.Grant, session.ID{}, session.ID{})...)
			}
		}
	}
	return d.put(ctx, r.Tenant, ms)
}

func (d *drain) put(ctx context.Context, tenant string, ms []session.Mark) error {
	for len(ms) > 0 {
		n := min(len(ms), maxMarks)
		if err := d.c.call(ctx, methodMark, d.c.t.Write, false, markMessageBody{tenant, ms[:n]}, &noAnswer{}); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// learned delivers one batch from the head and says whether more waits.
func (d *drain) learned(ctx context.Context) (more bool, err error) {
	s := d.c.spool
	s.mu.Lock()
	head := append([]*lesson(nil), s.learned[:min(len(s.learned), batchLearned)]...)
	s.mu.Unlock()
	if len(head) == 0 {
		return false, nil
	}
	var ls []*backup.Learned
	var took []*lesson
	var dropped uint64
	for _, x := range head {
		l, err := s.lesson(x)
		if errors.Is(err, store.ErrNotFound) {
			return true, nil // makeRoom has dropped it meanwhile
		}
		if err == nil && s.now().UnixNano()-l.Sent < int64(session.Lifetime) {
			took, ls = append(took, x), append(ls, l)
			continue
		}
		// Too old to be used, or not readable. It leaves with the entry before it.
		if len(ls) > 0 {
			break
		}
		if err := s.forget(ctx, []*lesson{x}); err != nil {
			return false, err
		}
		dropped++
	}
	if dropped > 0 {
		s.count(func(c *Counts) { c.Dropped += dropped })
	}
	if len(ls) == 0 {
		return true, nil
	}
	n := independent(ls)
	if !d.stuck.IsZero() {
		n = 1 // the backup failed on a batch: find out on which
	}
	outs, err := d.c.learn(ctx, ls[:n])
	var refused *Error
	switch {
	case err == nil:
		d.stuck = time.Time{}
	case !errors.As(err, &refused):
		return false, err
	case n > 1:
		d.stuck = s.now()
		return true, nil
	case permanent(err), !d.stuck.IsZero() && s.now().Sub(d.stuck) >= stuckBound:
		d.c.log.Error("the backup does not take what was learned; it is dropped", "tenant", ls[0].Tenant, "error", err)
		d.stuck = time.Time{}
		s.count(func(c *Counts) { c.Rejected++ })
		return true, s.forget(ctx, took[:1])
	default:
		if d.stuck.IsZero() {
			d.stuck = s.now()
		}
		return false, err
	}
	for i, o := range outs {
		if o.Alarm != "" {
			d.c.log.Error("the primary approved what should be over", "tenant", ls[i].Tenant, "alarm", o.Alarm)
		}
	}
	if err := s.forget(ctx, took[:n]); err != nil {
		return false, err
	}
	s.count(func(c *Counts) { c.Delivered += uint64(n) })
	return true, nil
}

// lesson reads one entry.
func (s *spool) lesson(x *lesson) (*backup.Learned, error) {
	key := seqKey(queueLearned, x.seq)
	e, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	var l backup.Learned
	if err := s.open(key, e.Value, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

func (s *spool) count(f func(*Counts)) {
	s.mu.Lock()
	f(&s.counts)
	s.mu.Unlock()
}
