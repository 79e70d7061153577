package gateway

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

// Of a logout by a link that cannot be read whole it is not known where the primary is asked to lead, or for whom.
func TestALogoutThatCannotBeReadLeadsNowhere(t *testing.T) {
	seal, err := session.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{c: Config{Seal: seal}}
	for junk, want := range map[string]bool{"": true, "&post_logout_redirect_uri=https://evil.example/;": false, "&x=%zz": false} {
		r := httptest.NewRequest(http.MethodGet, "https://id.example/logout?client_id=app&post_logout_redirect_uri=https://app.example/"+junk, nil)
		v := &visit{tenant: &Tenant{Name: "t"}, issuer: &issuer{ID: "https://id.example"}, request: &flow.Request{HTTP: r, Endpoint: flow.EndSession}}
		if v.readForm(); !g.postLogout(v).Zero() != want {
			t.Errorf("%q: it leads where it says: %v", junk, !want)
		}
	}
}

// What leads to the place that a logout asks for is that logout's only where nothing else can have led there.
func TestWhereALogoutLeads(t *testing.T) {
	const uri = "https://app.example/bye"
	b := newBrowsers(time.Now)
	ask := func(id session.ID, uri, state string) {
		b.leaves(id, &leaving{at: session.ID{1}, path: "/session/end", uri: uri, state: []string{state}})
	}
	for name, c := range map[string]struct {
		path, location string
		more           string // another place that is asked for
		want           bool
	}{
		"after the yes":                 {"/session/end/confirm", uri + "?state=s%26", "", true},
		"another state":                 {"/session/end/confirm", uri + "?state=s", "", false},
		"no state":                      {"/session/end/confirm", uri, "", false},
		"an application's code":         {"/session/end/confirm", uri + "?code=c&state=s%26", "", false},
		"a longer place":                {"/session/end/confirm", uri + ".evil.example?state=s%26", "", false},
		"elsewhere at the primary":      {"/auth", uri + "?state=s%26", "", false},
		"beside the endpoint":           {"/session/ending", uri + "?state=s%26", "", false},
		"two logouts under way at once": {"/session/end/confirm", uri + "?state=s%26", "https://evil.example/", false},
	} {
		id := session.NewID()
		ask(id, uri, "s&")
		if c.more != "" {
			ask(id, c.more, "s&")
		}
		x := b.left(id, c.path)
		if got := x != nil && !x.unclear && x.leads(c.location); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// Without a state nothing may be added to the place, and where it has a query of its own the state follows that.
	for name, c := range map[string]struct {
		x        leaving
		location string
		want     bool
	}{
		"no state was asked for": {leaving{uri: uri}, uri, true},
		"a longer host":          {leaving{uri: "https://app.example"}, "https://app.example.evil.example", false},
		"an application's code":  {leaving{uri: uri}, uri + "?code=c", false},
		"behind a query":         {leaving{uri: uri + "?a=b", state: []string{"s"}}, uri + "?a=b&state=s", true},
		"a second query":         {leaving{uri: uri + "?a=b", state: []string{"s"}}, uri + "?a=b?state=s", false},
	} {
		if got := c.x.leads(c.location); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// Another logout of the same browser, of another session or with another state, makes both unclear.
	for name, other := range map[string]leaving{
		"another session": {at: session.ID{2}, path: "/session/end", uri: uri, state: []string{"s"}},
		"another state":   {at: session.ID{1}, path: "/session/end", uri: uri, state: []string{"t"}},
		"no state":        {at: session.ID{1}, path: "/session/end", uri: uri},
	} {
		id := session.NewID()
		ask(id, uri, "s")
		b.leaves(id, &other)
		if x := b.left(id, "/session/end/confirm"); x == nil || !x.unclear {
			t.Errorf("%s: one of them is taken", name)
		}
	}
}
