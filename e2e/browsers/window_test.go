package browsers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/flow/oauth"
)

// tab is a tab of a browser.
type tab struct {
	t *testing.T
	s *stage
	driver
}

// open opens a URL in a new tab, which is closed when the test ends.
func (b *browser) open(t *testing.T, url string) *tab {
	t.Helper()
	w := &tab{t, b.s, b.tab(t)}
	if err := w.navigate(url); err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	return w
}

// in is the tab as a subtest uses it.
func (w *tab) in(t *testing.T) *tab { return &tab{t, w.s, w.driver} }

// again loads the tab's page again.
func (w *tab) again() *tab {
	w.t.Helper()
	if err := w.reload(); err != nil {
		w.t.Fatalf("reload: %v", err)
	}
	return w
}

// act runs a script whose value does not matter.
func (w *tab) act(what, script string) {
	w.t.Helper()
	if _, err := w.evaluate(script + `; ""`); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
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
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s, err := w.evaluate(look)
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
	s, err := w.evaluate(script)
	if err != nil {
		w.t.Fatalf("%s: %v", script, err)
	}
	return w.read(s)
}

// signIn fills the provider's form in.
func (w *tab) signIn(user string) {
	w.t.Helper()
	w.await("no form", func(p *page) bool { return p.Password })
	w.act("sign in", fmt.Sprintf(`document.getElementById("username").value = %q; document.getElementById("password").value = "pw-" + %[1]q;
		document.getElementById("kc-login").click()`, user))
	w.await("the form does not let "+user+" in", func(p *page) bool { return !p.Password })
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
	raws := map[string]string{"id_token": st.ID}
	if idOnly(want.client) {
		if st.Access != "" {
			w.t.Errorf("%s: an access token that nobody asked for", want.client)
		}
	} else if _, err := w.s.provider.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(ctx, st.Access); err != nil {
		w.t.Errorf("%s: access token: %v", want.client, err)
	} else {
		raws["access_token"] = st.Access
	}
	for what, raw := range raws {
		if ours := strings.HasPrefix(kid(raw), "bk-"); ours != want.backup {
			w.t.Errorf("%s: %s: kid is %s", want.client, what, kid(raw))
		}
	}
	if want.client != "msal" && !idOnly(want.client) && st.Info != want.user+"@example.test" { // that library does not ask UserInfo
		w.t.Errorf("%s: UserInfo says %q", want.client, st.Info)
	}
}

// idOnly says whether an application wants an ID token and nothing else.
func idOnly(client string) bool { return client == "implicit" || client == "express" }

func kid(jwt string) string {
	t, err := oauth.ParseJWT(jwt)
	if err != nil {
		return ""
	}
	return t.Header.Text("kid")
}
