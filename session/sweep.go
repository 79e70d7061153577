package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"understudy/store"
)

// Swept counts what a sweep forgot.
type Swept struct {
	Doors, Marks, Successors, Secrets, Habits int
	Records                                   bool // whether buckets of records were dropped
}

// inferredLifetime is how long an inferred mark can matter: no record it blocks can be used for longer.
const inferredLifetime = Lifetime + time.Hour

// sweepStep is how many doors, or other keys, are read or forgotten at a time.
const sweepStep = 512

// Sweep forgets what is over, of every tenant in the store: buckets of records that have expired, doors that have
// expired, final marks after MarkLifetime, inferred marks an hour after the last record that they could block, and
// successors, secrets and habits that nothing happened to for MarkLifetime.
//
// It works in small steps beside readers and writers, may be ended at any point and run again, and never takes away what
// is written meanwhile: a door or mark is forgotten only up to the version that was seen to be over.
func (s *Store) Sweep(ctx context.Context, now time.Time) (Swept, error) {
	var out Swept
	tenants, err := s.tenants(ctx)
	if err != nil {
		return out, fmt.Errorf("sweep: %w", err)
	}
	for _, t := range tenants {
		if err := s.sweepTenant(ctx, t, now, &out); err != nil {
			return out, fmt.Errorf("sweep: %w", err)
		}
	}
	return out, nil
}

