package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
)

const resourceServers = 16

// measureP11 asks, in an outage, about opaque access tokens that the backup issued: resource servers by introspection, and
// applications at the UserInfo endpoint.
func measureP11(ctx context.Context, l *lab) ([]Row, error) {
	caller := func(i int) string { return basicOf(fmt.Sprintf("resource-%d", i%resourceServers)) }
	o, err := l.startOutage(ctx, scene{label: "opaque", alg: "ES256", primary: "opaque", also: func(ctx context.Context, o *outage) (int, error) {
		// Each resource server is told by the primary of one token; so it is learned to whom it says what.
		o.s.access = make([]string, len(o.s.tokens))
		one := o.s.refresh(0, byPrimary, "")
		if _, _, err := (load{addr: o.s.addr, conns: 1, most: 1, next: func(int) *call { return one }}).run(ctx, 0); err != nil {
			return 0, err
		}
		return 1 + resourceServers, inBursts(ctx, o.s.addr, 1, resourceServers, burst, o.quiet,
			pass{"introspect", 1, func(i int) *call { return o.s.introspect(0, caller(i)) }})
	}})
	if err != nil {
		return nil, err
	}
	defer o.u.Kill()
	n := len(o.s.access)
	loads := []struct {
		name   string
		load   load
		served *[]sample
	}{
		{"introspection", inTurn(o.s.addr, make([]int, outageConns), n, func(i int) *call { return o.s.introspect(i, caller(i)) }), new([]sample)},
		{"UserInfo", inTurn(o.s.addr, make([]int, outageConns), n, o.s.userInfo), new([]sample)},
	}
	for i := range l.rounds {
		for _, x := range loads {
			if err := l.serves(ctx, o, x.name, x.load, x.served); err != nil {
				return nil, fmt.Errorf("%s: %w", x.name, err)
			}
			l.log.Printf("%s, round %d: %.1f µs of CPU a request", x.name, i+1, (*x.served)[i].cpu)
		}
	}
	var rows []Row
	for _, x := range loads {
		cpu, d := median(cpus(*x.served)), all(*x.served)
		rows = append(rows, newRow(x.name+" of a backup's opaque token in an outage", 1e6/cpu, "requests per second of CPU").atLeast(8000).
			noted("%.1f µs of CPU a request; %.0f requests/s with the load on the same two cores; p50 %.1f ms, p99 %.1f ms; %d tokens, %d requests, every one answered and checked.",
				cpu, median(rates(*x.served)), millis(quantile(d, .5)), millis(quantile(d, .99)), n, len(d)))
	}
	return rows, nil
}

// introspect asks about the access token of a session.
func (s *sessions) introspect(i int, auth string) *call {
	return &call{request: post(s.host, askPath, auth, "", "token="+url.QueryEscape(s.access[i])+"&token_type_hint=access_token"), check: func(r *reply) error {
		var o struct {
			Active bool
			Sub    string
		}
		if err := decode(r.body, &o); err != nil || r.status != http.StatusOK || !o.Active {
			return fmt.Errorf("status %d: %.200s", r.status, r.body)
		}
		return s.isUser(i, o.Sub)
	}}
}

// userInfo asks whose the access token of a session is.
func (s *sessions) userInfo(i int) *call {
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nAccept: application/json\r\n\r\n", userPath, s.host, s.access[i])
	return &call{request: request, check: func(r *reply) error {
		if r.status != http.StatusOK {
			return fmt.Errorf("status %d: %.200s", r.status, r.body)
		}
		return s.isUser(i, text(r.body, "sub"))
	}}
}

// isUser says what is wrong where a reply is not about the user of a session.
func (s *sessions) isUser(i int, sub string) error {
	if want, _ := subjectOf(fmt.Sprint(i)); sub != want {
		return fmt.Errorf("the reply is about %q, not %q", sub, want)
	}
	return nil
}
