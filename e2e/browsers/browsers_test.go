package browsers

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// app is an application of the stage.
type app struct {
	client, url string
	page        bool // it is one in the browser, whose function renew renews silently; else each load renews
	refreshes   bool // it has a refresh token
}

func apps() []app {
	return []app{
		{"spa", spaURL + "/", true, true}, {"msal", msalURL + "/", true, true}, {"implicit", implicitURL + "/", true, false},
		{"web", webURL + "/", false, true}, {"hybrid", hybridURL + "/", false, true}, {"express", expressURL + "/", false, false},
	}
}

// profile is a browser with the rules for third-party cookies that it has; the applications are at other sites than the provider.
//
// Google's Chrome sends them, private windows aside: in 2025 its makers gave up to end that. Debian's Chromium, as installed, does
// not: a hidden frame sees nobody signed in, also at the primary, and top-level redirects and refresh tokens are the way. Firefox
// keeps those of a frame in a jar for each site at the top (Total Cookie Protection), as installed, but for a provider to which that
// site has led somebody who signed in there.
type profile struct {
	name   string
	start  func(t *testing.T, s *stage) *browser
	frames string // hidden frames at sites whose names have this see who is signed in; "": none do
	signs  bool   // she signs out here in the outage; else she goes on, and signs out later
}

func profiles() []profile {
	return []profile{
		{"chrome", startChrome, ".test", true},
		{"debian", func(t *testing.T, s *stage) *browser { return s.chromium(t, "") }, "", false},
		{"firefox", startFirefox, ".one.test", true},
	}
}

func startChrome(t *testing.T, s *stage) *browser {
	return s.chromium(t, `{"profile": {"cookie_controls_mode": 0}}`)
}

func startFirefox(t *testing.T, s *stage) *browser { return s.firefox(t) }

// others are the browsers of people who are not alice.
func others() []profile {
	return []profile{{"chrome", startChrome, ".test", false}, {"firefox", startFirefox, ".one.test", false}}
}

// sees says whether a hidden frame of an application sees who is signed in.
func (p profile) sees(a app) bool { return p.frames != "" && strings.Contains(a.url, p.frames) }

