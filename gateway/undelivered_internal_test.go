package gateway

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/session"
)

// What the primary has yet to hear waits while it is under way, and for longer each time that the primary does not answer it alone, up to a
// bound; it is kept until the primary has heard it, and opens nowhere but in its own place.
func TestWhatThePrimaryHasYetToHear(t *testing.T) {
	seal, err := session.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	u, err := openUndelivered(filepath.Join(t.TempDir(), "owed"), seal)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	keep := func(flying bool) string {
		t.Helper()
		name, err := u.keep(&owed{URI: "/logout?a=b", Header: map[string][]string{"Cookie": {"s=\xff"}}, At: now.UnixNano()}, flying)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	waiting := func() int {
		t.Helper()
		names, err := u.names()
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	sent, unsent := keep(true), keep(false)
	if !u.waits(sent, now) || u.waits(unsent, now) {
		t.Error("what is under way is told twice, or what is not waits")
	}
	if err := u.landed(sent, false); err != nil || u.waits(sent, now) || waiting() != 2 {
		t.Errorf("the primary did not hear it, and it waits on, or is gone: %v", err)
	}
	if err := u.landed(sent, true); err != nil || waiting() != 1 {
		t.Errorf("the primary heard it, and it is there: %v", err)
	}
	last := time.Duration(0)
	for range 20 {
		u.again(unsent, now)
		n := time.Duration(0)
		for ; u.waits(unsent, now.Add(n)); n += deliverEvery {
		}
		if n < last || n <= deliverEvery || n > maxBackoff {
			t.Fatalf("it waits %v after %v", n, last)
		}
		last = n
	}
	if last != maxBackoff {
		t.Errorf("at last it waits %v", last)
	}
	o, err := u.read(unsent)
	if err != nil || o.URI != "/logout?a=b" || o.Header["Cookie"][0] != "s=\xff" {
		t.Errorf("%+v %v", o, err)
	}
	b, err := os.ReadFile(filepath.Join(u.dir, unsent))
	if err != nil || bytes.Contains(b, []byte("logout")) {
		t.Errorf("it lies in the clear: %v", err)
	}
	other := "0000000000000000001-x.owed"
	if err := os.WriteFile(filepath.Join(u.dir, other), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := u.read(other); err == nil {
		t.Error("it opens in another's place")
	}
	if err := u.gone(unsent); err != nil || u.waits(unsent, now) || waiting() != 1 {
		t.Errorf("%v, %d wait", err, waiting())
	}
}
