package keys

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/session"
)

var (
	fence = Fence{"acme", "https://id.example/realms/a"}
	other = Fence{"acme", "https://id.example/realms/b"}
)

const day = 24 * time.Hour

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)} }

var testKEK = bytes.Repeat([]byte{7}, 32)

func open(t testing.TB, dir string, o Options) *Ring {
	t.Helper()
	r, err := Open(dir, testKEK, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func object(t testing.TB, s string) session.Object {
	t.Helper()
	o, err := session.ParseObject([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// claims of a token that is made now and lives for d.
func claims(t testing.TB, f Fence, now time.Time, d time.Duration) session.Object {
	return object(t, `{"iss":`+strconv.Quote(f.Issuer)+`,"sub":"ann","iat":`+strconv.FormatInt(now.Unix(), 10)+`,"exp":`+strconv.FormatInt(now.Add(d).Unix(), 10)+`}`)
}

func sign(t testing.TB, r *Ring, f Fence, class, alg string, d time.Duration) (token, kid string) {
	t.Helper()
	token, kid, err := r.Sign(f, class, object(t, `{"alg":"`+alg+`","typ":"JWT","kid":"primary-1"}`), claims(t, f, r.o.Now(), d))
	if err != nil {
		t.Fatal(err)
	}
	return token, kid
}

func ensure(t testing.TB, r *Ring, f Fence, algs ...string) {
	t.Helper()
	for _, a := range algs {
		if err := r.Ensure(f, a); err != nil {
			t.Fatal(err)
		}
	}
}

func rotate(t testing.TB, r *Ring) {
	t.Helper()
	if err := r.Rotate(context.Background(), r.o.Now()); err != nil {
		t.Fatal(err)
	}
}

// find returns the one key of a fence, class and state.
func find(t testing.TB, r *Ring, f Fence, class string, s State) Info {
	t.Helper()
	var out []Info
	for _, i := range r.List() {
		if i.Tenant == f.Tenant && i.Issuer == f.Issuer && i.Class == class && i.State == s {
			out = append(out, i)
		}
	}
	if len(out) != 1 {
		t.Fatalf("%d keys in state %s for %s, want 1: %+v", len(out), s, class, r.List())
	}
	return out[0]
}

func published(r *Ring, f Fence, kid string) bool {
	for _, k := range r.Public(f) {
		if k.KeyID == kid {
			return true
		}
	}
	return false
}

func TestLifeOfAKey(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	r := open(t, dir, Options{Now: c.now})
	ensure(t, r, fence, "ES256")
	first := find(t, r, fence, AccessToken, Current)
	if !first.Young {
		t.Error("a first key signs before verifiers can know it, and is not said to")
	}
	rotate(t, r)
	next := find(t, r, fence, AccessToken, Next)
	if next.Signer == "" || next.NotBefore.Sub(next.Published) < day || !published(r, fence, next.ID) {
		t.Errorf("next key %+v", next)
	}

	// A next key's token is no token, even one with a right signature.
	k := byID(r.of(fence), next.ID)
	early, err := r.sign(k, object(t, `{"alg":"ES256"}`), claims(t, fence, c.now(), time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Verify(fence, AccessToken, early); !errors.Is(err, ErrToken) {
		t.Errorf("a token of a next key: %v", err)
	}

	c.add(day)
	if find(t, r, fence, AccessToken, Current).Young {
		t.Error("still young after a day")
	}
	c.add(59*day - time.Second)
	rotate(t, r)
	if _, kid := sign(t, r, fence, AccessToken, "ES256", time.Minute); kid != first.ID {
		t.Error("rotated before its period was over")
	}
	long, _ := sign(t, r, fence, AccessToken, "ES256", 5*day)
	c.add(time.Second)
	rotate(t, r)
	if _, kid := sign(t, r, fence, AccessToken, "ES256", time.Minute); kid != next.ID {
		t.Errorf("signed with %s after the rotation, want %s", kid, next.ID)
	}
	old := find(t, r, fence, AccessToken, Retired)
	if old.ID != first.ID || old.Signer != "" || !published(r, fence, old.ID) {
		t.Errorf("retired key %+v", old)
	}
	if k := byID(r.of(fence), old.ID); k.private != nil || k.signer != nil {
		t.Error("a retired key keeps its private half")
	}

	// The longest token that it signed lives five days: so long it verifies, and is published.
	c.add(5*day - 2*time.Second)
	rotate(t, r)
	if _, _, err := r.Verify(fence, AccessToken, long); err != nil {
		t.Errorf("a token within its life: %v", err)
	}
	r.Close()
	r = open(t, dir, Options{Now: c.now})
	if _, _, err := r.Verify(fence, AccessToken, long); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	c.add(2 * time.Minute)
	if published(r, fence, old.ID) {
		t.Error("published after its end")
	}
	rotate(t, r)
	for _, i := range r.List() {
		if i.ID == old.ID {
			t.Error("kept after its end")
		}
	}
}

func TestWindowsHoldWhereRotationDoesNotRun(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), Options{Now: c.now})
	ensure(t, r, fence, "ES256")
	token, kid := sign(t, r, fence, AccessToken, "ES256", 380*day)
	c.add(90 * day)
	_, _, err := r.Sign(fence, AccessToken, object(t, `{"alg":"ES256"}`), claims(t, fence, c.now(), time.Minute))
	if !errors.Is(err, ErrNoKey) {
		t.Errorf("signed after the window: %v", err)
	}
	if _, _, err := r.Verify(fence, AccessToken, token); err != nil {
		t.Errorf("a token from within the window: %v", err)
	}
	// Whoever holds the key cannot make tokens that say they are from outside the window.
	k := byID(r.of(fence), kid)
	for rule, cl := range map[string]session.Object{
		"made after the window":                             claims(t, fence, c.now().Add(-time.Minute/2), time.Hour).Without("nbf"),
		"made before the window":                            claims(t, fence, k.NotBefore.Add(-2*time.Minute), 380*day),
		"without iat, ending after all that the key signed": claims(t, fence, k.NotAfter, 401*day).Without("iat"),
	} {
		if rule == "made after the window" {
			c.add(2 * time.Minute)
			cl = claims(t, fence, c.now(), time.Hour)
		}
		forged, err := r.sign(k, object(t, `{"alg":"ES256"}`), cl)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Verify(fence, AccessToken, forged); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestLateNextKeyWaitsUntilItIsKnown(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), Options{Now: c.now})
	ensure(t, r, fence, "ES256")
	first := find(t, r, fence, AccessToken, Current).ID
	c.add(70 * day) // rotation did not run
	rotate(t, r)
	c.add(day - time.Second)
	rotate(t, r)
	if _, kid := sign(t, r, fence, AccessToken, "ES256", time.Minute); kid != first {
		t.Error("a key signs that was published for less than a day, while the old one could")
	}
	c.add(time.Second)
	rotate(t, r)
	if _, kid := sign(t, r, fence, AccessToken, "ES256", time.Minute); kid == first {
		t.Error("did not rotate")
	}
}

func TestStartAfterAYearSignsAtOnce(t *testing.T) {
	for _, withNext := range []bool{true, false} {
		c := newClock()
		dir := t.TempDir()
		r := open(t, dir, Options{Now: c.now})
		ensure(t, r, fence, "ES256")
		if withNext {
			rotate(t, r)
		}
		r.Close()
		c.add(365 * day)
		r = open(t, dir, Options{Now: c.now})
		ensure(t, r, fence, "ES256")
		sign(t, r, fence, IDToken, "ES256", time.Minute)
		if young := find(t, r, fence, IDToken, Current).Young; young == withNext {
			t.Errorf("with a next key %v: young = %v", withNext, young)
		}
	}
}

func TestClockThatWasAhead(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), Options{Now: c.now})
	c.add(1000 * day)
	ensure(t, r, fence, "ES256")
	rotate(t, r)
	c.add(-1000 * day)
	rotate(t, r)
	sign(t, r, fence, AccessToken, "ES256", time.Minute)
	if n := find(t, r, fence, AccessToken, Next); n.NotBefore.After(c.now().Add(day)) {
		t.Errorf("the next key waits until %v", n.NotBefore)
	}
}

func TestRemove(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	r := open(t, dir, Options{Now: c.now})
	ensure(t, r, fence, "RS256")
	rotate(t, r)
	token, kid := sign(t, r, fence, AccessToken, "RS256", time.Hour)
	idToken, _ := sign(t, r, fence, IDToken, "RS256", time.Hour)
	next := find(t, r, fence, AccessToken, Next)
	was := r.Version()
	if err := r.Remove(fence, kid); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if published(r, fence, kid) {
			t.Errorf("%s: still published", when)
		}
		if _, _, err := r.Verify(fence, AccessToken, token); !errors.Is(err, ErrToken) {
			t.Errorf("%s: its token: %v", when, err)
		}
		if _, _, err := r.Verify(fence, IDToken, idToken); err != nil {
			t.Errorf("%s: a token of another key: %v", when, err)
		}
		if _, now := sign(t, r, fence, AccessToken, "RS256", time.Hour); now != next.ID {
			t.Errorf("%s: signs with %s, want the next, %s", when, now, next.ID)
		}
	}
	check("at once")
	if r.Version() == was {
		t.Error("the published set's version did not change")
	}
	if !find(t, r, fence, AccessToken, Current).Young {
		t.Error("a next key that took over before its time is not said to be young")
	}
	r.Close()
	r = open(t, dir, Options{Now: c.now})
	check("after a restart")
	// Without a next one, a new one is made.
	if err := r.Remove(fence, next.ID); err != nil {
		t.Fatal(err)
	}
	if _, now := sign(t, r, fence, AccessToken, "RS256", time.Hour); now == next.ID {
		t.Error("signs with a removed key")
	}
	if err := r.Remove(other, kid); err == nil {
		t.Error("removed through another fence")
	}
}

func TestRemoveHoldsWhereTheDiskFails(t *testing.T) {
	for _, state := range []State{Current, Next, Retired} {
		c := newClock()
		dir := t.TempDir()
		r := open(t, dir, Options{Now: c.now})
		ensure(t, r, fence, "ES256")
		rotate(t, r)
		token, kid := sign(t, r, fence, AccessToken, "ES256", 100*day)
		if state == Retired {
			c.add(60 * day)
			rotate(t, r)
			rotate(t, r) // nothing is left to do: only the removal remains to be written
		} else {
			kid = find(t, r, fence, AccessToken, state).ID
		}
		away := dir + ".away"
		if err := os.Rename(dir, away); err != nil {
			t.Fatal(err)
		}
		if err := r.Remove(fence, kid); err == nil || !strings.Contains(err.Error(), "restart would bring it back") {
			t.Errorf("%s: Remove on a failing disk: %v", state, err)
		}
		if _, _, err := r.Verify(fence, AccessToken, token); (err == nil) != (state == Next) || published(r, fence, kid) {
			t.Errorf("%s: a removed key counts until the disk can be written: %v", state, err)
		}
		if err := r.Rotate(context.Background(), c.now()); err == nil {
			t.Errorf("%s: rotation says nothing of a failing disk", state)
		}
		if err := os.Rename(away, dir); err != nil {
			t.Fatal(err)
		}
		rotate(t, r)
		r.Close()
		if r = open(t, dir, Options{Now: c.now}); published(r, fence, kid) {
			t.Errorf("%s: the removal was not kept when the disk was back", state)
		}
	}
}

func TestRotationThatCannotBeKeptDoesNotHappen(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	r := open(t, dir, Options{Now: c.now})
	ensure(t, r, fence, "ES256")
	rotate(t, r)
	_, kid := sign(t, r, fence, AccessToken, "ES256", time.Hour)
	c.add(61 * day)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(context.Background(), c.now()); err == nil {
		t.Error("no error")
	}
	if _, now := sign(t, r, fence, AccessToken, "ES256", time.Hour); now != kid {
		t.Error("signs with a key whose turn was not kept")
	}
	if err := r.Ensure(other, "ES256"); err == nil || len(r.Public(other)) != 0 {
		t.Errorf("published a key that was not kept: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for rule, o := range map[string]Options{
		"published for less than a day": {Ahead: day - 1},
		"period shorter than that":      {Period: day},
		"window shorter than period":    {Period: 10 * day, Window: 9 * day},
	} {
		if _, err := Open(t.TempDir(), testKEK, o); err == nil {
			t.Errorf("%s: no error", rule)
		}
	}
}

func TestRunMakesNextKeys(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	ensure(t, r, fence, "ES256")
	for len(r.Public(fence)) < 4 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	find(t, r, fence, AccessToken, Next)
	find(t, r, fence, IDToken, Next)
}

// Signing, rotating, removing and reading at the same time: every token that comes out is valid unless its key was
// removed after.
func TestConcurrentUse(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), Options{Now: c.now})
	ensure(t, r, fence, "ES256")
	rotate(t, r)
	var wg sync.WaitGroup
	var good atomic.Int64
	var inTime sync.RWMutex // held while no step of the clock may come between making claims and verifying them
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				inTime.RLock()
				token, kid, err := r.Sign(fence, AccessToken, object(t, `{"alg":"ES256"}`), claims(t, fence, c.now(), 5*day))
				if err != nil && !errors.Is(err, ErrNoKey) { // there is none between a removal and the new key
					t.Error(err)
				}
				if err == nil {
					if _, _, err := r.Verify(fence, AccessToken, token); err != nil && byID(r.of(fence), kid) != nil {
						t.Errorf("a fresh token: %v", err)
					}
					good.Add(1)
				}
				inTime.RUnlock()
				r.Public(fence)
				r.List()
			}
		})
	}
	for i := range 20 {
		inTime.Lock()
		c.add(20 * day)
		inTime.Unlock()
		rotate(t, r)
		if i%5 == 4 {
			if err := r.Remove(fence, find(t, r, fence, AccessToken, Current).ID); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if good.Load() == 0 {
		t.Error("nothing was signed")
	}
}
