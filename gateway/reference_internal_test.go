package gateway

import (
	"maps"
	"net/url"
	"slices"
	"testing"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

func TestCheckRequestURI(t *testing.T) {
	for uri, good := range map[string]bool{
		"https://app.example/r": true, "https://app.example/r?a=b": true, "https://app.example/r/*": true, "https://app.example/*": true,
		"http://127.0.0.1:9/r": true, "http://localhost:9/*": true,
		"http://app.example/r": false, "http://127.0.0.1.example/r": false, "https://u@app.example/r": false, "https://app.example/r#x": false,
		"https://*/r": false, "https://*": false, "https://app.example*": false, "https://app.example/r*": false, "https://app.example/*/r": false,
		"https://app.example/r?*": false, "https://app.example/r?a=/*": false, "https://app.example/*/*": false, "ftp://app.example/r": false, "/r": false, "": false,
	} {
		if err := CheckRequestURI(uri); (err == nil) != good {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestRegisteredRequestURI(t *testing.T) {
	f := &references{uris: []string{"https://app.example/r", "https://app.example/q?a=b", "https://app.example/o/*"}}
	for uri, want := range map[string]bool{
		"https://app.example/r": true, "https://app.example/r#x": true, "https://app.example/q?a=b": true, "https://app.example/o/A-z0._~": true, "https://app.example/o/x#y": true,
		"https://app.example/r/": false, "https://app.example/r?x": false, "https://app.example/R": false, "https://app.example/": false, "https://app.example": false,
		"http://app.example/r": false, "https://app.example:443/r": false, "https://app.example@evil.example/r": false, "https://evil.example/r": false,
		"https://app.example/q?a=b&c": false, "https://app.example/q": false, "https://app.example/r%23x": false,
		"https://app.example/o/": false, "https://app.example/o/*": false, "https://app.example/o/..": false, "https://app.example/o/.": false,
		"https://app.example/o/x/y": false, "https://app.example/o/x?y": false, "https://app.example/o/%2e%2e": false, "https://app.example/o/x\\y": false,
		"https://app.example/o/x\n": false, "https://app.example/o/@x": false, "https://app.example/ox": false, "": false, "#": false,
	} {
		if f.registered(uri) != want {
			t.Errorf("%q: %v", uri, !want)
		}
	}
}

func TestWhatIsFetched(t *testing.T) {
	const uri = "https://app.example/r"
	one := url.Values{"client_id": {"a"}, "request_uri": {uri}}
	with := func(name string, vs ...string) url.Values {
		f := maps.Clone(one)
		f[name] = vs
		return f
	}
	for _, c := range []struct {
		rule     string
		form     url.Values
		pushed   bool
		metadata string
		busy     bool
		want     bool
	}{
		{rule: "a registered one", form: one, want: true},
		{rule: "what the primary's metadata says is no other", form: one, metadata: "true", want: true},
		{rule: "the primary takes none", form: one, metadata: "false"},
		{rule: "it was pushed", form: one, pushed: true},
		{rule: "a request by value beside it", form: with("request", "x")},
		{rule: "two", form: with("request_uri", uri, uri)},
		{rule: "none", form: url.Values{"client_id": {"a"}}},
		{rule: "another client", form: with("client_id", "b")},
		{rule: "too many at once", form: one, busy: true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f, err := newReferences(map[string][]string{"a": {uri}})
			if err != nil {
				t.Fatal(err)
			}
			if c.busy {
				for range maxReferences {
					f["a"].places <- struct{}{}
				}
			}
			is := &issuer{}
			if c.metadata != "" {
				is.object.Set("request_uri_parameter_supported", []byte(c.metadata))
			}
			v := &visit{tenant: &Tenant{references: f}, issuer: is}
			if got := (&Gateway{}).refer(v, &flow.Request{Form: c.form, Pushed: c.pushed}) != nil; got != c.want {
				t.Errorf("fetched %v", got)
			}
		})
	}
}

// What the primary answers must show that it read the object that was read here, and of what it gave nothing is taken from that.
func TestWhatTheAnswerShowsOfTheObject(t *testing.T) {
	with := func(ps ...string) (o session.Object) {
		for i := 0; i+1 < len(ps); i += 2 {
			o.Set(ps[i], session.Quote(ps[i+1]))
		}
		return o
	}
	id := func(nonce string) *session.Token { return &session.Token{Claims: with("nonce", nonce)} }
	asked := map[string]string{"state": "s", "nonce": "n"}
	opaque := &session.Look{}
	for _, c := range []struct {
		rule   string
		params map[string]string
		rec    session.Record
		answer session.Object
		scope  []string
		want   string
	}{
		{rule: "the reply says the scope", rec: session.Record{Opaque: opaque, IDToken: id("n"), Response: with("scope", "openid")}, scope: []string{"openid"}},
		{rule: "the response says it", rec: session.Record{Opaque: opaque}, answer: with("scope", "openid"), scope: []string{"openid"}},
		{rule: "the token says it", rec: session.Record{AccessToken: &session.Token{Claims: with("scope", "openid a")}}, scope: []string{"openid", "a"}},
		{rule: "the reply before the token", rec: session.Record{AccessToken: &session.Token{Claims: with("scope", "b")}, Response: with("scope", "a")}, scope: []string{"a"}},
		{rule: "an ID token alone", rec: session.Record{IDToken: id("n")}},
		{rule: "nobody says the scope: opaque", rec: session.Record{Opaque: opaque, IDToken: id("n")}, want: "request_object_unproven"},
		{rule: "nobody says the scope: a JWT", rec: session.Record{AccessToken: &session.Token{}, IDToken: id("n")}, want: "request_object_unproven"},
		{rule: "another nonce", rec: session.Record{IDToken: id("x")}, want: "request_object_unproven"},
		{rule: "no nonce came back", rec: session.Record{IDToken: &session.Token{}}, want: "request_object_unproven"},
		{rule: "a nonce that was not asked for", params: map[string]string{"state": "s"}, rec: session.Record{IDToken: id("n")}, want: "request_object_unproven"},
		{rule: "another nonce in front", rec: session.Record{IDToken: id("n"), Front: &session.Front{IDToken: id("x")}}, want: "request_object_unproven"},
		{rule: "no state", params: map[string]string{"nonce": "n"}, rec: session.Record{IDToken: id("n")}, want: "request_object_unproven"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if c.params == nil {
				c.params = asked
			}
			wide := []string{"openid", "everything"}
			c.rec.Scope, c.rec.Asked = wide, wide
			x := &tied{begun: &begun{ask: &flow.Ask{Params: c.params, Scope: wide}}, answer: &oauth.Redirected{Params: c.answer}}
			if scope, why := x.read(&c.rec); why != c.want || !slices.Equal(scope, c.scope) {
				t.Errorf("%q %q", scope, why)
			}
		})
	}
}
