package browsers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/demo/chromium"
	"understudy/flow/oauth"
)

// browser is a Chromium with a profile of its own.
type browser struct {
	s     *stage
	first context.Context
}

// browser starts a browser for which the names of the stage lead to loopback and nothing else leads anywhere. Certificates of the
// tests' own authority are none that it knows: it is told to ignore that.
func (s *stage) browser(t *testing.T, preferences string) *browser {
	t.Helper()
	rules := fmt.Sprintf("MAP %s 127.0.0.1, MAP web.two.test 127.0.0.1:%d, MAP hybrid.two.test 127.0.0.1:%d, MAP *.one.test 127.0.0.1:%d, MAP *.two.test 127.0.0.1:%d, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
		idpHost, s.web, s.hybrid, s.apps, s.apps)
	first, stop, err := chromium.StartWith(t.Context(), chromium.Options{
		Flags: []chromedp.ExecAllocatorOption{chromedp.IgnoreCertErrors, chromedp.Flag("host-resolver-rules", rules)}, Preferences: preferences,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := chromedp.Do(first); err != nil {
		t.Fatal(err)
	}
	return &browser{s, first}
}

// tab is a tab of a browser.
type tab struct {
	t   *testing.T
	s   *stage
	ctx context.Context
}

// open opens a URL in a new tab, which is closed when the test ends.
func (b *browser) open(t *testing.T, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.first)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // a context with a deadline would take the tab with it
		t.Fatal(err)
	}
	w := &tab{t, b.s, ctx}
	w.do("open "+url, chromedp.Navigate(url))
	return w
}

// in is the tab as a subtest uses it.
func (w *tab) in(t *testing.T) *tab { return &tab{t, w.s, w.ctx} }

func (w *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func (w *tab) reload() *tab {
	w.t.Helper()
	w.do("reload", chromedp.Reload())
	return w
}

// page is what a tab shows.
type page struct {
	URL, Title, Text, Lang string
	Password               bool // it asks for a password
	State                  string
}

const look = `JSON.stringify({
	URL: location.href, Title: document.title, Text: document.body.innerText, Lang: document.documentElement.lang,
	Password: document.readyState === "complete" && document.querySelector("input[type=password]") !== null, State: document.getElementById("state")?.textContent ?? "",
})`

// await waits for a page.
func (w *tab) await(what string, good func(p *page) bool) *page {
	w.t.Helper()
	var p page
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		s, err := chromedp.Run(ctx, chromedp.Evaluate[string](look))
		cancel()
		if err != nil { // while the browser goes from page to page there is nothing
			last = err
			continue
		}
		p = page{}
		if err := json.Unmarshal([]byte(s), &p); err != nil {
			w.t.Fatal(err)
		}
		if good(&p) {
			return &p
		}
	}
	w.t.Fatalf("%s: the page is %+v (%v)", what, p, last)
	return nil
}

// state is what an application says of itself.
type state struct {
	User, ID, Access, Refresh, Nonce, Info string
	Error, Description                     string
	Person                                 bool // the library wants a person to be asked
	Bye, Idle                              bool
}

func (w *tab) read(s string) *state {
	w.t.Helper()
	var st state
	if err := json.Unmarshal([]byte(s), &st); err != nil {
		w.t.Fatalf("%v: %s", err, s)
	}
	return &st
}

// shows waits until the application shows who is signed in, or says why nobody is. A page that asks for a password, or says that
// sign-in is limited, is an end too.
func (w *tab) shows() (*state, *page) {
	w.t.Helper()
	p := w.await("nobody is let in", func(p *page) bool { return p.State != "" || p.Password || limited(p) })
	if p.State == "" {
		return &state{}, p
	}
	return w.read(p.State), p
}

// lets waits until the application shows that a person is let in, without being asked.
func (w *tab) lets(user string) *state {
	w.t.Helper()
	st, p := w.shows()
	if st.User != user {
		w.t.Fatalf("%s is not let in: %+v", user, p)
	}
	return st
}

// call calls a function of the page that returns its state as text.
func (w *tab) call(script string) *state {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
	if err != nil {
		w.t.Fatalf("%s: %v", script, err)
	}
	return w.read(s)
}

// signIn fills the provider's form in.
func (w *tab) signIn(user string) {
	w.t.Helper()
	w.await("no form", func(p *page) bool { return p.Password })
	w.do("sign in", act(fmt.Sprintf(`document.getElementById("username").value = %q; document.getElementById("password").value = "pw-" + %[1]q;
		document.getElementById("kc-login").click()`, user)))
	w.await("the form does not let "+user+" in", func(p *page) bool { return !p.Password })
}

// act runs a script whose value does not matter.
func act(script string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := chromedp.Evaluate[bool](script+"; true")(ctx, tab)
		return err
	})
}

// limited says whether a page is that of the gateway which says that sign-in is limited.
func limited(p *page) bool {
	return strings.HasPrefix(p.URL, "https://"+idpHost) && strings.Contains(p.Text, displayName) && !p.Password && p.State == "" &&
		(strings.Contains(p.Title, "limited") || p.Lang == "ja" && strings.Contains(p.Title, "制限"))
}

// whose are tokens that an application must have got.
type whose struct {
	client, user string
	backup       bool
	since        time.Time // they are not older
}

// check verifies an application's tokens with the keys that the gateway publishes.
func (w *tab) check(st *state, want whose) {
	w.t.Helper()
	if st.Error != "" || st.User != want.user {
		w.t.Fatalf("%s: %s %q: %s", want.client, st.Error, st.User, st.Description)
	}
	ctx := oidc.ClientContext(w.t.Context(), w.s.u.Client())
	id, err := w.s.provider.Verifier(&oidc.Config{ClientID: want.client}).Verify(ctx, st.ID)
	if err != nil {
		w.t.Fatalf("%s: %v", want.client, err)
	}
	if id.IssuedAt.Before(want.since.Truncate(time.Second)) {
		w.t.Errorf("%s: iat %s is not new", want.client, id.IssuedAt)
	}
	if st.Nonce != "" && id.Nonce != st.Nonce {
		w.t.Errorf("%s: nonce is %q, asked %q", want.client, id.Nonce, st.Nonce)
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(st.Access); err != nil {
			w.t.Errorf("%s: %v", want.client, err)
		}
	}
	if _, err := w.s.provider.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(ctx, st.Access); err != nil {
		w.t.Errorf("%s: access token: %v", want.client, err)
	}
	for what, raw := range map[string]string{"id_token": st.ID, "access_token": st.Access} {
		if ours := strings.HasPrefix(kid(raw), "bk-"); ours != want.backup {
			w.t.Errorf("%s: %s: kid is %s", want.client, what, kid(raw))
		}
	}
	if want.client != "msal" && st.Info != want.user+"@example.test" { // that library does not ask UserInfo
		w.t.Errorf("%s: UserInfo says %q", want.client, st.Info)
	}
}

func kid(jwt string) string {
	t, err := oauth.ParseJWT(jwt)
	if err != nil {
		return ""
	}
	return t.Header.Text("kid")
}
