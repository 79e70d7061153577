package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/store"
)

func TestSweepAgainstAModel(t *testing.T) {
	s := opened(t)
	ctx := context.Background()
	now := start
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		tenant := fmt.Sprintf("tenant %d", run)
		hash := tenantHash(tenant)
		doors := map[ID]Door{}
		records := map[string]bool{} // keys that are needed by doors, until nothing needs them
		marks := map[string]Mark{}
		others := map[string]int64{} // successors, secrets, habits by key
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		id := func() (id ID) { id[0] = rapid.ByteRange(1, 4).Draw(t, "id"); return id }
		steps := rapid.IntRange(1, 30).Draw(t, "steps")
		for range steps {
			now = now.Add(time.Duration(rapid.Int64Range(1, int64(20*time.Hour)).Draw(t, "pass")))
			at := now.UnixNano()
			var b store.Batch
			switch rapid.SampledFrom([]string{"learn", "learn", "learn", "supersede", "mark", "other", "long", "sweep", "sweep"}).Draw(t, "what") {
			case "learn":
				var e Ends // of several doors: they may share an entry
				for range rapid.IntRange(1, 3).Draw(t, "doors") {
					lookup := id()
					if doors[lookup].Approved == at {
						continue
					}
					d := Door{
						Kind: []Kind{RefreshToken, RefreshToken, AccessToken}[lookup[0]%3], Record: NewID(), Approved: at,
						Ends: rapid.SampledFrom([]int64{0, at + int64(time.Hour), at + int64(30*time.Hour), at + int64(200*time.Hour)}).Draw(t, "ends"),
					}
					d.Hour = s.PutRecord(&b, tenant, d.Record, []byte("sealed"), now.Add(Lifetime))
					check(s.PutDoorWith(&b, &e, tenant, lookup, at, &d))
					doors[lookup] = d
					records[string(recordKey(hash, d.Hour, d.Record))] = true
				}
				e.Put(&b)
				check(s.KV.Apply(ctx, &b, store.Soon))
			case "supersede":
				lookup := id()
				if d, ok := doors[lookup]; ok && d.Superseded == 0 {
					d.Superseded = at
					check(s.PutDoor(&b, tenant, lookup, at, &d))
					check(s.KV.Apply(ctx, &b, store.Soon))
					doors[lookup] = d
				}
			case "mark":
				m := Mark{Of: OfSubject, ID: id(), Final: rapid.Bool().Draw(t, "final"), At: at}
				check(s.Mark(ctx, tenant, m))
				marks[string(markPlace(tenant, m.Final, m.Of, m.ID))] = m
			case "other":
				lookup := id()
				check(s.PutSuccessor(&b, tenant, lookup, at, Successor{State: Kept, At: at}))
				check(s.PutSecret(&b, tenant, lookup, Secret{ID: lookup, Refused: at}))
				check(s.PutHabit(&b, tenant, lookup, &Habit{At: at}))
				check(s.KV.Apply(ctx, &b, store.Soon))
				for _, k := range [][]byte{SuccessorPlace(tenant, lookup), secretPlace(tenant, lookup, lookup), place(spaceHabit, tenant, lookup[:])} {
					others[string(k)] = at
				}
			case "long":
				now = now.Add(time.Duration(rapid.Int64Range(1, 60).Draw(t, "days")) * 24 * time.Hour)
			case "sweep":
				_, err := s.Sweep(ctx, now)
				check(err)
				again, err := s.Sweep(ctx, now)
				check(err)
				if again != (Swept{}) {
					t.Fatalf("a second sweep at the same time found %+v", again)
				}
				over := func(end time.Time) bool { return hourOf(end)+1 <= hourOf(now) } // whole hours: the bucket is over
				maps.DeleteFunc(doors, func(_ ID, d Door) bool {
					if over(d.Expires()) && d.Superseded != 0 && d.Kind != AccessToken {
						delete(records, string(recordKey(hash, d.Hour, d.Record)))
					}
					return over(d.Expires())
				})
				maps.DeleteFunc(records, func(k string, _ bool) bool { return k[9:13] <= string(hourKey(hourOf(now))) })
				maps.DeleteFunc(marks, func(_ string, m Mark) bool {
					if m.Final {
						return time.Unix(0, m.At).Add(90 * 24 * time.Hour).Before(now)
					}
					return time.Unix(0, m.At).Add(73 * time.Hour).Before(now)
				})
				maps.DeleteFunc(others, func(_ string, at int64) bool { return time.Unix(0, at).Add(90 * 24 * time.Hour).Before(now) })
			}

			// What is there is what the model says, after every step.
			keys := func(space byte) (out []string) {
				from := append([]byte{space}, hash...)
				check(s.KV.Scan(ctx, from, after(from), func(k []byte, _ store.Entry) error { out = append(out, string(k)); return nil }))
				return out
			}
			want := func(space byte, name string, ks []string) {
				slices.Sort(ks)
				if got := keys(space); !slices.Equal(got, ks) {
					t.Fatalf("%s: got %x, want %x", name, got, ks)
				}
			}
			for i := range byte(4) {
				lookup := ID{i + 1}
				if _, there := doors[lookup]; !there {
					if d, err := s.Door(tenant, lookup); !errors.Is(err, ErrNoRecord) {
						t.Fatalf("door %s: %+v, %v; it is forgotten", lookup, d, err)
					}
				}
			}
			var ds []string
			entries := map[string]bool{}
			for lookup, d := range doors {
				ds = append(ds, string(doorPlace(tenant, lookup)))
				entries[string(expiryPlace(hash, d.Expires(), lookup[:]))] = true
			}
			want(spaceDoor, "doors", ds)
			want(spaceRecord, "records", slices.Collect(maps.Keys(records)))
			want(spaceMark, "marks", slices.Collect(maps.Keys(marks)))
			want(spaceSuccessor, "successors", slices.DeleteFunc(slices.Collect(maps.Keys(others)), func(k string) bool { return k[0] != spaceSuccessor }))
			want(spaceSecret, "secrets", slices.DeleteFunc(slices.Collect(maps.Keys(others)), func(k string) bool { return k[0] != spaceSecret }))
			want(spaceHabit, "habits", slices.DeleteFunc(slices.Collect(maps.Keys(others)), func(k string) bool { return k[0] != spaceHabit }))
			there := []string{}
			from := append([]byte{spaceExpiry}, hash...)
			check(s.KV.Scan(ctx, from, after(from), func(k []byte, e store.Entry) error {
				for _, lookup := range doorsOf(k, e.Value) {
					there = append(there, string(k[:len(from)+4])+string(lookup))
				}
				return nil
			}))
			for e := range entries {
				if !slices.Contains(there, e) {
					t.Fatalf("a door has no entry at its end: %x", e)
				}
			}
			for lookup, d := range doors {
				for _, s := range []*Store{s, again(s)} {
					got, err := s.Door(tenant, lookup)
					check(err)
					if got.Approved != d.Approved || got.Record != d.Record || got.Superseded != d.Superseded {
						t.Fatalf("door %s: %+v, want %+v", lookup, got, d)
					}
				}
			}
		}
	})
}

