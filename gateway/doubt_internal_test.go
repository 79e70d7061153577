package gateway

import (
	"fmt"
	"testing"
	"time"
)

// A failure is somebody else's too only where another grant of another requester met one lately: neither one requester with many
// grants nor one grant from many places makes the primary look dead.
func TestWhoElseFails(t *testing.T) {
	type met struct {
		grant, requester string
		after            time.Duration
		others           bool
	}
	for name, c := range map[string][]met{
		"alone":                    {{"a", "192.0.2.1", 0, false}, {"a", "192.0.2.1", 0, false}},
		"one, with two grants":     {{"a", "192.0.2.1", 0, false}, {"b", "192.0.2.1", 0, false}},
		"one grant, at two places": {{"a", "192.0.2.1", 0, false}, {"a", "192.0.2.2", 0, false}},
		"one of IPv6, as two":      {{"a", "2001:db8::1", 0, false}, {"b", "2001:db8:0:1::2", 0, false}},
		"another":                  {{"a", "192.0.2.1", 0, false}, {"b", "192.0.2.2", 0, true}, {"a", "192.0.2.1", 0, true}},
		"a minute before":          {{"a", "192.0.2.1", 0, false}, {"b", "192.0.2.2", failingFor, true}},
		"longer ago":               {{"a", "192.0.2.1", 0, false}, {"b", "192.0.2.2", failingFor + 1, false}},
		"who came with another grant since, which is the same": {{"a", "192.0.2.1", 0, false}, {"b", "192.0.2.1", 0, false}, {"b", "192.0.2.2", 0, false}},
	} {
		t.Run(name, func(t *testing.T) {
			f, now := &failing{}, time.Unix(1e9, 0)
			for i, m := range c {
				now = now.Add(m.after)
				if got := f.fails(m.grant, m.requester, now); got != m.others {
					t.Errorf("%d: others %v", i, got)
				}
			}
			if !f.any() {
				t.Error("nobody fails")
			}
			f.forget()
			if f.any() || f.fails("z", "192.0.2.9", now) {
				t.Error("somebody fails still, though somebody was answered")
			}
		})
	}
	f := &failing{}
	for i := range 10 * maxFailing {
		f.fails(fmt.Sprint(i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), time.Unix(1e9, 0))
	}
	if len(f.list) > maxFailing {
		t.Errorf("%d are kept", len(f.list))
	}
}

// A grant has one doubt, for as long as it could be played; where more grants have theirs than can be counted, nobody has one.
func TestFirstDoubt(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLate(func() time.Time { return now })
	for i, want := range []bool{true, false} {
		if got := l.firstDoubt("a"); got != want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if !l.firstDoubt("b") {
		t.Error("another grant has none")
	}
	if now = now.Add(doubtLifetime - 1); l.firstDoubt("a") {
		t.Error("it has another while it could still be played")
	}
	if now = now.Add(1); !l.firstDoubt("a") {
		t.Error("it has none when it begins anew")
	}
	for i := range maxDoubts {
		l.firstDoubt(fmt.Sprint(i))
	}
	if l.firstDoubt("one more") {
		t.Error("there is no bound")
	}
	if now = now.Add(doubtLifetime); !l.firstDoubt("one more") {
		t.Error("what is over is counted for good")
	}
}
