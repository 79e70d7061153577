package oauth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"understudy/flow"
	"understudy/session"
)

func authz(query string) *authorization {
	form, err := url.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	return Authorization{}.Match(&flow.Request{Form: form, Issuer: issuer}).(*authorization)
}

const asked = "client_id=app&response_type=code&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&scope=openid&state=s"

// jws is a JWS that nobody signed.
func jws(claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + b64([]byte(claims)) + ".AAAA"
}

// A redirect answers a request only if it leads to the very redirect URI and carries the very state.
func TestReadRedirect(t *testing.T) {
	fragment := strings.Replace(asked, "response_type=code", "response_type=id_token&nonce=n", 1)
	jarm := asked + "&response_mode=jwt"
	withQuery := strings.Replace(asked, "%2Fcb", "%2Fcb%3Fa%3Db", 1)
	for _, c := range []struct {
		rule, asked, location, code string
	}{
		{"a code", asked, "https://app.example/cb?code=c&state=s", "c"},
		{"in another order, with more", asked, "https://app.example/cb?iss=i&state=s&code=c", "c"},
		{"behind a query", withQuery, "https://app.example/cb?a=b&state=s&code=c", "c"},
		{"another state", asked, "https://app.example/cb?code=c&state=x", ""},
		{"no state", asked, "https://app.example/cb?code=c", ""},
		{"a longer path", asked, "https://app.example/cbx?code=c&state=s", ""},
		{"a user", asked, "https://app.example@evil.example/cb?code=c&state=s", ""},
		{"another scheme", asked, "http://app.example/cb?code=c&state=s", ""},
		{"a code twice", asked, "https://app.example/cb?code=c&code=d&state=s", ""},
		{"in the fragment", asked, "https://app.example/cb#code=c&state=s", ""},
		{"in the query", fragment, "https://app.example/cb?id_token=x&state=s", ""},
		{"a broken escape", asked, "https://app.example/cb?code=%zz&state=s", ""},
		{"nothing", asked, "https://app.example/cb?state=s", ""},
		{"a JWT", jarm, "https://app.example/cb?response=" + jws(`{"iss":"i","code":"c","iss":"i","state":"s","exp":1}`), "c"},
		{"a JWT, whose name has two values", jarm, "https://app.example/cb?response=" + jws(`{"code":"c","code":"d","state":"s"}`), ""},
		{"a JWT for another state", jarm, "https://app.example/cb?response=" + jws(`{"code":"c","state":"x"}`), ""},
		{"a JWT and something beside it", jarm, "https://app.example/cb?state=s&response=" + jws(`{"code":"c","state":"s"}`), ""},
		{"a JWT that nobody asked for", asked, "https://app.example/cb?response=" + jws(`{"code":"c","state":"s"}`), ""},
		{"no JWT where one was asked for", jarm, "https://app.example/cb?code=c&state=s", ""},
		{"a JWT that is encrypted", jarm, "https://app.example/cb?response=e30.a.b.c.d", ""},
		{"a JWT, and something behind it", jarm, "https://app.example/cb?response=" + jws(`{"code":"c","state":"s"}{}`), ""},
		{"to many", asked, "https://app.example/cb?code=c&state=s" + strings.Repeat("&x", 40), ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := ReadRedirect(c.location, authz(c.asked).Ask())
			if (r == nil) != (c.code == "") || r != nil && r.Code != c.code {
				t.Errorf("%+v", r)
			}
			if r != nil && (string(r.Params.Get("code")) != "null" || string(r.Params.Get("state")) != "null") {
				t.Error("what belongs to one response is kept")
			}
		})
	}
}

