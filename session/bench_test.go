package session

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"understudy/store"
)

// records is how many records a benchmark looks among: few, unless UNDERSTUDY_BENCH_RECORDS says more.
func records(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("UNDERSTUDY_BENCH_RECORDS"))
	if err != nil {
		return 20_000
	}
	return n
}

// sizable is a record of about 1.5 KB when sealed.
func sizable() *Record {
	var claims Object
	for i := range 12 {
		claims = append(claims, Member{"claim" + strconv.Itoa(i), Quote(string(bytes.Repeat([]byte{'a' + byte(i)}, 40)))})
	}
	return &Record{
		Format: RecordFormat, Tenant: tenant, Issuer: issuer, Client: "app", Subject: "alice", Scope: []string{"openid", "profile"},
		Response:    Object{{"access_token", []byte("null")}, {"expires_in", []byte("300")}},
		AccessToken: &Token{Header: claims[:2], Claims: claims}, IDToken: &Token{Header: claims[:2], Claims: claims[:9]},
	}
}

// filled is a store with n records, each behind one refresh token whose look-up and key follow from its number.
func filled(b *testing.B, n int) (s *Store, lookup func(int) (ID, []byte)) {
	dir := b.TempDir()
	open := func() *store.DB {
		db, err := store.Open(dir, store.Options{CacheBytes: max(8<<20, int64(n)*150)}) // a tenth of the data
		must(b, err)
		return db
	}
	db := open()
	s = &Store{KV: db, Seal: sealer(b, 1)}
	lookup = func(i int) (id ID, key []byte) {
		m := s.Seal.mac(s.Seal.pseudonym, "bench", strconv.Itoa(i))
		copy(id[:], m)
		return id, m
	}
	r := sizable()
	now := time.Now()
	for i := 0; i < n; {
		var batch store.Batch
		for range min(256, n-i) {
			putOne(b, s, &batch, r, now, i, lookup)
			i++
		}
		must(b, s.KV.Apply(b.Context(), &batch, store.Soon))
	}
	must(b, db.Close())
	began := time.Now()
	db = open()
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "reopen-ms")
	b.Cleanup(func() { must(b, db.Close()) })
	s.KV = db
	return s, lookup
}

func putOne(b *testing.B, s *Store, batch *store.Batch, r *Record, now time.Time, i int, lookup func(int) (ID, []byte)) {
	look, key := lookup(i)
	sealed, err := Seal(r, nil, ArtifactKeys{Kind: RefreshToken, Lookup: look, Key: key})
	must(b, err)
	d := Door{
		Kind: RefreshToken, Record: sealed.Record, Wrapped: sealed.Doors[0].Wrapped, Grant: sealed.Record, Client: ID{1}, Subject: look, Session: look,
		ClientAuth: "none", Begun: now.UnixNano(), Approved: now.UnixNano(),
	}
	d.Hour = s.PutRecord(batch, tenant, sealed.Record, sealed.Data, d.Expires())
	must(b, s.PutDoor(batch, tenant, look, now.UnixNano(), &d))
}

// percentiles reports the 50th and 99th of some durations.
func percentiles(b *testing.B, ds []time.Duration) {
	slices.Sort(ds)
	b.ReportMetric(float64(ds[len(ds)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(ds[len(ds)*99/100].Nanoseconds())/1e3, "p99-µs")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "sys-MiB")
}

func BenchmarkOpen(b *testing.B) {
	n := records(b)
	s, lookup := filled(b, n)
	ds := make([]time.Duration, 0, b.N)
	b.ReportAllocs()
	for b.Loop() {
		look, key := lookup(rand.IntN(n))
		began := time.Now()
		d, err := s.Door(tenant, look)
		must(b, err)
		_, err = s.Open(tenant, look, d, key)
		must(b, err)
		ds = append(ds, time.Since(began))
	}
	percentiles(b, ds)
}

func BenchmarkBlocking(b *testing.B) {
	s, lookup := filled(b, 1000)
	for i := range 100 {
		must(b, s.Mark(b.Context(), tenant, Mark{Of: OfSubject, ID: ID{1, byte(i)}, Final: true, At: 1}))
	}
	look, _ := lookup(7)
	d, err := s.Door(tenant, look)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if ms, err := s.Blocking(tenant, d); err != nil || len(ms) != 0 {
			b.Fatal(ms, err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	r, key := sizable(), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		sealed, err := Seal(r, nil, ArtifactKeys{Kind: RefreshToken, Key: key})
		must(b, err)
		b.SetBytes(int64(len(sealed.Data)))
	}
}

// BenchmarkPutDoorRecord writes durable batches of 256 records with their doors. "bare" is Pebble's part: the same keys
// and as many bytes, written by the same store without sealing.
func BenchmarkPutDoorRecord(b *testing.B) {
	const batchOf = 256
	for _, bare := range []bool{false, true} {
		name := "sealed"
		if bare {
			name = "bare"
		}
		b.Run(name, func(b *testing.B) {
			s, lookup := filled(b, 0)
			r := sizable()
			junk := make([]byte, 4096)
			rand.NewChaCha8([32]byte{}).Read(junk)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				var batch store.Batch
				for range batchOf {
					if i++; bare {
						var id [16]byte
						binary.BigEndian.PutUint64(id[:], rand.Uint64())
						batch.Put(append([]byte("r12345678hour"), id[:]...), junk[:1560])
						batch.Raise(append([]byte("d12345678"), id[:]...), uint64(i), junk[:330])
						batch.Put(append([]byte("x12345678hour"), id[:]...), nil)
						continue
					}
					putOne(b, s, &batch, r, time.Now(), i, lookup)
				}
				must(b, s.KV.Apply(b.Context(), &batch, store.Durable))
			}
			b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
