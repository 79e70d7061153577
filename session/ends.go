package session

import (
	"encoding/binary"
	"slices"

	"understudy/store"
)

// Ends gathers in which hours the doors of a batch end: an entry of the index for each of them would cost the store as much as the
// doors. The zero Ends is empty. It is not safe for concurrent use.
type Ends struct{ of map[end][]ID }

// end is an hour's bucket of a tenant's doors.
type end struct {
	tenant [8]byte
	hour   uint32
}

// endsEntry is how many doors share an entry of the index at most: a sweep looks at all of them in one step.
const endsEntry = 16

func (e *Ends) add(tenant [8]byte, hour uint32, lookup ID) {
	if e.of == nil {
		e.of = map[end][]ID{}
	}
	at := end{tenant, hour}
	e.of[at] = append(e.of[at], lookup)
}

// Put adds the entries to a batch and begins anew. An entry of several doors lies at a random id, so that batches that come twice or in
// another order take nothing from each other.
func (e *Ends) Put(b *store.Batch) {
	for at, lookups := range e.of {
		place := binary.BigEndian.AppendUint32(append([]byte{spaceExpiry}, at.tenant[:]...), at.hour)
		for some := range slices.Chunk(lookups, endsEntry) {
			if len(some) == 1 {
				b.Put(slices.Concat(place, some[0][:]), nil)
				continue
			}
			id := NewID()
			var value []byte
			for _, l := range some {
				value = append(value, l[:]...)
			}
			b.Put(slices.Concat(place, id[:]), value)
		}
	}
	e.of = nil
}

// doorsOf are the look-ups of an entry of the index: the one in its key, or those in its value.
func doorsOf(key, value []byte) [][]byte {
	if len(value) == 0 {
		return [][]byte{key[len(key)-len(ID{}):]}
	}
	return slices.Collect(slices.Chunk(value, len(ID{})))
}