// What an application must ask again is all that may change what it gets, and nothing that changes each time.
func TestDoorOfAnAuthorization(t *testing.T) {
	door := func(q string) string { return session.Joined(authz(q).Ask().Door...) }
	was := door(asked)
	for _, same := range []string{"&nonce=n", "&prompt=none", "&login_hint=a", "&id_token_hint=x", "&max_age=10", "&ui_locales=de", "&client-request-id=1", "&x-client-SKU=1"} {
		if door(asked+same) != was {
			t.Errorf("%s makes it another", same)
		}
	}
	if door(strings.Replace(asked, "state=s", "state=t", 1)) != was {
		t.Error("the state makes it another")
	}
	for _, other := range []string{
		"&acr_values=gold", "&claims=%7B%7D", "&resource=a", "&audience=a", "&kc_idp_hint=x", "&response_mode=fragment", "&code_challenge=c",
		"&code_challenge=c&code_challenge_method=S256", "&organization=o", "&a=b",
	} {
		if door(asked+other) == was {
			t.Errorf("%s does not make it another", other)
		}
	}
	if door(asked+"&code_challenge=c") != door(asked+"&code_challenge=d&code_challenge_method=plain") {
		t.Error("plain is the default (RFC 7636, section 4.3)")
	}
	if door(strings.Replace(asked, "scope=openid", "scope=b+a", 1)) != door(strings.Replace(asked, "scope=openid", "scope=a+b", 1)) {
		t.Error("the order of scopes makes it another")
	}
	x := authz(asked)
	x.r.Pushed = true
	if session.Joined(x.door("https://app.example/cb")...) == was {
		t.Error("a pushed request is the same as a link")
	}
}

// Canonical is the same for whatever a lenient primary takes for the same, and for nothing else.
func TestCanonical(t *testing.T) {
	const token = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJhIn0.AAAB"
	for _, same := range []string{token, token + "=", token + ".", token + "\r\n", " " + token, "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJhIn0.AA\nAB"} {
		if Canonical(same) != token {
			t.Errorf("%q", same)
		}
	}
	for _, other := range []string{"", "opaque", "opaque=", "a.b", "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJiIn0.AAAB", "!.!.!"} {
		if Canonical(other) == token || Canonical(other) != other {
			t.Errorf("%q is %q", other, Canonical(other))
		}
	}
	// Every character that may stand last, in tails of two and of three: the bits that no byte holds say nothing.
	for _, tail := range []string{"Y", "YW"} {
		for _, last := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
			is := tail + string(last)
			b, err := base64.RawURLEncoding.DecodeString(is)
			if err != nil {
				t.Fatal(err)
			}
			want := base64.RawURLEncoding.EncodeToString(b)
			for _, place := range []string{"%s.YQ.YQ", "YQ.%s.YQ", "YQ.YQ.%s"} {
				if got := Canonical(fmt.Sprintf(place, is)); got != fmt.Sprintf(place, want) {
					t.Errorf("%s at %s is %q", is, place, got)
				}
			}
		}
	}
}

