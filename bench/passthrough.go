package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"understudy/idptest"
)

const (
	passConns    = 32
	passSessions = 2048
)

// passing is a healthy primary with understudy and a bare proxy in front of it, side by side.
type passing struct {
	l       *lab
	primary *server
	proxy   *server
	rare    *server // the same proxy, with garbage collected as rarely as by understudy
	u       *idptest.Understudy
	ours    *sessions // through understudy
	bare    *sessions // through the proxy
	rarely  *sessions // through the other
}

// How much the heap grows between two collections, in percent: as Go has it, and as understudy has it.
const (
	goGrowth   = 100
	rareGrowth = 400
)

func (l *lab) startPassing(ctx context.Context, env ...string) (p *passing, err error) {
	p = &passing{l: l}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	if p.primary, err = l.serve(ctx, "primary", "RS256", "canned"); err != nil {
		return p, err
	}
	if p.proxy, err = l.serve(ctx, "proxy", p.primary.url(), goGrowth); err != nil {
		return p, err
	}
	if p.rare, err = l.serve(ctx, "proxy", p.primary.url(), rareGrowth); err != nil {
		return p, err
	}
	if p.u, err = l.startUnderstudy(ctx, p.primary.url(), env...); err != nil {
		return p, err
	}
	addr := strings.TrimPrefix(p.u.URL(), "http://")
	n := passSessions
	if l.quick {
		n = 2 * passConns
	}
	if p.ours, err = signIn(ctx, addr, addr, n, passConns, func() error { return quiet(p.u.PID(), settle) }); err != nil {
		return p, err
	}
	if p.bare, err = signIn(ctx, p.proxy.addr(), p.proxy.addr(), n, passConns, func() error { return nil }); err != nil {
		return p, err
	}
	if p.rarely, err = signIn(ctx, p.rare.addr(), p.rare.addr(), n, passConns, func() error { return nil }); err != nil {
		return p, err
	}
	return p, nil
}

func (p *passing) stop() {
	if p.u != nil {
		p.u.Kill()
	}
	for _, proxy := range []*server{p.proxy, p.rare} {
		if proxy != nil {
			proxy.Kill()
		}
	}
	if p.primary != nil {
		p.primary.Kill()
	}
}

// page loads the page of 2 KB through a server.
func page(addr string) load {
	request := get(addr, pagePath)
	c := &call{request: request, check: sized(pageSize)}
	return load{addr: addr, conns: passConns, next: func(int) *call { return c }}
}

// sized wants a reply of so many bytes.
func sized(n int) func(*reply) error {
	return func(r *reply) error {
		if r.status != 200 || len(r.body) != n {
			return fmt.Errorf("status %d and %d bytes for a page of %d", r.status, len(r.body), n)
		}
		return nil
	}
}

// unlearned asks for the same reply as a refresh, with a status that is not learned.
func (s *sessions) unlearned() load {
	return s.load(check{status: 201, kid: "!bk-"}, "X-Request-Id: "+unlearnedID+"\r\n")
}

// settle is how long what goes on behind the replies may take at most.
const settle = 30 * time.Second

// learned shows at the end, with the primary dead, that what was measured was learned: the backup must answer for every
// session with the refresh token that it got last.
func (p *passing) learned(ctx context.Context) error {
	if _, err := p.l.learnedAll(ctx, p.u); err != nil {
		return err
	}
	p.primary.Kill()
	if err := p.ours.keySet(ctx, certsPath); err != nil {
		return err
	}
	if err := p.ours.once(ctx, byBackup); err != nil {
		return fmt.Errorf("what was measured was not learned: %w\n%s", err, refusals(p.u.Dir))
	}
	return nil
}

// interleave runs the loads in turn, the whole row of them in each round, and returns the samples of each.
func (p *passing) interleave(ctx context.Context, what ...passed) ([][]sample, error) {
	out := make([][]sample, len(what))
	for round := range p.l.rounds + 1 {
		for i, w := range what {
			err := error(nil)
			do := func() error {
				s, err := measure(ctx, w.load, p.l.duration, w.settle, w.pid)
				if round > 0 { // the first round warms up
					out[i] = append(out[i], s)
				}
				return err
			}
			if w.pid == p.u.PID() && round > 0 {
				err = p.l.profiled(p.u, w.name, do)
			} else {
				err = do()
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", w.name, err), errors.New(p.u.Log()))
			}
			if round > 0 {
				p.l.log.Printf("%s, round %d: %.1f µs of CPU a request", w.name, round, out[i][round-1].cpu)
			}
		}
	}
	return out, nil
}

