package main

import (
	"testing"

	"understudy/backup"
	"understudy/store"
)

// Benchmarks for profiles of single parts: go test -run '^$' -bench Keep -cpuprofile FILE ./bench. The figures come from
// the program itself.

// BenchmarkKeep writes sealed sign-ins through the backup, in synced batches; one operation is one sign-in.
func BenchmarkKeep(b *testing.B) {
	m, db := rig(b)
	var batches [][]*backup.Learned
	for from := 0; from < b.N; from += batchSize {
		ls, err := m.batch(from, min(from+batchSize, b.N))
		if err != nil {
			b.Fatal(err)
		}
		batches = append(batches, ls)
	}
	s := m.keeper(db)
	b.ResetTimer()
	for _, ls := range batches {
		if err := s.keep(ls); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen looks up and opens among 20,000 records.
func BenchmarkOpen(b *testing.B) {
	m, db := rig(b)
	s := m.keeper(noSync{db})
	const n = 20_000
	for from := 0; from < n; from += batchSize {
		ls, err := m.batch(from, min(from+batchSize, n))
		if err != nil {
			b.Fatal(err)
		}
		if err := s.keep(ls); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		if _, err := m.open(s.Sessions, m.artifact(i%n)); err != nil {
			b.Fatal(err)
		}
	}
}

func rig(b *testing.B) (*maker, *store.DB) {
	m, err := newMaker()
	if err != nil {
		b.Fatal(err)
	}
	db, err := store.Open(b.TempDir(), store.Options{CacheBytes: blockCache})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return m, db
}
