// Package store keeps what Understudy must not forget, on this node's own disk.
//
// It owns bytes under keys and nothing of their meaning: session, keys and the gateway's spool encode what they keep.
// It refuses to be clever: there is no compare-and-swap, because batches must commute and may be applied twice once a
// replicated log feeds several nodes.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound is returned for a key that holds nothing.
	ErrNotFound = errors.New("not found")
	// ErrFailed says that the store can no longer be trusted with writes (full disk, corruption). It stays until the
	// process starts anew; reads may go on.
	ErrFailed = errors.New("store failed")
)

// Entry is what a key holds. Version is 0 for a key written by [Batch.Put].
type Entry struct {
	Version uint64
	Value   []byte
}

// KV is the contract of every backend; storetest.Run checks it.
//
// Reads see every batch whose Apply has returned. Batches commute: applying a set of batches in any order, any of them
// more than once, leaves the same contents, but for Delete and DropRange, which are only for what nobody will read again.
type KV interface {
	// Get returns a copy that the caller owns, or ErrNotFound.
	Get(key []byte) (Entry, error)
	// Apply applies the whole batch or, when it returns an error, possibly nothing and possibly all of it.
	Apply(ctx context.Context, b *Batch, d Durability) error
	// Claim is true exactly once for a key until the given time, across restarts; it is durable when it returns.
	Claim(ctx context.Context, key []byte, until time.Time) (first bool, err error)
	// Scan calls f for every key in [from, to) in order until f returns an error. The entry is only valid during the call.
	Scan(ctx context.Context, from, to []byte, f func(key []byte, e Entry) error) error
}

// Durability says when Apply returns.
type Durability int

const (
	// Soon returns when the batch can be read; it is on disk some milliseconds later.
	Soon Durability = iota
	// Durable returns when the batch has been synced to disk.
	Durable
)

type opKind uint8

const (
	opPut opKind = iota
	opRaise
	opDelete
	opDropRange
	opForget
)

type op struct {
	kind       opKind
	key, value []byte // value is the end of the range for opDropRange
	version    uint64
}

// Batch is a list of changes that are applied together. The zero value is empty. It keeps the slices it is given.
type Batch struct{ ops []op }

// Put writes a key that is only ever written with this value (a random or content-derived key).
func (b *Batch) Put(key, value []byte) {
	b.ops = append(b.ops, op{kind: opPut, key: key, value: value})
}

// Raise writes a versioned key: of all writes the one with the greatest version stays, and of equal versions the one
// with the greatest value.
func (b *Batch) Raise(key []byte, version uint64, value []byte) {
	b.ops = append(b.ops, op{kind: opRaise, key: key, version: version, value: value})
}

// Forget forgets a versioned key unless it was written with a greater version, whether before or afterwards. It
// commutes like Raise, so it is how something that is over goes while somebody may be writing it anew.
func (b *Batch) Forget(key []byte, version uint64) {
	b.ops = append(b.ops, op{kind: opForget, key: key, version: version})
}

// Delete forgets a key that nobody will read again.
func (b *Batch) Delete(key []byte) { b.ops = append(b.ops, op{kind: opDelete, key: key}) }

// DropRange forgets all keys in [from, to), which nobody will read again.
func (b *Batch) DropRange(from, to []byte) {
	b.ops = append(b.ops, op{kind: opDropRange, key: from, value: to})
}

// Append adds the changes of another batch, which must not be changed afterwards.
func (b *Batch) Append(o *Batch) { b.ops = append(b.ops, o.ops...) }

// Len is the number of changes.
func (b *Batch) Len() int { return len(b.ops) }
