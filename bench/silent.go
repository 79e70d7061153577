package main

import (
	"context"
)

// measureP9 lets browsers in again in an outage, and refreshes sessions of the same understudy in turn with that.
func measureP9(ctx context.Context, l *lab) ([]Row, error) {
	people, silent := map[*outage]*browsers{}, map[*outage]*[]sample{}
	outages, kill, err := l.bothRSA(ctx, scene{also: func(ctx context.Context, o *outage) (int, error) {
		b, err := o.s.signInBrowsers(ctx, l.sessions, o.quiet)
		people[o], silent[o] = b, new([]sample)
		return 2 * (l.sessions + (l.sessions+1)/2), err
	}})
	defer kill()
	if err != nil {
		return nil, err
	}
	for i := range l.rounds {
		for _, o := range outages {
			people[o].keys = o.s.keys
			if err := l.limited(o, func() error {
				if err := l.serves(ctx, o, "refresh", o.s.load(byBackup, ""), &o.served); err != nil {
					return err
				}
				return l.serves(ctx, o, "silent", people[o].load(byBackup), silent[o])
			}); err != nil {
				return nil, err
			}
			l.log.Printf("%s, round %d: %.0f µs of CPU a silent sign-in, %.0f µs a refresh grant, a signature %.0f µs (two cores)", o.label, i+1, (*silent[o])[i].cpu, o.served[i].cpu, o.two[i])
		}
	}
	const most = 1.5
	var rows []Row
	for _, o := range outages {
		ours := *silent[o]
		cpu, grant, ratio, d := median(cpus(ours)), median(cpus(o.served)), median(ratios(ours, o.served)), all(ours)
		rows = append(rows, newRow("silent authorization and code redemption in an outage, "+o.label, cpu, "µs of CPU a pair").
			limited(round(2*median(o.two))).judged("<=", most*grant, ratio <= most).beside("a refresh grant", grant).
			noted("%.2f times the refresh grant of P1 (median of the rounds' ratios, which is what is judged; the bar is %.1f times), which the same process answers in the same rounds. The limit is the CPU of two signatures. %.0f pairs/s with the load on the same two cores; p50 %.1f ms, p99 %.1f ms a pair; %d browsers, %d pairs, every one answered and checked.",
				ratio, most, median(rates(ours)), millis(quantile(d, .5)), millis(quantile(d, .99)), len(people[o].jars), len(d)))
	}
	return rows, nil
}
