package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"understudy/idptest"
)

const (
	atOnce = 2 * time.Second // what "at a kill" and "the first seconds" mean
	backIn = time.Minute     // how long the return is waited for
)

// pace is how P4 loads.
type pace struct {
	rate          int // requests a second
	healthy, away time.Duration
	warm          time.Duration // load on a JVM that has just started
}

func (l *lab) pace() pace {
	if l.quick {
		return pace{20, 4 * time.Second, 12 * time.Second, 2 * time.Second}
	}
	// The gateway knows the pace of the last minute: the baseline is longer, so that the load before it is forgotten.
	return pace{200, 70 * time.Second, 20 * time.Second, min(l.warmKC, time.Minute)}
}

// death is a way in which a primary dies and comes back.
type death struct {
	name string
	do   func() error
	undo func(context.Context) error // returns when the primary serves
}

// life is what one death did to the requests.
type life struct {
	*open
	pace
	killed, breakerSeen, serves, full time.Time
	failed                            []shot // due from the kill on, or in flight at it
	since                             int    // requests due from the kill on
}

// die loads at the rate, lets the primary die and come back, and waits for its full share.
func (l *lab) die(ctx context.Context, u *idptest.Understudy, s *sessions, d death) (*life, error) {
	p := l.pace()
	v := &life{pace: p, open: &open{s: s, rate: p.rate, want: check{status: 200, adopt: true}}}
	loading, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { v.run(loading); close(done) }()
	stop := func() { end(); <-done }
	defer stop()
	if err := wait(ctx, p.healthy); err != nil {
		return nil, err
	}
	v.killed = time.Now()
	if err := d.do(); err != nil {
		return nil, err
	}
	if err := wait(ctx, atOnce); err != nil {
		return nil, err
	}
	// Asking costs CPU, so it is asked from here on only, and no longer than it must.
	for v.breakerSeen.IsZero() && time.Since(v.killed) < p.away {
		st, err := l.status(ctx, u)
		if err != nil {
			return nil, err
		}
		if st.Tenants[0].Endpoints["token"].Mode == "outage" {
			v.breakerSeen = time.Now()
		} else if err := wait(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, p.away-time.Since(v.killed)); err != nil {
		return nil, err
	}
	if err := d.undo(ctx); err != nil {
		return nil, err
	}
	v.serves = time.Now()
	for {
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
		last := v.backupLast()
		if time.Since(last) > 5*time.Second {
			v.full = last
			break
		}
		if time.Since(v.serves) > backIn {
			v.full = time.Now() // not back yet
			break
		}
	}
	stop()
	for _, x := range v.shots {
		if x.due.Add(x.took).After(v.killed) {
			v.since++
			if x.err != nil {
				v.failed = append(v.failed, x)
			}
		} else if x.err != nil {
			return nil, fmt.Errorf("%s: a request failed while the primary was healthy: %w", d.name, x.err)
		}
	}
	return v, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// added is the p99 of the requests in a stretch of time, less the p99 while the primary was healthy.
func (v *life) added(name string, from, to time.Time, bar float64) Row {
	// The first quarter fills connection pools.
	base := v.between(v.killed.Add(-v.healthy*3/4), v.killed.Add(-time.Second))
	ds := v.between(from, to)
	return newRow(name, millis(quantile(ds, .99)-quantile(base, .99)), "ms").atMost(bar).
		noted("p99 less the healthy p99 of the same run. Then: p50 %.1f, p99 %.1f ms (%d requests); healthy: p50 %.1f, p99 %.1f ms (%d requests).",
			millis(quantile(ds, .5)), millis(quantile(ds, .99)), len(ds), millis(quantile(base, .5)), millis(quantile(base, .99)), len(base))
}

// opened is added once the breaker is open; where it did not open, the bar is missed by all of the time.
func (v *life) opened(name string, bar float64) Row {
	if v.breakerSeen.IsZero() {
		return newRow(name, millis(v.away), "ms").atMost(bar).noted("The breaker did not open.")
	}
	r := v.added(name, v.breakerSeen, v.killed.Add(v.away), bar)
	return r.noted("%s The breaker was seen open %.1f s after the kill.", r.Note, v.breakerSeen.Sub(v.killed).Seconds())
}

func (v *life) failures(name string, eligible int) Row {
	note := fmt.Sprintf("%d requests from the kill to the end of the run, %d distinct sessions, all signed in and learned before the kill; %d a second, none repeated.", v.since, eligible, v.pace.rate)
	if len(v.failed) > 0 {
		note += " The first failure: " + v.failed[0].err.Error()
	}
	return newRow("eligible requests failed, primary "+name, float64(len(v.failed)), "requests").atMost(0).noted("%s", note)
}

func (v *life) back(name string) Row {
	return newRow("full share back after the primary serves, "+name, max(0, v.full.Sub(v.serves).Seconds()), "s").atMost(30).
		noted("From the moment when the primary serves to the last request that the backup answered.")
}

func measureP4(ctx context.Context, l *lab) ([]Row, error) {
	if err := idptest.InstallKeycloak(ctx); err != nil {
		return nil, err
	}
	k, err := idptest.StartKeycloak(ctx, filepath.Join(l.dir, "keycloak"))
	if err != nil {
		return nil, err
	}
	defer func() { k.Kill() }()
	k.Kill()
	if err := k.RestartForLoad(ctx); err != nil {
		return nil, err
	}
	u, err := l.startUnderstudy(ctx, k.URL())
	if err != nil {
		return nil, err
	}
	defer u.Kill()
	n := min(l.sessions, 2000)
	l.log.Printf("signing %d people in at Keycloak", n)
	s, err := person(ctx, u.URL()+"/realms/norot", n, outageConns, []string{"openid"})
	if err != nil {
		return nil, err
	}
	// The first minutes of a JVM are slow; they also refresh every session.
	warm := s.load(byPrimary, "")
	if _, _, err := warm.run(ctx, l.pace().warm); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	learned, err := l.learnedAll(ctx, u)
	if err != nil {
		return nil, err
	}
	l.log.Printf("%d exchanges learned", learned)
	if err := s.keySet(ctx, "/realms/norot/protocol/openid-connect/certs"); err != nil {
		return nil, err
	}
	var rows []Row
	kill := death{"SIGKILLed", func() error { k.Kill(); return nil }, k.RestartForLoad}
	v, err := l.die(ctx, u, s, kill)
	if err != nil {
		return nil, errors.Join(err, errors.New(u.Log()))
	}
	rows = append(rows, v.failures(kill.name, n),
		v.added("latency added at a kill, p99", v.killed, v.killed.Add(atOnce), 50),
		v.opened("latency added with the breaker open, after a kill, p99", 5),
		v.back(kill.name))
	l.log.Print(summary(v))
	if _, _, err := warm.run(ctx, l.pace().warm/2); err != nil { // a new JVM
		return rows, fmt.Errorf("warm up again: %w", err)
	}
	hole := death{"black-holed", k.Freeze, func(context.Context) error { return k.Thaw() }}
	if v, err = l.die(ctx, u, s, hole); err != nil {
		return rows, errors.Join(err, errors.New(u.Log()))
	}
	rows = append(rows, v.failures(hole.name, n),
		v.added("latency added in the first two seconds of a black hole, p99", v.killed, v.killed.Add(atOnce), 1500),
		v.opened("latency added with the breaker open, in a black hole, p99", 5),
		v.back(hole.name))
	l.log.Print(summary(v))
	return rows, nil
}

func summary(v *life) string {
	var by [2]int
	for _, x := range v.shots {
		if strings.HasPrefix(x.kid, "bk-") {
			by[1]++
		} else {
			by[0]++
		}
	}
	return fmt.Sprintf("%d requests answered by the primary, %d by the backup, %d failed", by[0]-len(v.failed), by[1], len(v.failed))
}