// Law 1: only a plain navigation is answered at once where its failure could be the browser's doing.
func TestPlainNavigations(t *testing.T) {
	const plain = asked + "&nonce=n&code_challenge=c-_&code_challenge_method=S256"
	navigation := func(query string, change ...func(*flow.Request)) *flow.Request {
		r := &flow.Request{HTTP: httptest.NewRequest(http.MethodGet, "/auth?"+query, nil), Issuer: issuer, Endpoint: flow.Authorization}
		r.HTTP.Header = http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Sec-Fetch-Mode": {"navigate"}, "Cookie": {"a=b"}}
		r.Form, r.FormErr = url.ParseQuery(query)
		for _, c := range change {
			c(r)
		}
		return r
	}
	// As the gateway reads a request that is in another place than the query: what stands there does not show in the form, and the
	// query may be of as many parameters.
	elsewhere := func(mark func(*flow.Request)) *flow.Request {
		return navigation("client_id=app&request_uri=x&a=b&c=d&e=f&g=h&i=j&k=l", func(r *flow.Request) {
			r.Form, r.FormErr = url.ParseQuery(plain)
			mark(r)
		})
	}
	long := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct {
		rule string
		r    *flow.Request
		want string
	}{
		{"a browser", navigation(plain), ""},
		{"an application's own parameter", navigation(plain + "&kc_idp_hint=a%2Fb"), ""},
		{"pushed", elsewhere(func(r *flow.Request) { r.Pushed = true }), "parameters"},
		{"signed", elsewhere(func(r *flow.Request) { r.Signed = true }), "parameters"},
		{"no request", &flow.Request{}, "method"},
		{"POST", navigation(plain, func(r *flow.Request) { r.HTTP.Method = http.MethodPost }), "method"},
		{"a body", navigation(plain, func(r *flow.Request) { r.HTTP.ContentLength = -1 }), "method"},
		{"trailers", navigation(plain, func(r *flow.Request) { r.HTTP.Trailer = http.Header{"X": nil} }), "method"},
		{"a broken escape", navigation(plain + "&x=%zz"), "parameters"},
		{"an empty pair", navigation(plain + "&"), "parameters"},
		{"a parameter twice", navigation(plain + "&state=s"), "parameters"},
		{"one twice, in as many pairs", navigation(plain, func(r *flow.Request) { r.Form["state"] = []string{"s", "t"} }), "parameters"},
		{"a path in the nonce", navigation(asked + "&nonce=..%2Fetc"), "parameters"},
		{"two dots in a hint", navigation(plain + "&id_token_hint=a..b"), "parameters"},
		{"a dot at its end", navigation(plain + "&id_token_hint=a."), "parameters"},
		{"a token as a hint", navigation(plain + "&id_token_hint=a.b.c"), ""},
		{"a long nonce", navigation(asked + "&nonce=" + long(513)), "parameters"},
		{"whose it is", navigation(plain + "&login_hint=alice"), "parameters"},
		{"how old", navigation(plain + "&max_age=1"), "parameters"},
		{"a long parameter of its own", navigation(plain + "&x=" + long(2049)), "parameters"},
		{"a control character in one", navigation(plain + "&x=%00"), "parameters"},
		{"an unknown header", navigation(plain, func(r *flow.Request) { r.HTTP.Header.Set("X-Debug", "1") }), "headers"},
		{"an Accept of nobody", navigation(plain, func(r *flow.Request) { r.HTTP.Header.Set("Accept", "text/html\"") }), "headers"},
		{"an Accept that forbids all", navigation(plain, func(r *flow.Request) { r.HTTP.Header.Set("Accept", "*/*;q=0") }), "headers"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := OddNavigation(c.r); got != c.want {
				t.Errorf("odd %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzAuthorizationResponse(f *testing.F) {
	f.Add(asked, "https://app.example/cb?code=c&state=s", `<form action="https://app.example/cb"><input name="code" value="c"><input name=state value=s></form>`)
	f.Add(asked+"&response_mode=form_post", "https://app.example/cb#a", `<form action='https://app.example/cb'><input name=code value='&quot;'/><input name=state value=s></form`)
	f.Add(asked+"&response_mode=query.jwt", "https://app.example/cb?response="+jws(`{"code":"c","state":"s","iss":"i","exp":1,"iss":"i"}`), "")
	f.Add("response_type=id_token&nonce=n&redirect_uri=a:b&client_id=c", "a:b#id_token=..", "<")
	f.Fuzz(func(t *testing.T, query, location, page string) {
		form, err := url.ParseQuery(query)
		x := Authorization{}.Match(&flow.Request{Form: form, FormErr: err, Issuer: issuer})
		ask := x.Ask()
		for _, r := range []*Redirected{ReadRedirect(location, ask), ReadForm([]byte(page), ask)} {
			if r == nil {
				continue
			}
			for _, m := range r.Params {
				switch m.Name {
				case "code", "state", "id_token", "access_token":
					if string(m.Value) != "null" {
						t.Errorf("%s is kept", m.Name)
					}
				}
			}
			if l := r.Lesson(&flow.Request{HTTP: post(plain).HTTP, Issuer: issuer}, ask); l.Record == nil && l.Unlearned == "" {
				t.Error("nothing is said")
			}
		}
		// Where an answer leads begins with the redirect URI, whatever else was asked.
		if to := ErrorResponse(ask, "", "e", "d"); to.Post == nil && !strings.HasPrefix(to.Header.Get("Location"), ask.Params["redirect_uri"]) {
			t.Errorf("it leads to %q", to.Header.Get("Location"))
		}
		if again := respelled(location); canonical(location) && again != location {
			t.Errorf("%q is canonical, and spelled %q", location, again)
		}
		if c := Canonical(location); Canonical(c) != c {
			t.Errorf("%q is %q, and that is %q", location, c, Canonical(c))
		}
	})
}
