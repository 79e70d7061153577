package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

// spool keeps on the gateway's disk what the backup could not take. Two queues:
//
//	'm' seq(8) → mark       revocations, refusals and steps: never dropped
//	'l' seq(8) → Learned    the oldest is dropped where the bytes do not suffice, and what is older than a record lives
//	'k' hash(8) → keys      the backup's public keys as last seen, so that a gateway starts while the backup is away
//	'h' hash(8) → hold      until when a tenant is not played because a mark could not be kept
//
// Values are sealed under the deployment's key with their key as place. A seq is the time of arrival in Unix nanoseconds,
// made unique; it is never used twice.
type spool struct {
	db   *store.DB
	seal *session.Sealer
	dec  cbor.DecMode
	max  int64
	now  func() time.Time

	// keep is held while an entry is written, so that the queues on disk and in memory have the same order.
	keep sync.Mutex

	mu      sync.Mutex // guards what follows
	last    uint64
	learned []*lesson // in order
	marks   []*mark   // in order
	by      map[session.ID]map[*lesson]struct{}
	steps   map[place]*mark // the newest undelivered step
	pending map[string]int  // marks that are no steps, by tenant
	bytes   [2]int64        // of learned and marks
	holds   map[string]time.Time
	changed chan struct{} // closed and replaced when something left the spool
	counts  Counts
}

type place struct {
	tenant string
	lookup session.ID
}

// lesson is what memory knows of a spooled Learned: enough to find its family.
type lesson struct {
	seq     uint64
	size    int64
	tenant  string
	client  session.ID
	record  session.ID
	session session.ID
	subject session.ID
	lookups []session.ID
}

// mark is one entry of the marks' queue; exactly one of its messages is set.
type mark struct {
	seq     uint64
	size    int64
	refused bool // by a running backup, for good

	Grant   *backup.GrantMark `cbor:"0,keyasint,omitempty"`
	Refused *backup.Refused   `cbor:"1,keyasint,omitempty"`
	Marks   *markMessageBody  `cbor:"2,keyasint,omitempty"`
	Step    *stepMessage      `cbor:"3,keyasint,omitempty"`
}

func (m *mark) tenant() string {
	switch {
	case m.Grant != nil:
		return m.Grant.Tenant
	case m.Refused != nil:
		return m.Refused.Tenant
	case m.Marks != nil:
		return m.Marks.Tenant
	}
	return m.Step.Tenant
}

const (
	queueLearned = 'l'
	queueMarks   = 'm'
	keptKeys     = 'k'
	keptHold     = 'h'

	indexBytes  = 256       // counted for an entry beyond its value: its place in memory
	defaultMax  = 256 << 20 // SpoolMaxBytes
	spoolCache  = 1 << 20
	holdLasting = session.Lifetime
)

// Counts of a spool. Those of a queue are of now, the others since the process began.
type Counts struct {
	Learned int   // waiting
	Marks   int   // waiting: revocations, refusals and steps
	Bytes   int64 // of both
	// Oldest is when the oldest that waits came; zero: nothing waits.
	Oldest time.Time
	Held   int // tenants that are not played because a mark was lost

	Spooled   uint64 // came in
	Delivered uint64
	Dropped   uint64 // Learned lost: no room, or too old
	Rejected  uint64 // Learned that a running backup refused for good
	Lost      uint64 // marks that could not even be spooled
}

func openSpool(dir string, seal *session.Sealer, maxBytes int64, now func() time.Time) (*spool, error) {
	if dir == "" {
		return nil, errors.New("no spool directory: name one on this gateway's disk that nothing else uses")
	}
	if maxBytes <= 0 {
		maxBytes = defaultMax
	}
	db, err := store.Open(dir, store.Options{CacheBytes: spoolCache})
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	// Text may be any bytes, as it came from clients.
	dec, err := cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode()
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &spool{
		db: db, seal: seal, dec: dec, max: maxBytes, now: now, by: map[session.ID]map[*lesson]struct{}{}, steps: map[place]*mark{},
		pending: map[string]int{}, holds: map[string]time.Time{}, changed: make(chan struct{}),
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the spool: %w", err), db.Close())
	}
	return s, nil
}

