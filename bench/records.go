package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

const (
	batchSize  = 256 // learned sign-ins in a batch, as the gateway gathers them under load
	blockCache = 64 << 20
)

// buildChild fills a store in args[0] with args[1] records.
func buildChild(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	m, err := newMaker()
	if err != nil {
		return err
	}
	db, err := store.Open(args[0], store.Options{CacheBytes: blockCache})
	if err != nil {
		return err
	}
	s := m.keeper(noSync{db})
	jobs := make(chan int)
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for range 2 {
		wg.Go(func() {
			for from := range jobs {
				ls, err := m.batch(from, min(from+batchSize, n))
				if err == nil {
					err = s.keep(ls)
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for from := 0; from < n && len(errs) == 0; from += batchSize {
		jobs <- from
	}
	close(jobs)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	// No store takes a million sign-ins in a minute: what that leaves to be compacted is no part of the figure.
	if err := quiet(os.Getpid(), 2*time.Minute); err != nil {
		return err
	}
	return db.Close()
}

// noSync is a store that is filled fast: it is closed properly.
type noSync struct{ store.KV }

func (k noSync) Apply(ctx context.Context, b *store.Batch, _ store.Durability) error {
	return k.KV.Apply(ctx, b, store.Soon)
}

func (m *maker) batch(from, to int) ([]*backup.Learned, error) {
	var ls []*backup.Learned
	for n := from; n < to; n++ {
		l, err := m.message(n)
		if err != nil {
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// lookUps is what lookUpChild prints.
type lookUps struct {
	Reopen           time.Duration
	P50, P99         time.Duration
	ColdP50, ColdP99 time.Duration
	Memory           int64 // bytes, the greatest resident set
	Data             int64 // bytes on disk
	N                int
}

// lookUpChild opens the store in args[0], which holds args[1] records, and looks args[2] of them up at random.
func lookUpChild(args []string) error {
	records, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	m, err := newMaker()
	if err != nil {
		return err
	}
	out := lookUps{N: n}
	if out.Data, err = forget(args[0]); err != nil {
		return err
	}
	began := time.Now()
	db, err := store.Open(args[0], store.Options{CacheBytes: blockCache})
	if err != nil {
		return err
	}
	out.Reopen = time.Since(began)
	s := &session.Store{KV: db, Seal: m.seal}
	look := func(n int) ([]time.Duration, error) {
		took := make([]time.Duration, 0, n)
		for range n {
			i := rand.IntN(records)
			artifact := m.artifact(i)
			sub, _ := m.user(i)
			began := time.Now()
			r, err := m.open(s, artifact)
			took = append(took, time.Since(began))
			if err != nil {
				return nil, fmt.Errorf("look up record %d: %w", i, err)
			}
			if r.Subject != sub {
				return nil, fmt.Errorf("record %d is another's", i)
			}
		}
		return took, nil
	}
	cold, err := look(n / 50)
	if err != nil {
		return err
	}
	out.ColdP50, out.ColdP99 = quantile(cold, .5), quantile(cold, .99)
	if _, err := look(n); err != nil { // the operating system has read the files again
		return err
	}
	took, err := look(n)
	if err != nil {
		return err
	}
	out.P50, out.P99 = quantile(took, .5), quantile(took, .99)
	if out.Memory, err = peakMemory(); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	return db.Close()
}

// forget makes the operating system drop what it has cached of the files, and returns their size.
func forget(dir string) (size int64, err error) {
	unix.Sync()
	return size, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		size += st.Size()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// peakMemory is the greatest resident set of this process.
func peakMemory() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseInt(kb, 10, 64)
	return n << 10, err
}

func measureP5(ctx context.Context, l *lab) ([]Row, error) {
	dir := filepath.Join(l.dir, "records")
	defer os.RemoveAll(dir)
	l.log.Printf("making %d records", l.records)
	if _, err := l.output(ctx, "build", dir, l.records); err != nil {
		return nil, err
	}
	b, err := l.output(ctx, "look-up", dir, l.records, min(l.records/2, 200_000))
	if err != nil {
		return nil, err
	}
	var v lookUps
	if err := decode(b, &v); err != nil {
		return nil, err
	}
	note := fmt.Sprintf("%d records, %.2f GB on disk (%.0f bytes a record with its door), block cache %d MB (%.1f %% of the data).", l.records, float64(v.Data)/1e9, float64(v.Data)/float64(l.records), blockCache>>20, 100*float64(blockCache)/float64(v.Data))
	return []Row{
		newRow("look-up and open, random, p50", micros(v.P50, 1), "µs").atMost(60).
			noted("%s From the artifact to the record in the clear: look-up id, key derivation, door, record, AES-GCM, decoding. One at a time, %d of them. The files lie in the operating system's cache; right after the start, read from disk: p50 %.0f µs, p99 %.0f µs.", note, v.N, micros(v.ColdP50, 1), micros(v.ColdP99, 1)),
		newRow("look-up and open, random, p99", millis(v.P99), "ms").atMost(2),
		newRow("memory of the process that looks up", float64(v.Memory)/1e9, "GB").atMost(1).noted("The greatest resident set."),
		newRow("reopen", v.Reopen.Seconds(), "s").atMost(2).noted("With nothing of it in the operating system's cache."),
	}, nil
}
