package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

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

var allAlgs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func TestEveryAlgorithmSignsAndVerifies(t *testing.T) {
	for _, goRSA := range []bool{false, true} {
		dir := t.TempDir()
		r := open(t, dir, Options{GoRSA: goRSA})
		for _, alg := range allAlgs {
			if err := r.Ensure(fence, alg, AccessToken); err != nil {
				t.Fatal(err)
			}
			token, kid := sign(t, r, fence, AccessToken, alg, time.Minute)
			// Another implementation accepts it against the published set.
			jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			set := jose.JSONWebKeySet{Keys: r.Public(fence)}
			if _, err := jws.Verify(set.Key(kid)[0]); err != nil {
				t.Errorf("%s, Go's RSA %v: %v", alg, goRSA, err)
			}
			got, by, err := r.Verify(fence, AccessToken, token)
			if err != nil || by != kid || got.Text("sub") != "ann" {
				t.Errorf("%s: Verify = %v, %s, %v", alg, got, by, err)
			}
			if !strings.HasPrefix(kid, "bk-") {
				t.Errorf("kid %s", kid)
			}
		}
	}
}

func TestHeaderKeepsItsMembersButTheKeys(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "ES256")
	for in, want := range map[string]string{
		`{"alg":"ES256","typ" : "JWT","kid" : "x","z":{"a":1}}`:                                         `{"alg":"ES256","typ":"JWT","kid":"KID","z":{"a":1}}`,
		`{"typ":"JWT","alg":"ES256"}`:                                                                   `{"typ":"JWT","alg":"ES256","kid":"KID"}`,
		`{"x5t":"a","alg":"ES256","x5t#S256":"b","jku":"c","jwk":{},"x5u":"d","x5c":["e"],"kid":"old"}`: `{"alg":"ES256","kid":"KID"}`,
	} {
		token, kid, err := r.Sign(fence, IDToken, object(t, in), claims(t, fence, time.Now(), time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		h, _, _ := strings.Cut(token, ".")
		got, err := base64.RawURLEncoding.DecodeString(h)
		if err != nil || string(got) != strings.ReplaceAll(want, "KID", kid) {
			t.Errorf("%s became %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestWhatNoKeySigns(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "ES256")
	now := time.Now()
	good, head := claims(t, fence, now, time.Minute), `{"alg":"ES256"}`
	with := func(name, value string) session.Object {
		c := good.Clone()
		c.Set(name, []byte(value))
		return c
	}
	if _, _, err := r.Sign(fence, AccessToken, object(t, head), good); err != nil {
		t.Fatal(err)
	}
	for rule, c := range map[string]struct {
		f      Fence
		class  string
		header string
		claims session.Object
	}{
		"another issuer's claims":           {fence, AccessToken, head, claims(t, other, now, time.Minute)},
		"claims of an issuer with no keys":  {other, AccessToken, head, claims(t, other, now, time.Minute)},
		"another tenant":                    {Fence{"evil", fence.Issuer}, AccessToken, head, good},
		"no issuer":                         {Fence{"acme", ""}, AccessToken, head, good.Without("iss")},
		"an unknown class":                  {fence, "logout_token", head, good},
		"an algorithm without a key":        {fence, AccessToken, `{"alg":"RS256"}`, good},
		"alg none":                          {fence, AccessToken, `{"alg":"none"}`, good},
		"alg HS256":                         {fence, AccessToken, `{"alg":"HS256"}`, good},
		"no alg":                            {fence, AccessToken, `{}`, good},
		"crit":                              {fence, AccessToken, `{"alg":"ES256","crit":["exp"]}`, good},
		"an unencoded payload":              {fence, AccessToken, `{"alg":"ES256","b64":false}`, good},
		"an ID token as access token":       {fence, AccessToken, head, with("typ", `"ID"`)},
		"an access token as ID token":       {fence, IDToken, head, with("typ", `"Bearer"`)},
		"an RFC 9068 token as ID token":     {fence, IDToken, `{"alg":"ES256","typ":"application/AT+jwt"}`, good},
		"a refresh token":                   {fence, AccessToken, head, with("typ", `"Refresh"`)},
		"a logout token by its type":        {fence, IDToken, `{"alg":"ES256","typ":"logout+jwt"}`, good},
		"a security event by its claims":    {fence, IDToken, head, with("events", `{}`)},
		"no end":                            {fence, AccessToken, head, good.Without("exp")},
		"an end in the past":                {fence, AccessToken, head, claims(t, fence, now, -time.Second)},
		"an end that is no whole number":    {fence, AccessToken, head, with("exp", "1e99")},
		"an end centuries away":             {fence, AccessToken, head, claims(t, fence, now, 200*365*day)},
		"an end beyond the range of a time": {fence, AccessToken, head, with("exp", "9223372036854775807")},
	} {
		token, _, err := r.Sign(c.f, c.class, object(t, c.header), c.claims)
		if !errors.Is(err, ErrNoKey) || token != "" {
			t.Errorf("%s: %q, %v", rule, token, err)
		}
	}
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

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	if _, err := Open(dir, testKEK, Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
	r.Close()
	open(t, dir, Options{})
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	ensure(t, r, fence, "RS256", "ES256")
	der, err := x509.MarshalPKCS8PrivateKey(r.of(fence)[0].private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(r.of(fence)[0].public)
	if err != nil {
		t.Fatal(err)
	}
	path := r.path(fence)
	r.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	for i := 0; i+12 <= len(der); i++ {
		if bytes.Contains(good, der[i:i+12]) {
			t.Fatal("a piece of a private key is in the file in the clear")
		}
	}

	wrong := bytes.Repeat([]byte{8}, 32)
	if _, err := Open(dir, wrong, Options{}); err == nil || !strings.Contains(err.Error(), "give the key that it was made with") {
		t.Errorf("wrong key-encryption key: %v", err)
	}
	if _, err := Open(dir, wrong[:16], Options{}); err == nil {
		t.Error("a short key-encryption key is taken")
	}
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	// Contents that the right key sealed, but that are wrong.
	sealed := func(change func(*keyFile)) []byte {
		t.Helper()
		plain, err := r.unseal(filepath.Base(path), good)
		if err != nil {
			t.Fatal(err)
		}
		var kf keyFile
		if err := json.Unmarshal(plain, &kf); err != nil {
			t.Fatal(err)
		}
		change(&kf)
		plain, err = json.Marshal(kf)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.seal(filepath.Base(path), plain)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	garbage, err := r.seal(filepath.Base(path), append([]byte(`{"Keys":[{"ID":`), der...))
	if err != nil {
		t.Fatal(err)
	}
	for rule, b := range map[string][]byte{
		"empty":                           {},
		"cut":                             good[:len(magic)+10],
		"a bit of the nonce":              flip(len(magic)),
		"a bit of the content":            flip(len(good) - 40),
		"another version":                 []byte(strings.Replace(string(good), "keys-2", "keys-3", 1)),
		"no JSON":                         garbage,
		"a cut key":                       sealed(func(k *keyFile) { k.Keys[0].PKCS8 = k.Keys[0].PKCS8[:500] }),
		"a key under a wrong id":          sealed(func(k *keyFile) { k.Keys[0].ID = k.Keys[1].ID }),
		"a wrong algorithm":               sealed(func(k *keyFile) { k.Keys[0].Alg = "ES256" }),
		"an unknown state":                sealed(func(k *keyFile) { k.Keys[0].State = "x" }),
		"retired, without a key":          sealed(func(k *keyFile) { k.Keys[0].State = Retired }),
		"another issuer":                  sealed(func(k *keyFile) { k.Issuer = other.Issuer }),
		"retired, public key is not PKIX": sealed(func(k *keyFile) { k.Keys[0].State, k.Keys[0].PKIX = Retired, k.Keys[0].PKCS8 }),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, testKEK, Options{})
		if err == nil {
			t.Errorf("%s: opened", rule)
			continue
		}
		for i := 0; i+6 <= len(der); i++ {
			if bytes.Contains([]byte(err.Error()), der[i:i+6]) && !bytes.Contains(pub, der[i:i+6]) {
				t.Fatalf("%s: the error quotes a private key", rule)
			}
			if i+12 <= len(der) && strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(der[i : i+12])[:12]) {
				t.Fatalf("%s: the error quotes a private key", rule)
			}
		}
	}

	// A file under another fence's name does not open either.
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, r.path(other)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, testKEK, Options{}); err == nil {
		t.Error("a renamed file opened")
	}
	if err := os.Rename(r.path(other), path); err != nil {
		t.Fatal(err)
	}
	// What a kill during a write left behind goes.
	left := filepath.Join(dir, "."+filepath.Base(path)+"123")
	if err := os.WriteFile(left, good, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished file stays: %v", err)
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

func TestHardenProcess(t *testing.T) {
	if os.Getenv("UNDERSTUDY_HARDEN") != "" {
		if err := HardenProcess(); err != nil {
			t.Fatal(err)
		}
		limits, err := os.ReadFile("/proc/self/limits")
		if err != nil {
			t.Fatal(err) // a process that is not dumpable may read its own
		}
		os.Stdout.Write(limits)
		st, err := os.Stat("/proc/self/mem") // root's, whoever runs, where the process is not dumpable
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("mem: " + st.Mode().String() + "\n")
		d, err := dumpable()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("dumpable: " + strconv.Itoa(d) + "\n")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHardenProcess$")
	cmd.Env = append(os.Environ(), "UNDERSTUDY_HARDEN=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var core []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Max core file size") {
			core = strings.Fields(line)
		}
	}
	if len(core) < 6 || core[4] != "0" || core[5] != "0" {
		t.Errorf("core limit: %v", core)
	}
	if !strings.Contains(string(out), "dumpable: 0\n") {
		t.Errorf("dumpable:\n%s", out)
	}
}

func TestVerifyRefuses(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "RS256", "ES256")
	ensure(t, r, other, "RS256")
	access, kid := sign(t, r, fence, AccessToken, "RS256", time.Hour)
	id, _ := sign(t, r, fence, IDToken, "RS256", time.Hour)
	foreign, _ := sign(t, r, other, AccessToken, "RS256", time.Hour)
	now := time.Now()
	enc := base64.RawURLEncoding
	k := byID(r.of(fence), kid)
	// by signs anything with the fence's own key: what an attacker with a signing oracle would try.
	by := func(header string, c session.Object) string {
		sc := &scratch{out: []byte(enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString(c.Append(nil)))}
		sig, err := k.signature(sc)
		if err != nil {
			t.Fatal(err)
		}
		return string(sc.out) + "." + enc.EncodeToString(sig)
	}
	own := `{"alg":"RS256","kid":"` + kid + `"}`
	good := claims(t, fence, now, time.Hour)
	with := func(name, value string) session.Object {
		c := good.Clone()
		c.Set(name, []byte(value))
		return c
	}
	if _, _, err := r.Verify(fence, AccessToken, by(own, good)); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(access, ".")
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	strange, err := (&Key{signer: stranger, method: k.method}).signature(&scratch{out: []byte(parts[0] + "." + parts[1])})
	if err != nil {
		t.Fatal(err)
	}
	for rule, c := range map[string]struct {
		f            Fence
		class, token string
	}{
		"an ID token as access token":        {fence, AccessToken, id},
		"an access token as ID token":        {fence, IDToken, access},
		"another issuer's token":             {fence, AccessToken, foreign},
		"a token at another issuer":          {other, AccessToken, access},
		"a token at another tenant":          {Fence{"evil", fence.Issuer}, AccessToken, access},
		"an unknown class":                   {fence, "", access},
		"alg of the header":                  {fence, AccessToken, by(`{"alg":"PS256","kid":"`+kid+`"}`, good)},
		"alg none":                           {fence, AccessToken, enc.EncodeToString([]byte(`{"alg":"none","kid":"`+kid+`"}`)) + "." + parts[1] + "."},
		"HMAC under the public key's name":   {fence, AccessToken, by(`{"alg":"HS256","kid":"`+kid+`"}`, good)},
		"no kid":                             {fence, AccessToken, by(`{"alg":"RS256"}`, good)},
		"crit":                               {fence, AccessToken, by(`{"alg":"RS256","crit":["x"],"kid":"`+kid+`"}`, good)},
		"two kids":                           {fence, AccessToken, by(`{"alg":"RS256","kid":"x","kid":"`+kid+`"}`, good)},
		"two subjects":                       {fence, AccessToken, by(own, append(good.Clone(), session.Member{Name: "sub", Value: []byte(`"eve"`)}))},
		"a logout token":                     {fence, AccessToken, by(own, with("events", `{}`))},
		"a header that says ID token":        {fence, AccessToken, by(own, with("typ", `"ID"`))},
		"iss of another":                     {fence, AccessToken, by(own, claims(t, other, now, time.Hour))},
		"no iss":                             {fence, AccessToken, by(own, good.Without("iss"))},
		"expired":                            {fence, AccessToken, by(own, with("exp", strconv.FormatInt(now.Unix()-1, 10)))},
		"no exp":                             {fence, AccessToken, by(own, good.Without("exp"))},
		"exp that is a word":                 {fence, AccessToken, by(own, with("exp", `"never"`))},
		"exp beyond all":                     {fence, AccessToken, by(own, with("exp", "9223372036854775807"))},
		"nbf to come":                        {fence, AccessToken, by(own, with("nbf", strconv.FormatInt(now.Unix()+120, 10)))},
		"iat to come":                        {fence, AccessToken, by(own, with("iat", strconv.FormatInt(now.Unix()+120, 10)))},
		"another's signature":                {fence, AccessToken, parts[0] + "." + parts[1] + "." + enc.EncodeToString(strange)},
		"no signature":                       {fence, AccessToken, parts[0] + "." + parts[1] + "."},
		"claims of another token":            {fence, AccessToken, parts[0] + "." + enc.EncodeToString(with("sub", `"eve"`).Append(nil)) + "." + parts[2]},
		"a second spelling of the signature": {fence, AccessToken, access + "\n"},
		"padding":                            {fence, AccessToken, access + "="},
		"four parts":                         {fence, AccessToken, access + ".x"},
		"two parts":                          {fence, AccessToken, parts[0] + "." + parts[1]},
		"nothing":                            {fence, AccessToken, ""},
		"much":                               {fence, AccessToken, strings.Repeat("a", maxToken) + access},
	} {
		got, _, err := r.Verify(c.f, c.class, c.token)
		if !errors.Is(err, ErrToken) || got != nil {
			t.Errorf("%s: %v, %v", rule, got, err)
		} else if len(c.token) > 20 && strings.Contains(err.Error(), c.token[len(c.token)-12:]) {
			t.Errorf("%s: the error quotes the token", rule)
		}
	}
}

func FuzzVerify(f *testing.F) {
	r := open(f, f.TempDir(), Options{GoRSA: true})
	ensure(f, r, fence, "ES256", "EdDSA")
	token, _ := sign(f, r, fence, AccessToken, "ES256", time.Hour)
	id, _ := sign(f, r, fence, IDToken, "EdDSA", time.Hour)
	for _, s := range []string{token, id, "", "..", "e30.e30.", "eyJhbGciOiJub25lIn0.e30.AA", strings.Repeat(".", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, _, err := r.Verify(fence, AccessToken, s); err == nil && s != token {
			t.Fatalf("accepted %q", s)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	dir := f.TempDir()
	r := open(f, dir, Options{})
	ensure(f, r, fence, "ES256")
	name := filepath.Base(r.path(fence))
	good, err := os.ReadFile(r.path(fence))
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{good, good[:len(good)-1], {}, []byte(magic), []byte("understudy-keys-1\n"), append([]byte(magic), make([]byte, 64)...)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.unseal(name, b); err == nil && !bytes.Equal(b, good) {
			t.Fatal("opened what was not sealed")
		}
	})
}
