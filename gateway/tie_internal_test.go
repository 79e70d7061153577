package gateway

import (
	"fmt"
	"testing"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// Authorization requests that nobody finishes are bounded, by address and in all, and are forgotten; whoever is at it is not.
func TestBegunRequestsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := newBrowsers(func() time.Time { return now })
	ask := &flow.Ask{Params: map[string]string{"redirect_uri": "https://app.example/cb", "response_type": "code"}}
	begin := func(id session.ID, from string) *begun {
		x := &begun{ask: ask, request: &flow.Request{Address: from}, at: now}
		b.begin(id, x)
		return x
	}
	for range maxBegunFrom + 100 {
		begin(session.NewID(), "192.0.2.1")
	}
	if n := len(b.begun); n != maxBegunFrom {
		t.Errorf("%d of one address", n)
	}
	mine := session.NewID()
	for range 100 {
		begin(mine, "192.0.2.2")
	}
	if n := len(b.begun[mine].requests); n != maxBegun {
		t.Errorf("%d of one browser", n)
	}
	for i := range maxTied {
		begin(session.NewID(), fmt.Sprint(i))
	}
	if n := len(b.begun); n > maxTied {
		t.Errorf("%d in all", n)
	}
	later := session.NewID()
	now = now.Add(beginFor / 2)
	begin(later, "192.0.2.3")
	now = now.Add(beginFor/2 + time.Second)
	begin(later, "192.0.2.4") // another address by now
	b.sweep()
	if len(b.begun) != 1 || b.begun[later] == nil || len(b.from) != 1 {
		t.Fatalf("%d left, of %d addresses", len(b.begun), len(b.from))
	}
	read := func(ask *flow.Ask) *oauth.Redirected { return oauth.ReadRedirect("https://app.example/cb?code=c", ask) }
	for i := range 3 {
		if x, _ := b.match(later, read); (x == nil) != (i == 2) {
			t.Errorf("%d: %v", i, x)
		}
	}
	b.dropped(later, begin(later, "192.0.2.3"))
	if len(b.begun) != 0 || len(b.from) != 0 {
		t.Errorf("%d left, of %d addresses", len(b.begun), len(b.from))
	}
}
