package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

type service struct{ *backup.Service }

func (m *maker) keeper(kv store.KV) service { return service{m.service(kv)} }

// keep gives the backup what was learned, and wants all of it kept.
func (s service) keep(ls []*backup.Learned) error {
	outs, err := s.Learn(context.Background(), ls)
	if err != nil {
		return err
	}
	for i, o := range outs {
		if o.Unlearned != "" || o.Alarm != "" {
			return fmt.Errorf("sign-in %d is not learned: %s %s", i, o.Unlearned, o.Alarm)
		}
	}
	return nil
}

// writes is what writeChild prints: records a second of wall time, and µs of CPU a record, for each round.
type writes struct {
	Ours, Bare       []float64
	OursCPU, BareCPU []float64
	Bytes            float64 // written a record
}

// pair is a key and a value as they reach Pebble.
type pair struct{ key, value []byte }

// writeChild measures, in args[2] rounds below the directory args[0], how fast args[1] sealed sign-ins become durable
// through backup.Service.Learn, and how fast the same keys and values do in Pebble alone: same batches, same options,
// one writer, each round in a new directory.
func writeChild(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	rounds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	m, err := newMaker()
	if err != nil {
		return err
	}
	var batches [][]*backup.Learned
	for from := 0; from < n; from += batchSize {
		b, err := m.batch(from, min(from+batchSize, n))
		if err != nil {
			return err
		}
		batches = append(batches, b)
	}
	var out writes
	var same [][]pair
	for r := range rounds {
		dir := filepath.Join(args[0], strconv.Itoa(r))
		rate, cpu, err := m.writeOurs(dir+"-ours", batches, n, func(kv store.KV) (err error) {
			if same == nil {
				same, err = asWritten(kv, batches)
			}
			return err
		})
		if err != nil {
			return err
		}
		out.Ours, out.OursCPU = append(out.Ours, rate), append(out.OursCPU, cpu)
		if rate, cpu, err = writeBare(dir+"-bare", same, n); err != nil {
			return err
		}
		out.Bare, out.BareCPU = append(out.Bare, rate), append(out.BareCPU, cpu)
	}
	for _, b := range same {
		for _, p := range b {
			out.Bytes += float64(len(p.key)+len(p.value)) / float64(n)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func (m *maker) writeOurs(dir string, batches [][]*backup.Learned, n int, look func(store.KV) error) (rate, cpu float64, err error) {
	defer os.RemoveAll(dir)
	db, err := store.Open(dir, store.Options{CacheBytes: blockCache})
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	s := m.keeper(db)
	before, began := ownCPU(), time.Now()
	for _, b := range batches {
		if err := s.keep(b); err != nil {
			return 0, 0, err
		}
	}
	rate, cpu = float64(n)/time.Since(began).Seconds(), micros(ownCPU()-before, n)
	return rate, cpu, look(db)
}

// asWritten reads back what the batches have written, in the same batches: a key belongs to the batch whose door or
// record it ends with.
func asWritten(kv store.KV, batches [][]*backup.Learned) ([][]pair, error) {
	of := map[session.ID]int{}
	for i, b := range batches {
		for _, l := range b {
			of[l.Sealed.Record] = i
			for _, d := range l.Sealed.Doors {
				of[d.Lookup] = i
			}
		}
	}
	out := make([][]pair, len(batches))
	err := kv.Scan(context.Background(), nil, []byte{0xff}, func(key []byte, e store.Entry) error {
		tag := 1 // as the store writes values: a byte, and the version where there is one
		if e.Version != 0 {
			tag = 9
		}
		p := pair{append([]byte(nil), key...), append(make([]byte, tag), e.Value...)}
		i := 0
		if len(key) >= 16 {
			i = of[session.ID(key[len(key)-16:])]
		}
		out[i] = append(out[i], p)
		return nil
	})
	return out, err
}

// writeBare writes the batches with Pebble alone.
func writeBare(dir string, batches [][]pair, n int) (rate, cpu float64, err error) {
	defer os.RemoveAll(dir)
	cache := pebble.NewCache(blockCache)
	defer cache.Unref()
	o := &pebble.Options{Cache: cache, MemTableSize: 64 << 20, Logger: silent{}, FormatMajorVersion: pebble.FormatTableFormatV6}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	before, began := ownCPU(), time.Now()
	for _, b := range batches {
		pb := db.NewBatch()
		for _, p := range b {
			if err := pb.Set(p.key, p.value, nil); err != nil {
				return 0, 0, err
			}
		}
		if err := pb.Commit(pebble.Sync); err != nil {
			return 0, 0, err
		}
		if err := pb.Close(); err != nil {
			return 0, 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), micros(ownCPU()-before, n), nil
}

type silent struct{}

func (silent) Infof(string, ...any)         {}
func (silent) Errorf(string, ...any)        {}
func (silent) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// writeRow is the first half of P6.
func writeRow(ctx context.Context, l *lab) (Row, error) {
	n := min(max(l.records/10, batchSize), 100_000)
	b, err := l.output(ctx, "write", filepath.Join(l.dir, "writes"), n, l.rounds)
	if err != nil {
		return Row{}, err
	}
	var w writes
	if err := decode(b, &w); err != nil {
		return Row{}, err
	}
	var ratio []float64
	for i := range w.Ours {
		ratio = append(ratio, w.Ours[i]/w.Bare[i])
	}
	bare := median(w.Bare)
	return newRow("sealed records written, durable", median(w.Ours), "records/s").limited(round(bare)).judged(">=", .7*bare, median(ratio) >= .7).
		beside("bare Pebble, same batches", bare).
		noted("%.0f %% of bare Pebble (median of the rounds' ratios, which is what is judged). %d sign-ins of %.0f bytes in synced batches of %d, one writer; CPU a record %.1f µs, bare %.1f µs. What the backup does for each beside writing: reading its marks, sealing its door.",
			100*median(ratio), n, w.Bytes, batchSize, median(w.OursCPU), median(w.BareCPU)), nil
}

func measureP6(ctx context.Context, l *lab) ([]Row, error) {
	w, err := writeRow(ctx, l)
	if err != nil {
		return nil, err
	}
	rows := []Row{w}
	r, err := learnRow(ctx, l)
	if err != nil {
		return rows, err
	}
	return append(rows, r), nil
}