// load rebuilds what memory knows. What does not open (another sealing key, a flipped bit) leaves the spool; where it was a
// mark, nobody knows whose, and so no tenant is played: the gateway itself starts.
func (s *spool) load() error {
	var b store.Batch
	unread := 0
	for _, queue := range []struct {
		space byte
		add   func(key []byte, e store.Entry) error
	}{
		{queueLearned, func(key []byte, e store.Entry) error {
			var l backup.Learned
			if err := s.open(key, e.Value, &l); err != nil {
				b.Delete(bytes.Clone(key))
				s.counts.Dropped++
				return nil
			}
			s.addLesson(binary.BigEndian.Uint64(key[1:]), int64(len(e.Value)), &l)
			return nil
		}},
		{queueMarks, func(key []byte, e store.Entry) error {
			var m mark
			if err := s.open(key, e.Value, &m); err != nil || m.Grant == nil && m.Refused == nil && m.Marks == nil && m.Step == nil {
				b.Delete(bytes.Clone(key))
				unread++
				return nil
			}
			s.addMark(binary.BigEndian.Uint64(key[1:]), int64(len(e.Value)), &m)
			return nil
		}},
		{keptHold, func(key []byte, e store.Entry) error {
			var h hold
			if err := s.open(key, e.Value, &h); err != nil {
				b.Delete(bytes.Clone(key))
				unread++
				return nil
			}
			s.holds[h.Tenant] = time.Unix(0, h.Until)
			return nil
		}},
	} {
		if err := s.db.Scan(context.Background(), []byte{queue.space}, []byte{queue.space + 1}, queue.add); err != nil {
			return err
		}
	}
	for range unread {
		s.lost(everyTenant)
	}
	return s.db.Apply(context.Background(), &b, store.Durable)
}

func (s *spool) close() error {
	s.keep.Lock()
	defer s.keep.Unlock()
	return s.db.Close()
}

func seqKey(queue byte, seq uint64) []byte { return binary.BigEndian.AppendUint64([]byte{queue}, seq) }

func (s *spool) sealed(key []byte, v any) ([]byte, error) {
	b, err := cbor.Marshal(v)
	if err != nil {
		return nil, err
	}
	return s.seal.Seal(key, b), nil
}

func (s *spool) open(key, value []byte, v any) error {
	b, err := s.seal.Unseal(key, value)
	if err != nil {
		return err
	}
	return s.dec.Unmarshal(b, v)
}

// next returns a seq; s.mu is held.
func (s *spool) next() uint64 {
	s.last = max(s.last+1, uint64(s.now().UnixNano()))
	return s.last
}

func (s *spool) addLesson(seq uint64, size int64, l *backup.Learned) {
	x := &lesson{seq: seq, size: size + indexBytes, tenant: l.Tenant, client: l.Client, record: l.Sealed.Record, session: l.Session, subject: l.Subject, lookups: lookups(l)}
	s.last = max(s.last, seq)
	s.learned = append(s.learned, x)
	s.bytes[0] += x.size
	for _, id := range x.lookups {
		if s.by[id] == nil {
			s.by[id] = map[*lesson]struct{}{}
		}
		s.by[id][x] = struct{}{}
	}
}

// lookups are all artifacts of a grant that a Learned knows.
func lookups(l *backup.Learned) []session.ID {
	var out []session.ID
	if !l.Presented.Zero() {
		out = append(out, l.Presented)
	}
	for _, d := range l.Sealed.Doors {
		out = append(out, d.Lookup)
	}
	for _, d := range l.Kept {
		out = append(out, d.Lookup)
	}
	return append(out, l.Replaced...)
}

func (s *spool) addMark(seq uint64, size int64, m *mark) {
	m.seq, m.size = seq, size+indexBytes
	s.last = max(s.last, seq)
	s.marks = append(s.marks, m)
	s.bytes[1] += m.size
	if m.Step == nil {
		s.pending[m.tenant()]++
	} else {
		p := place{m.Step.Tenant, m.Step.Lookup}
		if was := s.steps[p]; was == nil || was.Step.At <= m.Step.At {
			s.steps[p] = m
		}
	}
}

