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

	one, two []signing // the limit, on one core and on two, a sample a round
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
	if o.s, err = signIn(ctx, addr, addr, l.sessions, outageConns); err != nil {
		return nil, err
	}
	if err := quiet(o.u.PID(), 20*time.Second); err != nil {
		return nil, err
	}
	l.log.Printf("%s: %d sessions signed in after %s; the primary is killed", label, l.sessions, time.Since(began).Round(time.Second/10))
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
	env = append(env, profileVariable+"="+profileOf(dir))
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

// round measures the limit and the answers, close together in time.
func (l *lab) round(ctx context.Context, o *outage, d time.Duration) error {
	for cores, out := range map[int]*[]signing{1: &o.one, 2: &o.two} {
		s, err := signFor(o.sign, cores, min(d/4, time.Second))
		if err != nil {
			return err
		}
		*out = append(*out, s)
	}
	return l.profiled(o.u, "outage-"+o.label, func() error {
		s, err := measure(ctx, o.s.load(byBackup, ""), d, 0, o.u.PID())
		o.served = append(o.served, s)
		return err
	})
}

// rows of the outage: grants per second of CPU, against as many pairs of signatures.
func (o *outage) row(share float64) Row {
	var one, two, ratio []float64
	for i := range o.two {
		one = append(one, 1e6/(2*o.one[i].cpu))
		two = append(two, 1e6/(2*o.two[i].cpu))
		ratio = append(ratio, 2*o.two[i].cpu/o.served[i].cpu)
	}
	cpu, limit := median(cpus(o.served)), median(two)
	d := all(o.served)
	return newRow("refresh grants in an outage, "+o.label, 1e6/cpu, "grants per second of CPU").
		limited(round(limit)).atLeast(share*limit).
		beside("two signatures alone, one core busy", median(one)).
		beside("two signatures alone, two cores busy", limit).
		noted("The bar is %.0f %% of the limit, two signatures with both cores busy as they are under load. Signing is %.0f %% of the CPU (median of the rounds' ratios). %.0f µs of CPU a grant; %.0f grants/s with the load on the same two cores; p50 %.1f ms, p99 %.1f ms; %d grants, every one answered and checked.",
			100*share, 100*median(ratio), cpu, median(rates(o.served)), millis(quantile(d, .5)), millis(quantile(d, .99)), len(d))
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
		l.log.Printf("ES256, round %d: %.0f µs of CPU a grant, a signature %.1f µs (one core) and %.1f µs (two)", i+1, o.served[i].cpu, o.one[i].cpu, o.two[i].cpu)
	}
	return []Row{o.row(.45)}, nil
}
