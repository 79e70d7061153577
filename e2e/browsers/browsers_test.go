package browsers

import (
	"context"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"understudy/idptest"
)

var update = flag.Bool("update", false, "write the pictures of the limited-service page to docs/ (a Japanese font must be there)")

// app is an application of the stage.
type app struct {
	client, url string
	page        bool // it is one in the browser, whose function renew renews silently; else each load renews
}

func apps() []app {
	return []app{{"spa", spaURL + "/", true}, {"msal", msalURL + "/", true}, {"web", webURL + "/", false}, {"hybrid", hybridURL + "/", false}}
}

// profile is a browser with the rules for third-party cookies that it has; the applications are at other sites than the provider.
//
// Google's Chrome sends them, private windows aside: in 2025 its makers gave up to end that. Debian's Chromium, as installed, does
// not. There a hidden frame sees nobody signed in, also at the primary, and top-level redirects and refresh tokens are the way.
type profile struct {
	name, preferences string
	frames            bool // hidden frames see who is signed in
}

func profiles() []profile {
	return []profile{
		{"chrome", `{"profile": {"cookie_controls_mode": 0}}`, true},
		{"debian", "", false},
	}
}

// person is somebody at a browser.
type person struct {
	profile
	*browser
	tabs map[string]*tab // by client
}

// TestChromium: somebody signs in to applications at two sites, Keycloak is killed, and each lets them in all the same.
func TestChromium(t *testing.T) {
	s := newStage(t)
	var people []*person
	for _, p := range profiles() {
		people = append(people, &person{p, s.browser(t, p.preferences), map[string]*tab{}})
	}
	began := time.Now()
	// Somebody who signs out while the primary is there: where it leads people then is learned.
	gone := s.browser(t, profiles()[0].preferences)
	if !t.Run("healthy sign out", func(t *testing.T) {
		w := gone.open(t, spaURL+"/")
		w.signIn("bob")
		w.check(w.lets("bob"), whose{"spa", "bob", false, began})
		w.signOut()
		gone.open(t, spaURL+"/").await("no form", func(p *page) bool { return p.Password })
	}) {
		t.FailNow()
	}
	for _, x := range people {
		for _, a := range apps() {
			w := x.open(t, a.url)
			x.tabs[a.client] = w
			if a.client == "spa" {
				w.signIn("alice")
			}
			if !t.Run("healthy "+x.name+" "+a.client, func(t *testing.T) {
				by := whose{a.client, "alice", false, began}
				w.in(t).check(w.in(t).lets("alice"), by)
				x.renew(t, a, by)
			}) {
				t.FailNow()
			}
		}
	}
	eventually(t, "the browsers are not learned", func() bool { return s.status(t).Learned["authorization"] >= 4+4+2 })
	halfway := s.browser(t, profiles()[0].preferences).open(t, spaURL+"/")
	halfway.await("no form", func(p *page) bool { return p.Password })
	time.Sleep(1500 * time.Millisecond) // Keycloak writes its sessions behind, and does not say when
	killed := time.Now()
	s.kc.Kill()
	for _, x := range people {
		for _, a := range apps() {
			by := whose{a.client, "alice", true, killed}
			t.Run("renew "+x.name+" "+a.client, func(t *testing.T) { x.renew(t, a, by) })
			t.Run("reload "+x.name+" "+a.client, func(t *testing.T) {
				w := x.tabs[a.client].in(t).reload()
				w.check(w.lets("alice"), by)
			})
			t.Run("new tab "+x.name+" "+a.client, func(t *testing.T) {
				w := x.open(t, a.url)
				w.check(w.lets("alice"), by)
			})
		}
	}
	t.Run("never there", func(t *testing.T) { people[0].open(t, neverURL+"/").isLimited() })
	t.Run("halfway", func(t *testing.T) {
		w := halfway.in(t)
		w.signIn("alice")
		w.await("no page", limited)
	})
	stranger := s.browser(t, profiles()[0].preferences)
	for _, c := range []struct {
		name  string
		b     *browser
		frame string // what a hidden frame is told
	}{
		{"stranger", stranger, "interaction_required"}, // as one whose cookies are kept from frames
		{"signed out", gone, "temporarily_unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, a := range apps() {
				c.b.open(t, a.url).isLimited()
			}
			if st := c.b.open(t, spaURL+"/idle").call("renew('iframe')"); st.User != "" || st.Error != c.frame {
				t.Errorf("in a hidden frame: %+v", st)
			}
		})
	}
	t.Run("pictures", func(t *testing.T) { stranger.pictures(t) })

	out, other := people[0], people[1]
	t.Run("sign out", func(t *testing.T) { out.tabs["spa"].in(t).signOut() })
	closed := func(t *testing.T) {
		for _, a := range apps() {
			if a.client != "spa" { // whose tab shows that she is signed out
				out.tabs[a.client].in(t).reload().letsNobody()
			}
			out.open(t, a.url).letsNobody()
		}
	}
	t.Run("closed", closed)
	t.Run("still open", func(t *testing.T) { // in her other browser
		for _, a := range apps() {
			w := other.open(t, a.url)
			w.check(w.lets("alice"), whose{a.client, "alice", true, killed})
		}
	})

	if err := s.kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the primary does not serve again", func() bool { return s.status(t).Endpoints["token"].Mode == "normal" })
	t.Run("back closed", closed)
	back := time.Now()
	t.Run("back open", func(t *testing.T) {
		for _, a := range apps() {
			w := other.open(t, a.url)
			w.check(w.lets("alice"), whose{a.client, "alice", false, back})
		}
		w := other.tabs["msal"].in(t) // which has the refresh token that the primary gave it before
		w.check(w.call("renew('refresh')"), whose{"msal", "alice", false, back})
	})
	t.Run("sign out later", func(t *testing.T) { // with the ID token that the backup gave
		other.tabs["spa"].in(t).signOut()
		for _, a := range apps() {
			other.open(t, a.url).letsNobody()
		}
	})
	t.Run("bob", func(t *testing.T) {
		for _, x := range []*browser{out.browser, stranger} {
			for _, a := range apps() {
				w := x.open(t, a.url)
				if a.client == "spa" {
					w.signIn("bob")
				}
				w.check(w.lets("bob"), whose{a.client, "bob", false, back})
			}
		}
	})
}

