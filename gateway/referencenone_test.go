package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// That somebody is signed in is not said of a session that was ended here, however late the gateway reads what was asked.
func TestARequestByReferenceForNothingOfASessionThatWasEndedHere(t *testing.T) {
	kc := keycloak(t)
	x := newReferrer(t, kc, kc.URL())
	b := &idptest.Browser{}
	k := x.learns(x.lying(x.tab(b)), "alice")
	m := session.Mark{Of: session.OfSession, ID: x.r.seal.Pseudonym("session", "default", x.r.realm("rot"), k.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := x.r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	for name, late := range map[string]time.Duration{"at once": 0, "late": 700 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			object := text(x.object(x.tab(b).with("response_type", "none").with("code_challenge", "").with("code_challenge_method", ""), x.key))
			uri := x.shelf.put("/objects/", each(func(w http.ResponseWriter, q *http.Request) {
				if late == 0 {
					time.Sleep(300 * time.Millisecond) // the gateway has it by then
				}
				object(w, q)
			}, func(w http.ResponseWriter, q *http.Request) {
				time.Sleep(late)
				object(w, q)
			}))
			resp, _ := at(x.tab(b.Clone()), uri).once()
			if l := resp.Header.Get("Location"); strings.HasPrefix(l, callback) && !strings.Contains(l, "error=") {
				t.Errorf("the application is told that somebody is signed in: %s", l)
			}
		})
	}
}