// learn appends in order and durably. Where there is no room the oldest go.
func (s *spool) learn(ctx context.Context, ls []*backup.Learned) error {
	s.keep.Lock()
	defer s.keep.Unlock()
	var b store.Batch
	seqs, sizes := make([]uint64, len(ls)), make([]int64, len(ls))
	var total int64
	for i, l := range ls {
		s.mu.Lock()
		seqs[i] = s.next()
		s.mu.Unlock()
		key := seqKey(queueLearned, seqs[i])
		v, err := s.sealed(key, l)
		if err != nil {
			return fmt.Errorf("spool what was learned: %w", err)
		}
		b.Put(key, v)
		sizes[i] = int64(len(v))
		total += sizes[i] + indexBytes
	}
	if err := s.makeRoom(ctx, total); err != nil {
		return err
	}
	if err := s.db.Apply(ctx, &b, store.Durable); err != nil {
		return fmt.Errorf("spool what was learned: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range ls {
		s.addLesson(seqs[i], sizes[i], l)
	}
	s.counts.Spooled += uint64(len(ls))
	return nil
}

// makeRoom drops the oldest Learned until total more bytes fit; s.keep is held.
func (s *spool) makeRoom(ctx context.Context, total int64) error {
	s.mu.Lock()
	n, free := 0, s.max-s.bytes[0]-s.bytes[1]
	for ; free < total && n < len(s.learned); n++ {
		free += s.learned[n].size
	}
	drop := slices.Clone(s.learned[:n])
	s.mu.Unlock()
	if free < total {
		return fmt.Errorf("%w: %d bytes are allowed (spool_max_bytes)", ErrSpoolFull, s.max)
	}
	if n == 0 {
		return nil
	}
	if err := s.forget(ctx, drop); err != nil {
		return err
	}
	s.mu.Lock()
	s.counts.Dropped += uint64(n)
	s.mu.Unlock()
	return nil
}

// put appends a mark, durably.
func (s *spool) put(ctx context.Context, m *mark) error {
	s.keep.Lock()
	defer s.keep.Unlock()
	s.mu.Lock()
	seq := s.next()
	s.mu.Unlock()
	key := seqKey(queueMarks, seq)
	v, err := s.sealed(key, m)
	if err != nil {
		return fmt.Errorf("spool a mark: %w", err)
	}
	if err := s.makeRoom(ctx, int64(len(v))+indexBytes); err != nil {
		return err
	}
	var b store.Batch
	b.Put(key, v)
	if err := s.db.Apply(ctx, &b, store.Durable); err != nil {
		return fmt.Errorf("spool a mark: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addMark(seq, int64(len(v)), m)
	s.counts.Spooled++
	return nil
}

// forget removes entries that are the head of the queue of what was learned.
func (s *spool) forget(ctx context.Context, head []*lesson) error {
	if len(head) == 0 {
		return nil
	}
	end := head[len(head)-1].seq
	var b store.Batch
	// A seq is never used again, so nobody reads or writes in this range.
	b.DropRange(seqKey(queueLearned, head[0].seq), seqKey(queueLearned, end+1))
	if err := s.db.Apply(ctx, &b, store.Soon); err != nil {
		return fmt.Errorf("empty the spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Whoever else has forgotten some of them meanwhile took them from the same head.
	n := 0
	for ; n < len(s.learned) && s.learned[n].seq <= end; n++ {
		x := s.learned[n]
		s.learned[n] = nil
		s.bytes[0] -= x.size
		for _, id := range x.lookups {
			if delete(s.by[id], x); len(s.by[id]) == 0 {
				delete(s.by, id)
			}
		}
	}
	s.learned = s.learned[n:]
	s.wake()
	return nil
}

// delivered removes one mark.
func (s *spool) delivered(ctx context.Context, m *mark) error {
	var b store.Batch
	b.Delete(seqKey(queueMarks, m.seq))
	if err := s.db.Apply(ctx, &b, store.Soon); err != nil {
		return fmt.Errorf("empty the spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch i := slices.Index(s.marks, m); {
	case i == 0:
		s.marks[0], s.marks = nil, s.marks[1:]
	case i > 0:
		s.marks = slices.Delete(s.marks, i, i+1)
	}
	s.bytes[1] -= m.size
	s.counts.Delivered++
	if m.Step == nil {
		if s.pending[m.tenant()]--; s.pending[m.tenant()] == 0 {
			delete(s.pending, m.tenant())
		}
	} else {
		if p := (place{m.Step.Tenant, m.Step.Lookup}); s.steps[p] == m {
			delete(s.steps, p)
		}
	}
	s.wake()
	return nil
}

func (s *spool) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// waiting says whether anything that was learned, and any mark, waits.
func (s *spool) waiting() (learned, marks bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.learned) > 0, len(s.marks) > 0
}

// behind says whether the backup may not know what it must before it plays an artifact: a mark of its tenant, or what was
// learned with this artifact, is not delivered. The channel is closed at the next change.
func (s *spool) behind(tenant string, lookup session.ID) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[tenant] > 0 || len(s.by[lookup]) > 0, s.changed
}

// step returns the newest undelivered step of an artifact, or nil.
func (s *spool) step(tenant string, lookup session.ID) *session.Successor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.steps[place{tenant, lookup}]; m != nil {
		v := m.Step.Successor
		return &v
	}
	return nil
}

// family returns what waits of the grant to which an artifact belongs, and all its artifacts.
func (s *spool) family(tenant string, lookup session.ID) (ids []session.ID, ls []*lesson) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, had := map[session.ID]bool{lookup: true}, map[*lesson]bool{}
	ids = append(ids, lookup)
	for i := 0; i < len(ids); i++ {
		for l := range s.by[ids[i]] {
			if had[l] || l.tenant != tenant {
				continue
			}
			had[l] = true
			ls = append(ls, l)
			for _, id := range l.lookups {
				if !seen[id] {
					seen[id] = true
					ids = append(ids, id)
				}
			}
		}
	}
	return ids, ls
}

// snapshot returns the counters.
func (s *spool) snapshot() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Learned, c.Marks, c.Bytes = len(s.learned), len(s.marks), s.bytes[0]+s.bytes[1]
	oldest := uint64(0)
	if len(s.learned) > 0 {
		oldest = s.learned[0].seq
	}
	if len(s.marks) > 0 && (oldest == 0 || s.marks[0].seq < oldest) {
		oldest = s.marks[0].seq
	}
	if oldest != 0 {
		c.Oldest = time.Unix(0, int64(oldest))
	}
	for _, until := range s.holds {
		if s.now().Before(until) {
			c.Held++
		}
	}
	return c
}
