package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"crypto/sha256"

	"understudy/store"
)

// Key spaces. Behind the first byte come eight bytes of the tenant's hash.
const (
	spaceDoor      = 'd' // look-up(16) → Door
	spaceRecord    = 'r' // hour(4) record(16) → sealed record
	spaceExpiry    = 'x' // hour(4) look-up(16) → nothing, or hour(4) random(16) → look-ups: doors to look at in that hour
	spaceMark      = 'm' // finality(1) what(1) pseudonym(16) → Mark
	spaceSuccessor = 's' // look-up(16) → Successor
	spaceSecret    = 'c' // client(16) secret(16) → Secret
	spaceHabit     = 'h' // client(16) → Habit
)

func tenantHash(tenant string) []byte {
	h := hashOf(tenant)
	return h[:]
}

// hashOf allocates nothing: it is asked for several times a request.
func hashOf(tenant string) (h [8]byte) {
	var b [128]byte
	sum := sha256.Sum256(append(append(b[:0], "tenant\x00"...), tenant...))
	copy(h[:], sum[:])
	return h
}

func place(space byte, tenant string, rest ...[]byte) []byte {
	b := make([]byte, 1, 48)
	b[0] = space
	h := hashOf(tenant)
	b = append(b, h[:]...)
	for _, r := range rest {
		b = append(b, r...)
	}
	return b
}

func doorPlace(tenant string, lookup ID) []byte { return place(spaceDoor, tenant, lookup[:]) }

// recordPlace names the record in its seal; the bucket is no part of it, so that a record may be moved.
func recordPlace(tenant string, record ID) []byte { return place(spaceRecord, tenant, record[:]) }

func hourOf(t time.Time) uint32 { return uint32(t.Unix() / 3600) }

func hourKey(h uint32) []byte { return binary.BigEndian.AppendUint32(nil, h) }

// Store is the meaning of the bytes in a store.KV. All its methods are safe for concurrent use.
type Store struct {
	KV   store.KV
	Seal *Sealer

	marks      marked
	untold     untold
	successors marked
	habits     kept[Habit]
	secrets    kept[Secret]
	doors      kept[Door] // not those of short lives: they are many, and seldom asked for
}

// ErrNoRecord says that nothing is remembered for an artifact.
var ErrNoRecord = errors.New("no record")

// Door returns what is kept of an artifact, or ErrNoRecord.
func (s *Store) Door(tenant string, lookup ID) (*Door, error) {
	k := doorPlace(tenant, lookup)
	if d, ok := s.doors.get(k); ok {
		return &d, nil // a copy: callers set its members
	}
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("load a door: %w", err)
	}
	var d Door
	if err := s.Seal.unsealCBOR(k, e.Value, &d); err != nil {
		return nil, fmt.Errorf("load a door: %w", err)
	}
	if !d.Kind.short() {
		s.doors.read(k, int64(e.Version), d)
	}
	return &d, nil
}

// PutDoor adds a door to a batch. version is the time of the newest thing that happened to it, in Unix nanoseconds.
func (s *Store) PutDoor(b *store.Batch, tenant string, lookup ID, version int64, d *Door) error {
	var e Ends
	if err := s.PutDoorWith(b, &e, tenant, lookup, version, d); err != nil {
		return err
	}
	e.Put(b)
	return nil
}

// PutDoorWith is PutDoor for one of many doors in a batch; e must be put when all of them are in it.
func (s *Store) PutDoorWith(b *store.Batch, e *Ends, tenant string, lookup ID, version int64, d *Door) error {
	k := doorPlace(tenant, lookup)
	v, err := s.Seal.sealCBOR(k, d)
	if err != nil {
		return fmt.Errorf("keep a door: %w", err)
	}
	hour, indexed := hourOf(d.Expires())+1, uint32(0)
	if !d.Kind.short() {
		if was, ok := s.doors.get(k); ok {
			indexed = hourOf(was.Expires()) + 1
		}
		s.doors.put(k, version, *d)
	}
	b.Raise(k, uint64(version), v)
	if indexed != hour { // where it is, it was written with the door that is known
		e.add(hashOf(tenant), hour, lookup)
	}
	return nil
}

// PutRecord adds a sealed record to a batch and returns the bucket that its doors must name.
func (s *Store) PutRecord(b *store.Batch, tenant string, record ID, data []byte, expires time.Time) (hour uint32) {
	hour = hourOf(expires) + 1
	b.Put(place(spaceRecord, tenant, hourKey(hour), record[:]), data)
	return hour
}

