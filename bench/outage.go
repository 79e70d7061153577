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

// scene is what an outage begins with.
type scene struct {
	label    string
	alg      string
	env      []string
	primary  string // its way; "": "fresh"
	sessions int    // that are signed in; 0: as many as the options say
	// also teaches more while the primary serves, and returns how many exchanges there are to learn; nil: nothing.
	also func(context.Context, *outage) (int, error)
}

// startOutage signs sessions in at the bench's own primary through an understudy, and kills the primary.
func (l *lab) startOutage(ctx context.Context, c scene) (o *outage, err error) {
	o = &outage{label: c.label, alg: c.alg}
	p, err := l.serve(ctx, "primary", c.alg, or(c.primary, "fresh"))
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	if o.u, err = l.startUnderstudy(ctx, p.url(), c.env...); err != nil {
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
	n := c.sessions
	if n == 0 {
		n = l.sessions
	}
	if o.s, err = signIn(ctx, addr, addr, n, outageConns, o.quiet); err != nil {
		return nil, err
	}
	want := n + (n+1)/2
	if c.also != nil {
		o.s.opaque = c.primary == "opaque"
		more, err := c.also(ctx, o)
		if err != nil {
			return nil, err
		}
		want += more
	}
	learned, err := l.learnedAll(ctx, u)
	if err != nil {
		return nil, err
	}
	if learned != uint64(want) {
		return nil, fmt.Errorf("%d exchanges are learned, not %d", learned, want)
	}
	l.log.Printf("%s: %d sessions signed in, %d exchanges learned after %s; the primary is killed", c.label, n, learned, time.Since(began).Round(time.Second/10))
	p.Kill()
	if err := o.s.keySet(ctx, certsPath); err != nil {
		return nil, err
	}
	// Every session must be there; the first requests open the breaker.
	if err := o.s.once(ctx, byBackup); err != nil {
		return nil, fmt.Errorf("%s: the backup does not answer for every session: %w\n%s", c.label, err, refusals(u.Dir))
	}
	o.sign, err = signer(c.alg)
	return o, err
}

// quiet waits for what goes on behind the replies.
func (o *outage) quiet() error { return quiet(o.u.PID(), settle) }

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

// round measures the limit before and after refresh grants, close together in time.
func (l *lab) round(ctx context.Context, o *outage) error {
	return l.limited(o, func() error { return l.serves(ctx, o, "outage", o.s.load(byBackup, ""), &o.served) })
}

// serves measures one load on an understudy, and adds the sample to into.
func (l *lab) serves(ctx context.Context, o *outage, name string, what load, into *[]sample) error {
	return l.profiled(o.u, name+"-"+strings.ReplaceAll(o.label, " ", "-"), func() error {
		s, err := measure(ctx, what, l.duration, 0, o.u.PID())
		*into = append(*into, s)
		return err
	})
}

// limited measures the limit before and after f, which measures answers.
func (l *lab) limited(o *outage, f func() error) error {
	var limits [2][2]signing
	limit := func(when int) (err error) {
		for cores := range 2 {
			if limits[when][cores], err = signFor(o.sign, cores+1, min(l.duration/8, time.Second/2)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := limit(0); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	if err := limit(1); err != nil {
		return err
	}
	mean := func(cores int) float64 { return (limits[0][cores].cpu + limits[1][cores].cpu) / 2 }
	o.one, o.two = append(o.one, mean(0)), append(o.two, mean(1))
	return nil
}

// row of the outage: refresh grants per second of CPU, against as many pairs of signatures.
func (o *outage) row(share float64) Row {
	return o.share("refresh grants in an outage, "+o.label, share, o.served, 2, fmt.Sprintf("%d sessions", len(o.s.tokens)))
}

// share compares grants with the signatures that each needs, one or two.
func (o *outage) share(name string, share float64, served []sample, signatures int, of string) Row {
	what := []string{"one signature", "two signatures"}[signatures-1]
	var one, two, ratio []float64
	for i := range o.two {
		n := float64(signatures)
		one = append(one, 1e6/(n*o.one[i]))
		two = append(two, 1e6/(n*o.two[i]))
		ratio = append(ratio, n*o.two[i]/served[i].cpu)
	}
	cpu, limit := median(cpus(served)), median(two)
	d := all(served)
	return newRow(name, 1e6/cpu, "grants per second of CPU").
		limited(round(limit)).judged(">=", share*limit, median(ratio) >= share).
		beside(what+" alone, one core busy", median(one)).
		beside(what+" alone, two cores busy", limit).
		noted("%.0f %% of the limit (median of the rounds' ratios, which is what is judged; the bar is %.0f %%): that is the share of signing in the CPU. The limit is %s with both cores busy, as they are under load. %.0f µs of CPU a grant; %.0f grants/s with the load on the same two cores; p50 %.1f ms, p99 %.1f ms; %s, %d grants, every one answered and checked.",
			100*median(ratio), 100*share, what, cpu, median(rates(served)), millis(quantile(d, .5)), millis(quantile(d, .99)), of, len(d))
}

func measureP2(ctx context.Context, l *lab) ([]Row, error) {
	o, err := l.startOutage(ctx, scene{label: "ES256", alg: "ES256"})
	if err != nil {
		return nil, err
	}
	defer o.u.Kill()
	for i := range l.rounds {
		if err := l.round(ctx, o); err != nil {
			return nil, err
		}
		l.log.Printf("ES256, round %d: %.0f µs of CPU a grant, a signature %.1f µs (one core) and %.1f µs (two)", i+1, o.served[i].cpu, o.one[i], o.two[i])
	}
	return []Row{o.row(.45)}, nil
}
