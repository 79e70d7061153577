package main

import (
	"context"
	"encoding/base64"
	"fmt"
)

// services are clients that ask for themselves, each with a secret of its own.
type services struct {
	*sessions
	ids []string
}

const serviceClients = 64

// basicOf is how a client of the bench's own primary authenticates.
func basicOf(id string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+id+"-secret"))
}

// ask is a client_credentials grant of one client.
func (s *services) ask(i int, want check) *call {
	want.accessOnly = true
	return &call{request: post(s.host, s.path, basicOf(s.ids[i]), "", "grant_type=client_credentials&scope=email+profile"), check: func(r *reply) error {
		return want.of(s.sessions, r.status, r.body)
	}}
}

func (s *services) load(want check) load {
	return inTurn(s.addr, s.turn, len(s.ids), func(i int) *call { return s.ask(i, want) })
}

// measureP10 answers clients that ask for themselves in an outage.
func measureP10(ctx context.Context, l *lab) ([]Row, error) {
	clients, served := map[*outage]*services{}, map[*outage]*[]sample{}
	outages, kill, err := l.bothRSA(ctx, scene{sessions: 2 * outageConns, also: func(ctx context.Context, o *outage) (int, error) {
		s := &services{sessions: &sessions{addr: o.s.addr, host: o.s.host, path: o.s.path, turn: make([]int, outageConns)}}
		for i := range serviceClients {
			s.ids = append(s.ids, fmt.Sprintf("service-%d", i))
		}
		clients[o], served[o] = s, new([]sample)
		return len(s.ids), inBursts(ctx, s.addr, outageConns, len(s.ids), burst, o.quiet, pass{"ask as a service", 1, func(i int) *call { return s.ask(i, byPrimary) }})
	}})
	defer kill()
	if err != nil {
		return nil, err
	}
	for i := range l.rounds {
		for _, o := range outages {
			clients[o].keys = o.s.keys
			if err := l.limited(o, func() error { return l.serves(ctx, o, "service", clients[o].load(byBackup), served[o]) }); err != nil {
				return nil, err
			}
			l.log.Printf("%s, round %d: %.0f µs of CPU a grant, a signature %.0f µs (one core) and %.0f µs (two)", o.label, i+1, (*served[o])[i].cpu, o.one[i], o.two[i])
		}
	}
	var rows []Row
	for i, o := range outages {
		share := []float64{.85, .70}[i]
		rows = append(rows, o.share("client_credentials grants in an outage, "+o.label, share, *served[o], 1,
			fmt.Sprintf("%d clients with a secret each", len(clients[o].ids))))
	}
	return rows, nil
}