func (s *Store) sweepTenant(ctx context.Context, tenant []byte, now time.Time, out *Swept) error {
	if err := s.sweepDoors(ctx, tenant, now, &out.Doors); err != nil {
		return err
	}
	dropped, err := s.sweepRecords(ctx, tenant, now)
	if err != nil {
		return err
	}
	out.Records = out.Records || dropped
	for _, part := range []struct {
		space []byte
		after time.Duration
		count *int
	}{
		{[]byte{spaceMark, finality(true)}, MarkLifetime, &out.Marks},
		{[]byte{spaceMark, finality(false)}, inferredLifetime, &out.Marks},
		{[]byte{spaceSuccessor}, MarkLifetime, &out.Successors},
		{[]byte{spaceSecret}, MarkLifetime, &out.Secrets},
		{[]byte{spaceHabit}, MarkLifetime, &out.Habits},
	} {
		from := append([]byte{part.space[0]}, tenant...)
		from = append(from, part.space[1:]...)
		// The version of all these is the time of the last thing that happened to them.
		before := uint64(now.Add(-part.after).UnixNano())
		err := s.inSteps(ctx, from, after(from), sweepStep, func(b *store.Batch, key []byte, e store.Entry) error {
			if e.Version < before {
				b.Forget(key, e.Version)
				*part.count++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tenants returns the hashes of all tenants in the store.
func (s *Store) tenants(ctx context.Context) ([][]byte, error) {
	seen := map[[8]byte]bool{}
	var out [][]byte
	for _, space := range []byte{spaceExpiry, spaceRecord, spaceMark, spaceSuccessor, spaceSecret, spaceHabit} {
		from := []byte{space}
		for {
			var found []byte
			err := s.KV.Scan(ctx, from, []byte{space + 1}, func(key []byte, _ store.Entry) error {
				if len(key) < 9 {
					return fmt.Errorf("%w: a key of %d bytes", ErrSealed, len(key))
				}
				found = bytes.Clone(key[:9])
				return errStep
			})
			if err != nil && !errors.Is(err, errStep) {
				return nil, err
			}
			if found == nil {
				break
			}
			if t := [8]byte(found[1:]); !seen[t] {
				seen[t] = true
				out = append(out, found[1:])
			}
			from = after(found)
		}
	}
	return out, nil
}

var errStep = errors.New("one step is done")

// inSteps calls f with all of a range and applies after each step of so many keys what f added to the batch.
func (s *Store) inSteps(ctx context.Context, from, to []byte, keys int, f func(b *store.Batch, key []byte, e store.Entry) error) error {
	for {
		type pair struct {
			key []byte
			e   store.Entry
		}
		var step []pair
		err := s.KV.Scan(ctx, from, to, func(key []byte, e store.Entry) error {
			step = append(step, pair{bytes.Clone(key), store.Entry{Version: e.Version, Value: bytes.Clone(e.Value)}})
			if len(step) == keys {
				return errStep
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStep) {
			return err
		}
		var b store.Batch
		for _, p := range step {
			if err := f(&b, p.key, p.e); err != nil {
				return err
			}
		}
		if b.Len() > 0 {
			if err := s.KV.Apply(ctx, &b, store.Soon); err != nil {
				return err
			}
		}
		if len(step) < keys {
			return nil
		}
		from = append(step[len(step)-1].key, 0)
	}
}

// buckets is the range of a space's hour buckets that are over.
func buckets(space byte, tenant []byte, now time.Time) (from, to []byte) {
	prefix := append([]byte{space}, tenant...)
	return append(bytes.Clone(prefix), hourKey(0)...), append(prefix, hourKey(hourOf(now)+1)...)
}

// sweepRecords drops all buckets that are over at once.
func (s *Store) sweepRecords(ctx context.Context, tenant []byte, now time.Time) (bool, error) {
	from, to := buckets(spaceRecord, tenant, now)
	err := s.KV.Scan(ctx, from, to, func([]byte, store.Entry) error { return errStep })
	if !errors.Is(err, errStep) {
		return false, err // nothing is there: a range that is dropped in vain costs every later reader
	}
	var b store.Batch
	b.DropRange(from, to)
	return true, s.KV.Apply(ctx, &b, store.Soon)
}

func (s *Store) sweepDoors(ctx context.Context, tenant []byte, now time.Time, count *int) error {
	from, to := buckets(spaceExpiry, tenant, now)
	return s.inSteps(ctx, from, to, sweepStep/endsEntry, func(b *store.Batch, key []byte, e store.Entry) error {
		for _, lookup := range doorsOf(key, e.Value) {
			if err := s.sweepDoor(b, tenant, lookup, now, count); err != nil {
				return err
			}
		}
		b.Delete(key)
		return nil
	})
}

// sweepDoor forgets a door that is over, or puts it into the bucket of the hour in which it ends now.
func (s *Store) sweepDoor(b *store.Batch, tenant, lookup []byte, now time.Time, count *int) error {
	k := append(append([]byte{spaceDoor}, tenant...), lookup...)
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var d Door
	if err := s.Seal.unsealCBOR(k, e.Value, &d); err != nil {
		// It opens for nobody. It stays until it would be over had it been approved at its last change.
		d = Door{Approved: int64(e.Version)}
	}
	if end := d.Expires(); hourOf(end) >= hourOf(now) {
		// It was learned again, and has an entry where it ends now; it goes when that hour is over.
		b.Put(expiryPlace(tenant, end, lookup), nil)
		return nil
	}
	b.Forget(k, e.Version)
	s.doors.forget(k, int64(e.Version))
	*count++
	if d.Superseded != 0 && !d.Kind.short() && !d.Record.Zero() {
		// The artifacts that share a record are superseded together.
		b.Delete(recordKey(tenant, d.Hour, d.Record))
	}
	return nil
}

// expiryPlace is where a door is looked at when it may have ended.
func expiryPlace(tenant []byte, end time.Time, lookup []byte) []byte {
	b := append(append(make([]byte, 0, 32), spaceExpiry), tenant...)
	b = binary.BigEndian.AppendUint32(b, hourOf(end)+1)
	return append(b, lookup...)
}

func recordKey(tenant []byte, hour uint32, record ID) []byte {
	b := append(append(make([]byte, 0, 32), spaceRecord), tenant...)
	b = binary.BigEndian.AppendUint32(b, hour)
	return append(b, record[:]...)
}
