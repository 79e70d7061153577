package gateway

import (
	"slices"
	"testing"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// said is an exchange at the UserInfo endpoint from which something is learned.
type said struct{ flow.Exchange }

func (said) Learn(*flow.Response) *flow.Lesson { return &flow.Lesson{Record: &session.Record{}} }

// An application asks UserInfo as soon as it has its token. What it is told goes with a sign-in that is kept by then, in whichever
// order and batch both are learned.
func TestUserInfoIsSealedWhenItsSignInIsKept(t *testing.T) {
	signIn := &lesson{ready: &backup.Learned{Tenant: "t"}}
	for name, order := range map[string]func(told *lesson) []*lesson{
		"after its sign-in": func(told *lesson) []*lesson { return []*lesson{signIn, told} },
		"before it":         func(told *lesson) []*lesson { return []*lesson{told, signIn} },
		"twice":             func(told *lesson) []*lesson { return []*lesson{told, signIn, told, signIn} },
	} {
		t.Run(name, func(t *testing.T) {
			b := &asked{}
			g := asking(t, b, time.Now)
			told := &lesson{o: &outcome{}, t: &trip{g: g, ask: &flow.Ask{Artifact: flow.Artifact{Kind: session.AccessToken, Value: "at"}}, v: &visit{
				tenant: &Tenant{Name: "t"}, issuer: &issuer{ID: "https://id.example"}, endpoint: flow.UserInfo, exchange: said{},
			}}}
			ls := order(told)
			for _, x := range ls {
				g.learner.add("t", x)
			}
			ms := g.learner.batch(t.Context(), <-g.learner.queue)
			if len(b.order) > 0 {
				t.Errorf("%v before anything is kept", b.order)
			}
			g.learner.keep(t.Context(), ms)
			if i := slices.Index(b.order, "held"); i != 1 || b.order[0] != "learn" {
				t.Errorf("%v", b.order)
			}
			if n := g.learner.waiting.Load(); n != 0 {
				t.Errorf("%d are not kept, it says", n)
			}
		})
	}
}
