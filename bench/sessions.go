package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// sessions are signed-in sessions of one confidential client (client_secret_basic), each with the refresh token that it
// holds. Each belongs to one connection, so that no token is used twice at a time.
type sessions struct {
	addr, host string // where to send, and the host name to name
	path       string // of the token endpoint
	tokens     []string
	access     []string // the access tokens that came last, where they are wanted; else nil
	opaque     bool     // access tokens are no JWTs
	turn       []int    // of each connection
	keys       *jose.JSONWebKeySet
	replies    atomic.Int64
}

// check says what a token reply must be.
type check struct {
	status int
	kid    string // prefix of the ID token's kid; "!bk-": any other; "": any
	adopt  bool   // the session goes on with the refresh token of the reply
	// accessOnly: there is no ID token, and the access token is judged in its place.
	accessOnly bool
}

var (
	byBackup  = check{status: 200, kid: "bk-"}
	byPrimary = check{status: 200, kid: "!bk-", adopt: true}
)

// of says what is wrong with a reply.
func (c check) of(s *sessions, status int, body []byte) error {
	if status != c.status {
		return fmt.Errorf("status %d, not %d: %.200s", status, c.status, body)
	}
	judged, signed := "id_token", []string{"id_token", "access_token"}
	switch {
	case c.accessOnly:
		judged, signed = "access_token", signed[1:]
	case s.opaque:
		signed = signed[:1]
	}
	token := text(body, judged)
	if token == "" {
		return fmt.Errorf("no %s in the reply", judged)
	}
	kid := keyOf(token)
	if not, ok := strings.CutPrefix(c.kid, "!"); kid == "" || ok && strings.HasPrefix(kid, not) || !ok && !strings.HasPrefix(kid, c.kid) {
		return fmt.Errorf("the %s is signed with the key %q, not with %q", judged, kid, c.kid)
	}
	if t := text(body, "access_token"); s.opaque && (t == "" || keyOf(t) != "") {
		return errors.New("the access token is not opaque")
	}
	// Every signature would cost the machine more than it serves: the first and every 256th are verified.
	if s.keys != nil && s.replies.Add(1)%256 == 1 {
		for _, name := range signed {
			if err := verified(text(body, name), s.keys); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func verified(token string, set *jose.JSONWebKeySet) error {
	j, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return err
	}
	for _, k := range set.Key(keyOf(token)) {
		if _, err := j.Verify(k.Key); err == nil {
			return nil
		}
	}
	return errors.New("no published key verifies it")
}

// burst is how many exchanges go through understudy at a stretch where all must be learned: it keeps 4096 for learning
// and drops, and counts, what comes beyond.
const burst = 3000

// signIn makes n sessions at the bench's own primary, through addr, and refreshes every second one: real populations
// hold both kinds. It calls pause after every burst.
func signIn(ctx context.Context, addr, host string, n, conns int, pause func() error) (*sessions, error) {
	s := &sessions{addr: addr, host: host, path: tokenPath, tokens: make([]string, n), turn: make([]int, conns)}
	// Clients ask for the metadata first.
	if err := s.fetch(ctx, wellKnown, &struct{}{}); err != nil {
		return nil, err
	}
	code := func(i int) *call {
		form := fmt.Sprintf("grant_type=authorization_code&code=%d&redirect_uri=x", i)
		return &call{request: post(host, s.path, basic, "", form), check: func(r *reply) error {
			s.tokens[i] = text(r.body, "refresh_token")
			return byPrimary.of(s, r.status, r.body)
		}}
	}
	again := func(i int) *call { return s.refresh(i, byPrimary, "") }
	return s, inBursts(ctx, addr, conns, n, burst, pause, pass{"sign in", 1, code}, pass{"refresh for the first time", 2, again})
}

// pass is what is done once with every so manyth of some numbers.
type pass struct {
	what string
	step int
	call func(int) *call
}

// inBursts runs passes with the numbers below n, and calls pause after every so many calls.
func inBursts(ctx context.Context, addr string, conns, n int, most int64, pause func() error, passes ...pass) error {
	for _, p := range passes {
		var next atomic.Int64
		for int(next.Load())*p.step < n {
			l := load{addr: addr, conns: conns, most: most, next: func(int) *call {
				i := int(next.Add(1)-1) * p.step
				if i >= n {
					return nil
				}
				return p.call(i)
			}}
			if _, _, err := l.run(ctx, 0); err != nil {
				return fmt.Errorf("%s: %w", p.what, err)
			}
			if err := pause(); err != nil {
				return err
			}
		}
	}
	return nil
}

// refresh is a refresh grant of one session.
func (s *sessions) refresh(i int, want check, headers string) *call {
	form := "grant_type=refresh_token&refresh_token=" + url.QueryEscape(s.tokens[i])
	return &call{request: post(s.host, s.path, basic, headers, form), check: func(r *reply) error {
		if want.adopt {
			s.tokens[i] = or(text(r.body, "refresh_token"), s.tokens[i])
		}
		if s.access != nil {
			s.access[i] = text(r.body, "access_token")
		}
		return want.of(s, r.status, r.body)
	}}
}

// load refreshes the sessions in turn.
func (s *sessions) load(want check, headers string) load {
	return inTurn(s.addr, s.turn, len(s.tokens), func(i int) *call { return s.refresh(i, want, headers) })
}

// inTurn makes calls with the numbers below n in turn; each number belongs to one connection.
func inTurn(addr string, turn []int, n int, make func(int) *call) load {
	return load{addr: addr, conns: len(turn), next: func(w int) *call {
		i := w + turn[w]*len(turn)
		if turn[w]++; i >= n {
			i, turn[w] = w, 1
		}
		return make(i)
	}}
}

// once refreshes every session once, which shows that each is there.
func (s *sessions) once(ctx context.Context, want check) error {
	clear(s.turn)
	l := s.load(want, "")
	next := l.next
	l.next = func(w int) *call {
		if w+s.turn[w]*len(s.turn) >= len(s.tokens) {
			return nil
		}
		return next(w)
	}
	_, _, err := l.run(ctx, 0)
	return err
}

// keySet fetches the key set that clients see.
func (s *sessions) keySet(ctx context.Context, path string) error {
	s.keys = new(jose.JSONWebKeySet)
	return s.fetch(ctx, path, s.keys)
}

func (s *sessions) fetch(ctx context.Context, path string, into any) error {
	w, err := dial(ctx, s.addr)
	if err != nil {
		return err
	}
	defer w.c.Close()
	r, err := w.do(get(s.host, path))
	if err != nil {
		return fmt.Errorf("fetch %s: %w", path, err)
	}
	if r.status != 200 {
		return fmt.Errorf("fetch %s: status %d", path, r.status)
	}
	if err := decode(r.body, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// sample is one round of load on one server.
type sample struct {
	n    int
	cpu  float64 // µs of the server's CPU a request, all its threads
	rate float64 // requests a second of wall time
	took []time.Duration
}

// measure loads for d and reads the CPU time of the server. Where settle is not 0, it loads in bursts and waits after
// each for what goes on behind the replies, so long at most.
func measure(ctx context.Context, l load, d, settle time.Duration, pid int) (sample, error) {
	before, err := cpuOf(pid)
	if err != nil {
		return sample{}, err
	}
	if settle > 0 {
		l.most = burst
	}
	var s sample
	var loaded time.Duration
	for loaded < d {
		began := time.Now()
		n, took, err := l.run(ctx, d-loaded)
		loaded += time.Since(began)
		if err != nil {
			return sample{}, err
		}
		s.n, s.took = s.n+n, append(s.took, took...)
		if settle > 0 {
			if err := quiet(pid, settle); err != nil {
				return sample{}, err
			}
		}
	}
	after, err := cpuOf(pid)
	if err != nil {
		return sample{}, err
	}
	s.cpu, s.rate = micros(after-before, s.n), float64(s.n)/loaded.Seconds()
	return s, nil
}

func cpus(ss []sample) (v []float64) {
	for _, s := range ss {
		v = append(v, s.cpu)
	}
	return v
}

func rates(ss []sample) (v []float64) {
	for _, s := range ss {
		v = append(v, s.rate)
	}
	return v
}

func all(ss []sample) (ds []time.Duration) {
	for _, s := range ss {
		ds = append(ds, s.took...)
	}
	return ds
}
