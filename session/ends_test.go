package session

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"understudy/store"
)

// Doors of one batch share entries of the index, sixteen at most, and each is found again and swept.
func TestDoorsThatEndTogetherShareAnEntry(t *testing.T) {
	s := opened(t)
	var b store.Batch
	var e Ends
	var want [][]byte
	for range 2*endsEntry + 1 {
		lookup := NewID()
		must(t, s.PutDoorWith(&b, &e, tenant, lookup, start.UnixNano(), &Door{Kind: RefreshToken, Approved: start.UnixNano()}))
		want = append(want, lookup[:])
	}
	e.Put(&b)
	e.Put(&b) // it began anew: nothing twice
	must(t, s.KV.Apply(t.Context(), &b, store.Soon))
	var got [][]byte
	entries := 0
	from := append([]byte{spaceExpiry}, tenantHash(tenant)...)
	must(t, s.KV.Scan(t.Context(), from, after(from), func(k []byte, x store.Entry) error {
		entries++
		for _, l := range doorsOf(k, x.Value) {
			got = append(got, bytes.Clone(l))
		}
		return nil
	}))
	slices.SortFunc(got, bytes.Compare)
	slices.SortFunc(want, bytes.Compare)
	if entries != 3 || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d doors in %d entries; want %d in 3", len(got), entries, len(want))
	}
	swept, err := s.Sweep(t.Context(), start.Add(Lifetime+2*time.Hour))
	must(t, err)
	if swept.Doors != len(want) {
		t.Errorf("%d doors were swept of %d", swept.Doors, len(want))
	}
}