func TestSweepTakesNothingThatIsWrittenMeanwhile(t *testing.T) {
	now := start.Add(100 * 24 * time.Hour)
	sweep := func(t *testing.T, s *Store, meanwhile func()) {
		t.Helper()
		// The sweep has seen what is over; just before it forgets, somebody writes.
		between := &Store{Seal: s.Seal, KV: &interposed{KV: s.KV, before: meanwhile}}
		got, err := between.Sweep(t.Context(), now)
		must(t, err)
		if got.Doors+got.Marks != 1 {
			t.Fatalf("the test missed its moment: %+v", got)
		}
	}
	t.Run("a revocation", func(t *testing.T) {
		s := opened(t)
		for _, final := range []bool{true, false} {
			m := Mark{Of: OfSubject, ID: NewID(), Final: final, At: start.UnixNano(), Cause: "logout"}
			must(t, s.Mark(t.Context(), tenant, m))
			m.At = now.UnixNano()
			sweep(t, s, func() { must(t, s.Mark(t.Context(), tenant, m)) })
			ms, err := s.Blocking(tenant, &Door{Subject: m.ID, Begun: now.UnixNano(), Approved: now.UnixNano()})
			must(t, err)
			if len(ms) != 1 || ms[0].At != m.At {
				t.Fatalf("final %v: %+v", final, ms)
			}
		}
	})
	t.Run("a sign-in", func(t *testing.T) {
		s := opened(t)
		lookup, _, _ := remembered(t, s, tenant, "token", start)
		sweep(t, s, func() { remembered(t, s, tenant, "token", now) })
		d, err := s.Door(tenant, lookup)
		must(t, err)
		if d.Approved != now.UnixNano() {
			t.Fatal(d.Approved)
		}
	})
}

