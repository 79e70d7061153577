package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Claims lie in a key space of their own, which no other key may enter:
//
//	0xff 'c' key            → versioned by the end of the claim in Unix nanoseconds, empty
//	0xff 'x' minute(8) key  → empty: claims to look at once that minute has come
const (
	claimSpace  = 0xff
	claimKey    = 'c'
	claimExpiry = 'x'
)

// claims serialises what happens to one key, and only that: claims of other keys share the sync of the log.
type claims struct {
	mu   sync.Mutex // guards busy
	busy map[string]chan struct{}
}

// take waits until nobody else works on the key.
func (c *claims) take(ctx context.Context, key []byte) (free func(), err error) {
	for {
		c.mu.Lock()
		other, taken := c.busy[string(key)]
		if !taken {
			mine := make(chan struct{})
			if c.busy == nil {
				c.busy = map[string]chan struct{}{}
			}
			c.busy[string(key)] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.busy, string(key))
				c.mu.Unlock()
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func claimPlace(key []byte) []byte { return append([]byte{claimSpace, claimKey}, key...) }

func claimMinute(until time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{claimSpace, claimExpiry}, uint64(until.Unix()/60+1))
}

// Claim implements KV.
func (d *DB) Claim(ctx context.Context, key []byte, until time.Time) (bool, error) {
	free, err := d.claims.take(ctx, key)
	if err != nil {
		return false, err
	}
	defer free()
	if err := d.Failed(); err != nil {
		return false, err
	}
	k := claimPlace(key)
	e, err := d.Get(k)
	switch {
	case err == nil && int64(e.Version) > d.now().UnixNano():
		return false, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return false, err
	}
	var b Batch
	b.Raise(k, uint64(until.UnixNano()), nil)
	b.Put(append(claimMinute(until), key...), nil)
	if err := d.Apply(ctx, &b, Durable); err != nil {
		return false, err
	}
	return true, nil
}

// sweepClaims forgets the claims that are over, some at a time, and returns how many.
func (d *DB) sweepClaims(ctx context.Context) (int, error) {
	const some = 256
	first := []byte{claimSpace, claimExpiry}
	last := claimMinute(d.now().Add(-time.Minute)) // the minutes that are over altogether
	swept := 0
	for {
		var places [][]byte
		err := d.Scan(ctx, first, last, func(key []byte, _ Entry) error {
			places = append(places, bytes.Clone(key))
			if len(places) == some {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return swept, fmt.Errorf("sweep claims: %w", err)
		}
		for _, p := range places {
			n, err := d.sweepClaim(ctx, p)
			if err != nil {
				return swept, fmt.Errorf("sweep claims: %w", err)
			}
			swept += n
		}
		if len(places) < some {
			return swept, nil
		}
	}
}

var errEnough = errors.New("enough")

// sweepClaim forgets one claim where it is over; it may have been claimed anew until later.
func (d *DB) sweepClaim(ctx context.Context, place []byte) (int, error) {
	key := place[2+8:]
	free, err := d.claims.take(ctx, key)
	if err != nil {
		return 0, err
	}
	defer free()
	var b Batch
	b.Delete(place)
	swept := 0
	e, err := d.Get(claimPlace(key))
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return 0, err
	case int64(e.Version) <= d.now().UnixNano():
		b.Forget(claimPlace(key), e.Version)
		swept = 1
	}
	return swept, d.Apply(ctx, &b, Soon)
}

const (
	// soonDelay is how long a write may wait for a sync that others share. With the sync itself it stays below 50 ms on
	// a disk that is not overloaded.
	soonDelay = 20 * time.Millisecond
	// sweepEvery is how often claims are swept.
	sweepEvery = time.Minute
)

// run syncs what was written Soon, and sweeps claims, until Close.
//
// It also follows a durable write with a record of its own: only a later record in the log tells, at the next start,
// a damaged one from one that was being written when the power went.
func (d *DB) run(ctx context.Context) {
	defer close(d.done)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			_, _ = d.sweepClaims(ctx) // what failed has set Failed; what was cancelled is swept at the next start
		case <-d.dirty:
			select {
			case <-ctx.Done():
				return
			case <-time.After(soonDelay):
			}
			if d.Failed() == nil {
				_ = d.commit(ctx, func() error { return d.p.LogData(nil, pebble.Sync) }) // what failed has set Failed
			}
		}
	}
}
