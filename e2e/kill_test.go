package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/idptest"
)

const (
	// victimsInARound are revoked in each round: half of them at the primary (RFC 7009), half by the operator.
	victimsInARound = 24
	// revocationsInFlight is how many must have been sent, and not be answered, when the kill comes. Those at the primary
	// are sent by four at once, again and again until the kill, and take the primary a while.
	revocationsInFlight = 20
	senders             = 4
	whileAtThePrimary   = 60 * time.Millisecond
)

// TestKilledWhileRevoking: understudy is killed at a random moment of a load of refreshes and revocations. Every
// revocation that was acknowledged before is refused afterwards, in an outage and in normal mode.
func TestKilledWhileRevoking(t *testing.T) {
	rounds := 10
	if *long {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := shared.shapes()[2]
	d := s.deployment
	d.use(t)
	u := d.understudy(t, true, fastRamp)
	st, err := s.at(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{st: st, rnd: rnd, whole: 60 * time.Millisecond, fewest: math.MaxInt}
	total := [2]int{}
	for round := range rounds {
		acknowledged := k.round(t, round)
		total[0] += victimsInARound
		total[1] += acknowledged
		if t.Failed() {
			break
		}
	}
	fmt.Printf("killed while revoking: seed %d, %d rounds, %d of %d victims acknowledged, at least %d revocations in flight at each kill, moments %v\n",
		seed, rounds, total[1], total[0], k.fewest, k.moments)
	if total[1] == 0 || total[1] == total[0] {
		t.Errorf("%d of %d revocations acknowledged: the kills were not among them", total[1], total[0])
	}
}

type killer struct {
	st      *site
	rnd     *rand.Rand
	whole   time.Duration // in which all victims are acknowledged without a kill, as last seen
	moments []time.Duration
	fewest  int // revocations in flight at a kill
}

// victim is a sign-in that is revoked in a round.
type victim struct {
	*person
	user         string
	operator     bool
	acknowledged atomic.Int64 // when first, Unix nanoseconds; 0: never
}

// flight is the revocations that have been sent and not been answered.
type flight struct {
	mu  sync.Mutex         // guards out
	out map[*int]time.Time // when each was sent
}

// follow makes a context that follows the request made with it.
func (f *flight) follow(ctx context.Context) context.Context {
	id, answered := new(int), false
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(w httptrace.WroteRequestInfo) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if w.Err == nil && !answered {
				f.out[id] = time.Now()
			}
		},
		GotFirstResponseByte: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			answered = true // this may be told before that it was sent
			delete(f.out, id)
		},
	})
}

// before is how many were sent before a time.
func (f *flight) before(at time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, sent := range f.out {
		if sent.Before(at) {
			n++
		}
	}
	return n
}