// host is the host of a URL.
func host(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// person is somebody at a browser.
type person struct {
	profile
	*browser
	tabs   map[string]*tab     // by client
	scenes map[string][]string // those that went well, by client
}

// scene runs one scene of a browser and an application.
func (x *person) scene(t *testing.T, name string, a app, f func(t *testing.T)) bool {
	ok := t.Run(name+" "+x.name+" "+a.client, f)
	if ok {
		x.scenes[a.client] = append(x.scenes[a.client], name)
	}
	return ok
}

// TestBrowsers: somebody signs in to applications at two sites, Keycloak is killed, and each lets them in all the same.
func TestBrowsers(t *testing.T) {
	s := newStage(t)
	people := come(t, s, profiles())
	began := time.Now()
	defer table(t, people)
	// People who sign out while the primary is there: where it leads them then is learned.
	gone := come(t, s, others())
	for _, x := range gone {
		if !t.Run("healthy sign out "+x.name, func(t *testing.T) {
			w := x.open(t, spaURL+"/")
			w.signIn("bob")
			w.check(w.lets("bob"), whose{"spa", "bob", false, began})
			w.signOut()
			x.open(t, spaURL+"/").await("no form", func(p *page) bool { return p.Password })
		}) {
			t.FailNow()
		}
	}
	learned := len(gone)
	for _, x := range people {
		for _, a := range apps() {
			w := x.open(t, a.url)
			x.tabs[a.client] = w
			if a.client == "spa" {
				w.signIn("alice")
			}
			if !x.scene(t, "signed in", a, func(t *testing.T) {
				by := whose{a.client, "alice", false, began}
				w.in(t).check(w.in(t).lets("alice"), by)
				x.renew(t, a, by)
			}) {
				t.FailNow()
			}
			learned++
			if a.page && x.sees(a) || a.client == "express" {
				learned++
			}
		}
	}
	eventually(t, "the browsers are not learned", func() bool { return s.status(t).Learned["authorization"] >= uint64(learned) })
	halfway := map[*person]*tab{}
	for _, x := range come(t, s, others()) {
		halfway[x] = x.open(t, spaURL+"/")
		halfway[x].await("no form", func(p *page) bool { return p.Password })
	}
	time.Sleep(1500 * time.Millisecond) // Keycloak writes its sessions behind, and does not say when
	killed := time.Now()
	s.kc.Kill()
	for _, x := range people {
		for _, a := range apps() {
			by := whose{a.client, "alice", true, killed}
			x.scene(t, "renew", a, func(t *testing.T) { x.renew(t, a, by) })
			x.scene(t, "reload", a, func(t *testing.T) {
				w := x.tabs[a.client].in(t).again()
				w.check(w.lets("alice"), by)
			})
			x.scene(t, "new tab", a, func(t *testing.T) {
				w := x.open(t, a.url)
				w.check(w.lets("alice"), by)
			})
		}
		t.Run("never there "+x.name, func(t *testing.T) {
			w := x.open(t, neverURL+"/")
			w.isLimited()
			p := w.await("no page", limited)
			for _, what := range []string{"You can open these now", "Mail", "Payroll", "Time sheets", "Wiki", host(implicitURL), host(expressURL)} {
				if !strings.Contains(p.Text, what) {
					t.Errorf("%q is not on the page: %s", what, p.Text)
				}
			}
			w.act("follow a link", `[...document.querySelectorAll("main a")].find(a => a.textContent.startsWith("Time sheets")).click()`)
			w.await("the link leads nowhere", func(p *page) bool { return !limited(p) })
			w.check(w.lets("alice"), whose{"web", "alice", true, killed})
		})
	}
	for x, tab := range halfway {
		t.Run("halfway "+x.name, func(t *testing.T) {
			w := tab.in(t)
			w.signIn("alice")
			w.await("no page", limited)
		})
	}
	strangers := come(t, s, others())
	for _, c := range []struct {
		name   string
		people []*person
		frame  string // what a hidden frame is told where it sees who is signed in
	}{
		{"stranger", strangers, "interaction_required"}, // as one whose cookies are kept from frames
		{"signed out", gone, "temporarily_unavailable"},
	} {
		for _, x := range c.people {
			t.Run(c.name+" "+x.name, func(t *testing.T) {
				for _, a := range apps() {
					w := x.open(t, a.url)
					w.isLimited()
					if p := w.await("no page", limited); strings.Contains(p.Text, "You can open") {
						t.Errorf("who is not signed in is told %s", p.Text)
					}
				}
				if st := x.open(t, spaURL+"/idle").settled().call("renew('iframe')"); st.User != "" || st.Error != c.frame {
					t.Errorf("in a hidden frame: %+v", st)
				}
			})
		}
	}
	t.Run("pictures", func(t *testing.T) { people[0].pictures(t) })

	for _, x := range people {
		if x.signs {
			t.Run("sign out "+x.name, func(t *testing.T) { x.tabs["spa"].in(t).signOut() })
		}
	}
	for _, x := range people {
		for _, a := range apps() {
			if x.signs {
				x.scene(t, "signed out", a, func(t *testing.T) { x.closed(t, a) })
			} else {
				x.scene(t, "still open", a, func(t *testing.T) {
					w := x.open(t, a.url)
					w.check(w.lets("alice"), whose{a.client, "alice", true, killed})
				})
			}
		}
	}

	if err := s.kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the primary does not serve again", func() bool { return s.status(t).Endpoints["token"].Mode == "normal" })
	back := time.Now()
	for _, x := range people {
		for _, a := range apps() {
			if x.signs {
				x.scene(t, "still out after the return", a, func(t *testing.T) { x.closed(t, a) })
				continue
			}
			x.scene(t, "open after the return", a, func(t *testing.T) {
				w := x.open(t, a.url)
				w.check(w.lets("alice"), whose{a.client, "alice", false, back})
				if a.client == "msal" { // whose first tab has the refresh token that the primary gave it before
					w := x.tabs[a.client].in(t)
					w.check(w.call("renew('refresh')"), whose{a.client, "alice", false, back})
				}
			})
		}
		if !x.signs {
			t.Run("sign out later "+x.name, func(t *testing.T) { x.tabs["spa"].in(t).signOut() }) // with the ID token that the backup gave
			for _, a := range apps() {
				x.scene(t, "signed out later", a, func(t *testing.T) { x.open(t, a.url).letsNobody() })
			}
		}
	}
	for _, x := range append(people, strangers...) {
		for _, a := range apps() {
			x.scene(t, "another user", a, func(t *testing.T) {
				w := x.open(t, a.url)
				if a.client == "spa" {
					w.signIn("bob")
				}
				w.check(w.lets("bob"), whose{a.client, "bob", false, back})
			})
		}
	}
}

// come starts a browser for each profile.
func come(t *testing.T, s *stage, profiles []profile) []*person {
	t.Helper()
	var people []*person
	for _, p := range profiles {
		people = append(people, &person{p, p.start(t, s), map[string]*tab{}, map[string][]string{}})
	}
	return people
}

// table prints which scenes each browser and application went through: seven, or eight where she signs out later.
func table(t *testing.T, people []*person) {
	whole := 0
	for _, x := range people {
		for _, a := range apps() {
			how := strings.Join(x.scenes[a.client], ", ")
			if n := len(x.scenes[a.client]); x.signs && n == 7 || n == 8 {
				whole++
				how = "whole way: " + how
			} else {
				how = "NOT THE WHOLE WAY: " + how
			}
			fmt.Printf("%-30s %s\n", x.name+" × "+a.client, how)
		}
	}
	expected := len(people) * len(apps())
	fmt.Printf("combinations: %d run, %d expected\n", whole, expected)
	if whole != expected {
		t.Errorf("%d combinations run, %d expected", whole, expected)
	}
}

// closed says that an application lets nobody in any more, neither in the tab where she was nor in another.
func (x *person) closed(t *testing.T, a app) {
	if a.client != "spa" { // whose tab shows that she is signed out
		x.tabs[a.client].in(t).again().letsNobody()
	}
	x.open(t, a.url).letsNobody()
}

// renew renews an application's tokens silently: by refresh token, and in a hidden frame, in which they are renewed where the
// browser lets frames see who is signed in, and else refused by primary and backup alike.
func (x *person) renew(t *testing.T, a app, by whose) {
	t.Helper()
	w := x.tabs[a.client].in(t)
	if !a.page {
		w.again()
		w.check(w.lets("alice"), by)
		return
	}
	if a.refreshes {
		w.check(w.call("renew('refresh')"), by)
	}
	st := w.call("renew('iframe')")
	if x.sees(a) {
		w.check(st, by)
		return
	}
	if st.User != "" || st.Error == "" || a.client == "msal" && !st.Person {
		t.Errorf("in a hidden frame without cookies: %+v", st)
	}
}

// signOut signs a person out by the single-page application, and waits until she is back there.
func (w *tab) signOut() {
	w.t.Helper()
	w.act("sign out", "signOut()")
	p := w.await("she is not signed out", func(p *page) bool { return p.State != "" && p.URL != spaURL+"/" })
	if !w.read(p.State).Bye {
		w.t.Errorf("%+v", p)
	}
}

// settled waits until the application says anything.
func (w *tab) settled() *tab {
	w.t.Helper()
	w.await("the application says nothing", func(p *page) bool { return p.State != "" })
	return w
}

// letsNobody waits until an application is known to let nobody in: the person is asked, or told that sign-in is limited, or the
// application says that its sign-in is over.
func (w *tab) letsNobody() {
	w.t.Helper()
	st, p := w.shows()
	if st.User != "" || st.ID != "" || st.Access != "" {
		w.t.Errorf("%s is let in: %+v", st.User, p)
	}
}

// isLimited waits for the limited-service page, and looks at its reply.
func (w *tab) isLimited() {
	w.t.Helper()
	_, p := w.shows()
	if p.Title != "Sign-in is limited right now · "+displayName || !strings.Contains(p.Text, displayName) {
		w.t.Fatalf("the page is %+v", p)
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.s.u.Client().Get(u.String())
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		w.t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}