// passed is one load of a row.
type passed struct {
	name   string
	load   load
	pid    int
	settle time.Duration
}

func ratios(a, b []sample) (v []float64) {
	for i := range a {
		v = append(v, a[i].cpu/b[i].cpu)
	}
	return v
}

func measureP3(ctx context.Context, l *lab) ([]Row, error) {
	p, err := l.startPassing(ctx)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	ss, err := p.interleave(ctx,
		passed{"page-bare", page(p.proxy.addr()), p.proxy.PID(), 0},
		passed{"page-understudy", page(p.ours.addr), p.u.PID(), 0},
		passed{"page-rare", page(p.rare.addr()), p.rare.PID(), 0},
		passed{"token-bare", p.bare.load(byPrimary, ""), p.proxy.PID(), 0},
		passed{"token-understudy", p.ours.load(byPrimary, ""), p.u.PID(), settle},
		passed{"token-rare", p.rarely.load(byPrimary, ""), p.rare.PID(), 0},
	)
	if err != nil {
		return nil, err
	}
	if err := p.learned(ctx); err != nil {
		return nil, err
	}
	learned := p.row("a learned token response", ss[4], ss[3], ss[5], 2.5)
	learned.Note += " A refresh grant of a confidential client with a new refresh token; parsing, sealing, writing and the shadow exercise (5 %, two RS256 signatures each) are included. Everything was learned: with the primary dead the backup answered for every session."
	return []Row{p.row("a page of 2 KB, passed through", ss[1], ss[0], ss[2], 1.15), learned}, nil
}

// row compares understudy with the bare proxy, by which it is judged, and with the one that collects garbage as rarely as understudy.
func (p *passing) row(name string, ours, bare, rare []sample, bar float64) Row {
	r, o, b := median(ratios(ours, bare)), median(cpus(ours)), median(cpus(bare))
	return newRow(name, o, "µs of CPU a request").judged("<=", bar*b, r <= bar).
		beside("bare httputil.ReverseProxy", b).beside("the same with GOGC=400, as understudy has it", median(cpus(rare))).
		noted("%.2f times the bare proxy (median of the rounds' ratios, which is what is judged; the bar is %.2f times), and %.2f times one that collects garbage as rarely as understudy does. %d connections.",
			r, bar, median(ratios(ours, rare)), passConns)
}

// learnRow is the second half of P6: what is left when the CPU of the same exchange that is not learned is taken away.
// The shadow exercise, which takes up learned replies only, is off: it is no part of learning, and P3 has it on.
func learnRow(ctx context.Context, l *lab) (Row, error) {
	p, err := l.startPassing(ctx, "UNDERSTUDY_TENANTS_0_SHADOW_PERCENT=0")
	if err != nil {
		return Row{}, err
	}
	defer p.stop()
	ss, err := p.interleave(ctx,
		passed{"token-not-learned", p.ours.unlearned(), p.u.PID(), settle},
		passed{"token-learned", p.ours.load(byPrimary, ""), p.u.PID(), settle},
	)
	if err != nil {
		return Row{}, err
	}
	st, err := l.status(ctx, p.u)
	if err != nil {
		return Row{}, err
	}
	if len(st.Tenants[0].Shadow) > 0 {
		return Row{}, errors.New("the shadow exercise is on")
	}
	if err := p.learned(ctx); err != nil {
		return Row{}, err
	}
	var diff []float64
	for i := range ss[0] {
		diff = append(diff, ss[1][i].cpu-ss[0][i].cpu)
	}
	return newRow("learning one token response, sealing and writing included", median(diff), "µs of CPU").atMost(90).
		noted("Understudy's CPU for a learned refresh grant (%.1f µs) less that for the same exchange whose reply it must not learn (the status is 201 and all else equal; %.1f µs): median of the rounds' differences. The shadow exercise is off here, and on in P3.", median(cpus(ss[1])), median(cpus(ss[0]))), nil
}