// round returns how many victims' revocations were acknowledged before the kill.
func (k *killer) round(t *testing.T, round int) int {
	t.Helper()
	// Connections are kept: what is in flight is requests, not handshakes.
	pool := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: shared.authority.Pool}, MaxIdleConnsPerHost: senders * victimsInARound}
	defer pool.CloseIdleConnections()
	var victims []*victim
	var load []*person
	for i := range victimsInARound {
		user := fmt.Sprintf("user-%d-%d", round, i)
		v := &victim{person: newPerson(t, k.st, "web", "web-secret", user), user: user, operator: i%2 == 1}
		v.via = pool
		victims = append(victims, v)
	}
	for i := range 4 {
		load = append(load, newPerson(t, k.st, "spa", "", fmt.Sprintf("load-%d-%d", round, i)))
	}
	k.st.learned(t)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f := flight{out: map[*int]time.Time{}}
	d := k.st.deployment
	err := d.fault.Set(idptest.Fault{Kind: idptest.SlowFirstByte, Delay: whileAtThePrimary, Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/revocation") }})
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	for _, p := range load {
		working.Go(func() {
			for ctx.Err() == nil {
				if _, err := p.again(ctx); err != nil {
					return // killed
				}
			}
		})
	}
	began := time.Now()
	for _, v := range victims {
		n := senders
		if v.operator {
			n = 1
		}
		for range n {
			working.Go(func() {
				for k.revoke(f.follow(ctx), v) == nil {
					v.acknowledged.CompareAndSwap(0, time.Now().UnixNano())
				}
			})
		}
	}
	enough := func() { // and some that are answered before the signal arrives
		for end := time.Now().Add(30 * time.Second); f.before(time.Now()) < revocationsInFlight+16; time.Sleep(50 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatal("there are never enough revocations in flight")
			}
		}
	}
	enough()
	time.Sleep(time.Duration(k.rnd.Int64N(int64(k.whole) + 1)))
	enough()
	killed := time.Now()
	k.st.u.Kill()
	n := f.before(killed)
	k.moments = append(k.moments, killed.Sub(began).Round(100*time.Microsecond))
	stop()
	working.Wait()
	if k.fewest = min(k.fewest, n); n < revocationsInFlight {
		t.Errorf("round %d: %d revocations were in flight at the kill, want %d or more", round, n, revocationsInFlight)
	}
	k.adapt(victims, began)
	if err := d.fault.Set(idptest.Fault{}); err != nil {
		t.Fatal(err)
	}
	if err := k.st.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.st.approved.Store(0)

	witness := newPerson(t, k.st, "web", "web-secret", fmt.Sprintf("witness-%d", round))
	k.st.learned(t)
	if err := d.fault.Set(idptest.Fault{Kind: idptest.Refuse}); err != nil {
		t.Fatal(err)
	}
	witness.until(t, true)
	n = k.refused(t, victims, "in an outage")
	if err := d.fault.Set(idptest.Fault{}); err != nil {
		t.Fatal(err)
	}
	witness.until(t, false)
	k.refused(t, victims, "in normal mode")
	return n
}

// adapt makes the next round's moments lie where victims are acknowledged: this machine's pace is not known before.
func (k *killer) adapt(victims []*victim, began time.Time) {
	var last time.Duration
	for _, v := range victims {
		at := v.acknowledged.Load()
		if at == 0 {
			k.whole = k.whole * 5 / 4 // too short to see all
			return
		}
		last = max(last, time.Unix(0, at).Sub(began))
	}
	k.whole = last
}

// revoke ends a victim's sign-in. Without an error it is acknowledged.
func (k *killer) revoke(ctx context.Context, v *victim) error {
	if v.operator {
		return revoke(ctx, k.st.u, v.user)
	}
	r, err := v.post(ctx, k.st.revocation(), url.Values{"token": {v.refresh}, "token_type_hint": {"refresh_token"}})
	if err != nil {
		return err
	}
	if r.status != http.StatusOK {
		return fmt.Errorf("status %d", r.status)
	}
	return nil
}

// refused checks that no acknowledged victim gets a token, and returns how many there are.
func (k *killer) refused(t *testing.T, victims []*victim, when string) int {
	t.Helper()
	n := 0
	for i, v := range victims {
		if v.acknowledged.Load() == 0 {
			continue
		}
		n++
		r, err := v.present(t.Context(), v.refresh)
		if err != nil {
			t.Fatal(err)
		}
		if r.status != http.StatusBadRequest || r.body.Text("error") != "invalid_grant" || r.body.Has("access_token") {
			t.Errorf("%s: victim %d (by the operator: %v), whose revocation was acknowledged: status %d: %.200s", when, i, v.operator, r.status, r.raw)
		}
	}
	return n
}

// revocation is the URL of a site's revocation endpoint (RFC 7009).
func (s *site) revocation() string { return s.endpoint("revocation_endpoint") }

// endpoint is a URL in a site's metadata.
func (s *site) endpoint(member string) string {
	var m map[string]any
	if err := s.provider.Claims(&m); err != nil {
		return ""
	}
	u, _ := m[member].(string)
	return u
}