// interposed does something before the first batch of its user.
type interposed struct {
	store.KV
	before func()
	once   sync.Once
}

func (i *interposed) Apply(ctx context.Context, b *store.Batch, d store.Durability) error {
	i.once.Do(i.before)
	return i.KV.Apply(ctx, b, d)
}

func TestSweepFailsWhereTheStoreFails(t *testing.T) {
	s := opened(t)
	remembered(t, s, tenant, "token", start)
	failing := &Store{Seal: s.Seal, KV: failing{s.KV}}
	if _, err := failing.Sweep(t.Context(), start.Add(1000*time.Hour)); !errors.Is(err, store.ErrFailed) {
		t.Fatal(err)
	}
}

type failing struct{ store.KV }

func (failing) Apply(context.Context, *store.Batch, store.Durability) error { return store.ErrFailed }

func TestLift(t *testing.T) {
	s := opened(t)
	door := func(n byte, approved time.Time) *Door {
		return &Door{Grant: ID{n}, Subject: ID{n}, Approved: approved.UnixNano(), Begun: approved.UnixNano()}
	}
	blocked := func(d *Door) bool {
		ms, err := s.Blocking(tenant, d)
		must(t, err)
		return len(ms) > 0
	}
	for n := byte(1); n <= 4; n++ { // one an hour
		must(t, s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: ID{n}, At: start.Add(time.Duration(n) * time.Hour).UnixNano(), Cause: "refused"}))
	}
	must(t, s.Mark(t.Context(), tenant,
		Mark{Of: OfGrant, ID: ID{5}, At: start.Add(2 * time.Hour).UnixNano(), Cause: "cleared"},
		Mark{Of: OfGrant, ID: ID{6}, Final: true, At: start.Add(2 * time.Hour).UnixNano(), Cause: "refused"}))
	must(t, s.Mark(t.Context(), "another", Mark{Of: OfGrant, ID: ID{2}, At: start.Add(2 * time.Hour).UnixNano(), Cause: "refused"}))

	from, to, now := start.Add(2*time.Hour), start.Add(4*time.Hour), start.Add(5*time.Hour)
	for _, want := range []int{2, 0} { // of the cause, in [from, to), once
		if n, err := s.Lift(t.Context(), tenant, "refused", from, to, now); err != nil || n != want {
			t.Fatalf("lifted %d, %v; want %d", n, err, want)
		}
	}
	for n, want := range []bool{1: true, 2: false, 3: false, 4: true, 5: true, 6: true} {
		if n > 0 && blocked(door(byte(n), start)) != want {
			t.Errorf("grant %d is blocked: %v", n, !want)
		}
	}
	if ms, err := s.Blocking("another", door(2, start)); err != nil || len(ms) != 1 {
		t.Error("another tenant's mark was lifted")
	}
	// The primary refuses again: even a refusal from before the lifting, that comes late, blocks.
	must(t, s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: ID{2}, At: start.Add(4*time.Hour + 30*time.Minute).UnixNano(), Cause: "refused"}))
	if !blocked(door(2, start)) {
		t.Error("a later refusal was lifted with the earlier one")
	}
}