// DropRecord adds to a batch that a record is forgotten, because no door leads to it any more.
func (s *Store) DropRecord(b *store.Batch, tenant string, d *Door) {
	if !d.Record.Zero() {
		b.Delete(place(spaceRecord, tenant, hourKey(d.Hour), d.Record[:]))
	}
}

// Open opens the record behind a door. The error wraps ErrSealed where the key is not the door's.
func (s *Store) Open(tenant string, lookup ID, d *Door, key []byte) (*Record, error) {
	data, err := d.Unwrap(tenant, lookup, key)
	if err != nil {
		return nil, err
	}
	return s.Record(tenant, d, data)
}

// Record opens the record behind a door with the data key that the door wraps.
func (s *Store) Record(tenant string, d *Door, data []byte) (*Record, error) {
	sealed, err := s.SealedRecord(tenant, d)
	if err != nil {
		return nil, err
	}
	return s.Seal.OpenRecord(tenant, d.Record, data, sealed)
}

// SealedRecord is the record behind a door as it is kept.
func (s *Store) SealedRecord(tenant string, d *Door) ([]byte, error) {
	e, err := s.KV.Get(place(spaceRecord, tenant, hourKey(d.Hour), d.Record[:]))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("load a record: %w", err)
	}
	return e.Value, nil
}

// OpenRecord opens a record with the data key that a door wraps.
func (s *Sealer) OpenRecord(tenant string, id ID, data, sealed []byte) (*Record, error) {
	plain, err := OpenUnder(data[:dataKey], recordPlace(tenant, id), sealed)
	if err != nil {
		return nil, fmt.Errorf("open a record: %w", err)
	}
	var r Record
	if err := s.dec.Unmarshal(plain, &r); err != nil {
		return nil, fmt.Errorf("decode a record: %w", err)
	}
	if r.Format != RecordFormat {
		return nil, fmt.Errorf("record of format %d, this program knows %d", r.Format, RecordFormat)
	}
	return &r, nil
}

// Secret is what is kept of a client's secret: that the primary accepted it, under the id that only it derives. It lies
// at 'c' tenant(8) client(16) secret(16); the secret that was approved last is named at 'c' tenant(8) client(16) zero(16).
type Secret struct {
	Method   string `cbor:"0,keyasint"`
	Approved int64  `cbor:"1,keyasint"` // Unix nanoseconds, when the primary last accepted it
	Refused  int64  `cbor:"2,keyasint"` // when the primary last refused it
	First    int64  `cbor:"3,keyasint"` // when the primary first accepted it
	ID       ID     `cbor:"4,keyasint"`
}

// SecretAfter is how long after the primary accepted another secret an older one still opens.
const SecretAfter = time.Hour

func secretPlace(tenant string, client, secret ID) []byte {
	return place(spaceSecret, tenant, client[:], secret[:])
}

// PutSecret adds to a batch what the primary said of a client's secret.
func (s *Store) PutSecret(b *store.Batch, tenant string, client ID, v Secret) error {
	put := func(k []byte, version int64) error {
		sealed, err := s.Seal.sealCBOR(k, v)
		if err != nil {
			return fmt.Errorf("keep a client's proof: %w", err)
		}
		s.secrets.put(k, version, v)
		b.Raise(k, uint64(version), sealed)
		return nil
	}
	if v.Approved > v.Refused {
		if err := put(secretPlace(tenant, client, ID{}), v.Approved); err != nil {
			return err
		}
	}
	return put(secretPlace(tenant, client, v.ID), max(v.Approved, v.Refused))
}

// Secret returns what is kept of one secret of a client, or of the one approved last for the zero id; nil where nothing is.
func (s *Store) Secret(tenant string, client, id ID) (*Secret, error) {
	k := secretPlace(tenant, client, id)
	if v, ok := s.secrets.get(k); ok {
		return &v, nil
	}
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a client's proof: %w", err)
	}
	var v Secret
	if err := s.Seal.unsealCBOR(k, e.Value, &v); err != nil {
		return nil, fmt.Errorf("load a client's proof: %w", err)
	}
	s.secrets.read(k, int64(e.Version), v)
	return &v, nil
}

// after returns the first key behind all keys with the prefix.
func after(prefix []byte) []byte {
	b := append([]byte(nil), prefix...)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}
