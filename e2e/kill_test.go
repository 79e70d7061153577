package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"understudy/idptest"
)

// revocationsInFlight is how many revocations are on their way in each round: half of them at the primary (RFC 7009),
// half by the operator.
const revocationsInFlight = 24

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
	k := &killer{st: st, rnd: rnd, whole: 100 * time.Millisecond}
	total := [2]int{}
	for round := range rounds {
		acknowledged := k.round(t, round)
		total[0] += revocationsInFlight
		total[1] += acknowledged
		if t.Failed() {
			break
		}
	}
	fmt.Printf("killed while revoking: seed %d, %d rounds, %d revocations sent, %d acknowledged, moments %v\n", seed, rounds, total[0], total[1], k.moments)
	if total[1] == 0 || total[1] == total[0] {
		t.Errorf("%d of %d revocations acknowledged: the kills were not among them", total[1], total[0])
	}
}

type killer struct {
	st      *site
	rnd     *rand.Rand
	whole   time.Duration // how long a round's revocations take without a kill, as last seen
	moments []time.Duration
}

// victim is a sign-in that is revoked in a round.
type victim struct {
	*person
	user         string
	operator     bool
	after        time.Duration
	acknowledged bool
}

// round returns how many revocations were acknowledged before the kill.
func (k *killer) round(t *testing.T, round int) int {
	t.Helper()
	var victims []*victim
	var load []*person
	for i := range revocationsInFlight {
		user := fmt.Sprintf("user-%d-%d", round, i)
		victims = append(victims, &victim{person: newPerson(t, k.st, "web", "web-secret", user), user: user, operator: i%2 == 1, after: time.Duration(k.rnd.Int64N(int64(10 * time.Millisecond)))})
	}
	for i := range 4 {
		load = append(load, newPerson(t, k.st, "spa", "", fmt.Sprintf("load-%d-%d", round, i)))
	}
	k.st.learned(t)

	// The first round is not killed: it shows how long the load is.
	moment := time.Duration(k.rnd.Int64N(int64(k.whole) + 1))
	if round == 0 {
		moment = time.Minute
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began := time.Now()
	var revoking, loading sync.WaitGroup
	for _, v := range victims {
		revoking.Go(func() {
			time.Sleep(v.after)
			v.acknowledged = k.revoke(ctx, v) == nil
		})
	}
	for _, p := range load {
		loading.Go(func() {
			for ctx.Err() == nil {
				if _, err := p.again(ctx); err != nil {
					return // killed
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { revoking.Wait(); close(done) }()
	select {
	case <-time.After(moment):
	case <-done:
		if round == 0 {
			k.whole = time.Since(began)
		}
	}
	k.st.u.Kill()
	k.moments = append(k.moments, time.Since(began).Round(100*time.Microsecond))
	<-done
	stop()
	loading.Wait()
	if err := k.st.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.st.approved.Store(0)

	witness := newPerson(t, k.st, "web", "web-secret", fmt.Sprintf("witness-%d", round))
	k.st.learned(t)
	d := k.st.deployment
	if err := d.fault.Set(idptest.Fault{Kind: idptest.Refuse}); err != nil {
		t.Fatal(err)
	}
	witness.until(t, true)
	n := k.refused(t, victims, "in an outage")
	if err := d.fault.Set(idptest.Fault{}); err != nil {
		t.Fatal(err)
	}
	witness.until(t, false)
	k.refused(t, victims, "in normal mode")
	return n
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
		if !v.acknowledged {
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
func (s *site) revocation() string {
	var m struct {
		Endpoint string `json:"revocation_endpoint"`
	}
	if err := s.provider.Claims(&m); err != nil {
		return ""
	}
	return m.Endpoint
}