func TestStats(t *testing.T) {
	s := opened(t)
	now := start.Add(time.Hour)
	n := 0
	put := func(d Door) {
		n++
		var b store.Batch
		if d.Approved == 0 {
			d.Approved = start.UnixNano()
		}
		if d.Begun == 0 {
			d.Begun = start.UnixNano()
		}
		must(t, s.PutDoor(&b, tenant, ID{byte(n)}, start.UnixNano(), &d))
		apply(t, s, &b)
	}
	put(Door{Kind: RefreshToken, Record: ID{1}})
	put(Door{Kind: RefreshToken, Record: ID{2}, Ends: now.UnixNano() + 1})
	put(Door{Kind: AccessToken, Record: ID{2}, Ends: now.UnixNano() + 1})
	put(Door{Kind: AccessToken, Record: ID{2}, Ends: now.UnixNano()})
	put(Door{Kind: RefreshToken, Record: ID{3}, Ends: now.UnixNano()})
	put(Door{Kind: RefreshToken, Record: ID{4}, Approved: now.Add(-Lifetime).UnixNano()})
	put(Door{Kind: RefreshToken, Record: ID{5}, Superseded: now.UnixNano(), Client: ID{1}})
	put(Door{Kind: RefreshToken, Record: ID{6}, Superseded: now.UnixNano(), Client: ID{2}})
	put(Door{Kind: RefreshToken, Record: ID{7}, Grant: ID{7}})
	put(Door{Kind: RefreshToken, Record: ID{8}, Grant: ID{8}})
	put(Door{Kind: RefreshToken, Unlearned: "password"})
	put(Door{Kind: Code})
	must(t, s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: ID{7}, Final: true, At: now.UnixNano()}, Mark{Of: OfGrant, ID: ID{8}, At: now.UnixNano()}))
	var b store.Batch
	must(t, s.PutHabit(&b, tenant, ID{2}, &Habit{Rotation: "accepts", At: 1}))
	apply(t, s, &b)
	remembered(t, s, "another", "token", start)

	got, err := s.Stats(t.Context(), tenant, now)
	must(t, err)
	want := Stats{
		Doors: map[Kind]int{RefreshToken: 9, AccessToken: 2, Code: 1}, Records: 8, Servable: map[Kind]int{RefreshToken: 3, AccessToken: 1},
		Not: map[string]int{"ended": 2, "expired": 1, "superseded": 1, "revoked": 1, "refused": 1, "not learned: password": 1},
	}
	got.Owners = nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// A session is a grant whatever its doors, the best of which tells; what is over is none.
func TestStatsCountsSessions(t *testing.T) {
	s := opened(t)
	now := start.Add(time.Hour)
	n := byte(0)
	put := func(grant byte, d Door) {
		n++
		d.Grant, d.Client = ID{grant}, cmp.Or(d.Client, ID{1})
		d.Begun, d.Approved = start.UnixNano(), cmp.Or(d.Approved, start.UnixNano())
		var b store.Batch
		must(t, s.PutDoor(&b, tenant, ID{n}, start.UnixNano(), &d))
		apply(t, s, &b)
	}
	put(1, Door{Kind: RefreshToken, Record: ID{1}, Superseded: now.UnixNano()})
	put(1, Door{Kind: RefreshToken, Record: ID{1}})
	put(1, Door{Kind: AccessToken, Record: ID{1}, Ends: now.UnixNano() + 1}) // hangs on the session, and is none
	put(1, Door{Kind: Code})
	put(2, Door{Kind: RefreshToken, Record: ID{2}, Superseded: now.UnixNano()})   // its successor is gone
	put(3, Door{Kind: RefreshToken, Record: ID{3}, Ends: now.UnixNano()})         // over
	put(4, Door{Kind: RefreshToken, Unlearned: "cnf"})                            // what it was at first
	put(4, Door{Kind: RefreshToken, Unlearned: "dpop", Approved: now.UnixNano()}) // and then
	put(5, Door{Kind: RefreshToken, Record: ID{5}})                               // learned once, and not the next time
	put(5, Door{Kind: RefreshToken, Unlearned: "cnf", Approved: now.UnixNano()})  //
	put(6, Door{Kind: RefreshToken, Record: ID{6}})                               // revoked
	put(7, Door{Kind: Application, Record: ID{7}})                                // of a browser
	put(8, Door{Kind: RefreshToken, Record: ID{8}, Client: ID{2}})                // of another client
	put(1, Door{Kind: RefreshToken, Record: ID{9}, Client: ID{2}, Approved: now.UnixNano()})
	must(t, s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: ID{6}, Final: true, At: now.UnixNano()}))
	got, err := s.Stats(t.Context(), tenant, now)
	must(t, err)
	want := map[Owner]Sessions{
		{ID{1}, RefreshToken}: {Servable: 2, Unlearned: map[string]int{"dpop": 1}},
		{ID{1}, Application}:  {Servable: 1, Unlearned: map[string]int{}},
		{ID{2}, RefreshToken}: {Servable: 2, Unlearned: map[string]int{}},
	}
	if !reflect.DeepEqual(got.Owners, want) {
		t.Errorf("got  %v\nwant %v", got.Owners, want)
	}
}
