package main

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"strings"
	"time"

	"understudy/idptest"
)

const outageConns = 16

// outage is an understudy whose primary is dead, with signed-in sessions.
type outage struct {
	label string
	alg   string
	u     *idptest.Understudy
	s     *sessions
	sign  crypto.Signer // of the kind that it signs with

	one, two []float64 // µs of CPU a signature with one core busy, and with two, a sample a round
	served   []sample
}

// startOutage signs sessions in at the bench's own primary through an understudy, and kills the primary.
func (l *lab) startOutage(ctx context.Context, label, alg string, env ...string) (o *outage, err error) {
	o = &outage{label: label, alg: alg}
	p, err := l.serve(ctx, "primary", alg, false)
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	if o.u, err = l.startUnderstudy(ctx, p.url(), env...); err != nil {
		return nil, err
	}
	u := o.u
	defer func() {
		if err != nil {
			l.log.Printf("%s", u.Log())
			u.Kill()
		}
	}()
	began := time.Now()
	addr := strings.TrimPrefix(o.u.URL(), "http://")
	if o.s, err = signIn(ctx, addr, addr, l.sessions, outageConns, func() error { return quiet(u.PID(), settle) }); err != nil {
		return nil, err
	}
	learned, err := l.learnedAll(ctx, u)
	if err != nil {
		return nil, err
	}
	if want := uint64(l.sessions + (l.sessions+1)/2); learned != want {
		return nil, fmt.Errorf("%d exchanges are learned, not %d", learned, want)
	}
	l.log.Printf("%s: %d sessions signed in, %d exchanges learned after %s; the primary is killed", label, l.sessions, learned, time.Since(began).Round(time.Second/10))
	p.Kill()
	if err := o.s.keySet(ctx, certsPath); err != nil {
		return nil, err
	}
	// Every session must be there; the first requests open the breaker.
	if err := o.s.once(ctx, byBackup); err != nil {
		return nil, fmt.Errorf("%s: the backup does not answer for every session: %w\n%s", label, err, refusals(u.Dir))
	}
	o.sign, err = signer(alg)
	return o, err
}

// startUnderstudy starts the built program with its data in a directory of its own.
func (l *lab) startUnderstudy(ctx context.Context, primary string, env ...string) (*idptest.Understudy, error) {
	bin, err := l.understudy(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "understudy-")
	if err != nil {
		return nil, err
	}
	if l.profile != "" {
		env = append(env, profileVariable+"="+profileOf(dir))
	}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		old, was := os.LookupEnv(k)
		os.Setenv(k, v) // the child inherits it
		defer func() {
			if os.Unsetenv(k); was {
				os.Setenv(k, old)
			}
		}()
	}
	return idptest.StartUnderstudy(ctx, bin, dir, primary)
}

// round measures the limit before and after the answers, close together in time.
func (l *lab) round(ctx context.Context, o *outage, d time.Duration) error {
	var limits [2][2]signing
	limit := func(when int) (err error) {
		for cores := range 2 {
			if limits[when][cores], err = signFor(o.sign, cores+1, min(d/8, time.Second/2)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := limit(0); err != nil {
		return err
	}
	if err := l.profiled(o.u, "outage-"+strings.ReplaceAll(o.label, " ", "-"), func() error {
		s, err := measure(ctx, o.s.load(byBackup, ""), d, 0, o.u.PID())
		o.served = append(o.served, s)
		return err
	}); err != nil {
		return err
	}
	if err := limit(1); err != nil {
		return err
	}
	mean := func(cores int) float64 { return (limits[0][cores].cpu + limits[1][cores].cpu) / 2 }
	o.one, o.two = append(o.one, mean(0)), append(o.two, mean(1))
	return nil
}

// row of the outage: grants per second of CPU, against as many pairs of signatures.
func (o *outage) row(share float64) Row {
	var one, two, ratio []float64
	for i := range o.two {
		one = append(one, 1e6/(2*o.one[i]))
		two = append(two, 1e6/(2*o.two[i]))
		ratio = append(ratio, 2*o.two[i]/o.served[i].cpu)
	}
	cpu, limit := median(cpus(o.served)), median(two)
	d := all(o.served)
	return newRow("refresh grants in an outage, "+o.label, 1e6/cpu, "grants per second of CPU").
		limited(round(limit)).judged(">=", share*limit, median(ratio) >= share).
		beside("two signatures alone, one core busy", median(one)).
		beside("two signatures alone, two cores busy", limit).
		noted("%.0f %% of the limit (median of the rounds' ratios, which is what is judged; the bar is %.0f %%): that is the share of signing in the CPU. The limit is two signatures with both cores busy, as they are under load. %.0f µs of CPU a grant; %.0f grants/s with the load on the same two cores; p50 %.1f ms, p99 %.1f ms; %d sessions, %d grants, every one answered and checked.",
			100*median(ratio), 100*share, cpu, median(rates(o.served)), millis(quantile(d, .5)), millis(quantile(d, .99)), len(o.s.tokens), len(d))
}

func measureP2(ctx context.Context, l *lab) ([]Row, error) {
	o, err := l.startOutage(ctx, "ES256", "ES256")
	if err != nil {
		return nil, err
	}
	defer o.u.Kill()
	for i := range l.rounds {
		if err := l.round(ctx, o, l.duration); err != nil {
			return nil, err
		}
		l.log.Printf("ES256, round %d: %.0f µs of CPU a grant, a signature %.1f µs (one core) and %.1f µs (two)", i+1, o.served[i].cpu, o.one[i], o.two[i])
	}
	return []Row{o.row(.45)}, nil
}