// renew renews an application's tokens silently: by refresh token, and in a hidden frame, in which they are renewed where the
// browser lets frames see who is signed in, and else refused by primary and backup alike.
func (x *person) renew(t *testing.T, a app, by whose) {
	t.Helper()
	w := x.tabs[a.client].in(t)
	if !a.page {
		w.reload()
		w.check(w.lets("alice"), by)
		return
	}
	w.check(w.call("renew('refresh')"), by)
	st := w.call("renew('iframe')")
	if x.frames {
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
	w.do("sign out", act("signOut()"))
	p := w.await("she is not signed out", func(p *page) bool { return p.State != "" && p.URL != spaURL+"/" })
	if !w.read(p.State).Bye {
		w.t.Errorf("%+v", p)
	}
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

// pictures looks at the limited-service page in light, dark and Japanese.
func (b *browser) pictures(t *testing.T) {
	for _, c := range []struct{ name, scheme, language, text string }{
		{"limited", "light", "en", "Sign-in is limited right now"},
		{"limited-dark", "dark", "en", "Sign-in is limited right now"},
		{"limited-ja", "light", "ja", "現在、サインインが制限されています"},
	} {
		w := b.open(t, "about:blank")
		w.do("emulate", chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: c.scheme}},
			})
			if err != nil {
				return err
			}
			agent, err := chromedp.Evaluate[string]("navigator.userAgent")(ctx, tab)
			if err != nil {
				return err
			}
			_, err = cdp.Call(ctx, tab, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: c.language})
			return err
		}), chromedp.EmulateViewport(900, 900), chromedp.Navigate(webURL+"/"))
		p := w.await("no page", func(p *page) bool { return strings.HasPrefix(p.URL, "https://"+idpHost) && p.Title != "" })
		if p.Lang != c.language || !strings.Contains(p.Text, c.text) || !strings.Contains(p.Text, displayName) {
			t.Errorf("%s: %+v", c.name, p)
		}
		if !*update {
			continue
		}
		png, err := chromedp.Run(w.ctx, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(idptest.Root(), "docs", c.name+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
