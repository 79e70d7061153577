package oauth

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

func asksAbout(t *testing.T, body string, header ...string) *introspection {
	t.Helper()
	h := httptest.NewRequest(http.MethodPost, "https://id.example.com/introspect", strings.NewReader(body))
	h.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		h.Header.Add(header[i], header[i+1])
	}
	r := &flow.Request{HTTP: h, Body: []byte(body), Endpoint: flow.Introspection, Issuer: issuer}
	r.Form, r.FormErr = url.ParseQuery(body)
	x := Introspection{}.Match(r)
	if x == nil {
		t.Fatal("no request of this flow")
	}
	return x.(*introspection)
}

const caller = "client_id=rs&client_secret=s3cret&token="

// A query of which the primary may read more than is read here could name another token.
func TestAQueryThatCannotBeReadIsNoQuestionAboutAToken(t *testing.T) {
	for query, want := range map[string]string{"": "", "?token=b;x": "ambiguous_parameters", "?x=%zz": "ambiguous_parameters", "?token=b": "ambiguous_parameters"} {
		h := httptest.NewRequest(http.MethodPost, "https://id.example.com/introspect"+query, nil)
		h.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r := &flow.Request{HTTP: h, Endpoint: flow.Introspection, Issuer: issuer}
		r.Form, r.FormErr = url.ParseQuery(caller + "a")
		if got := (Introspection{}).Match(r).Ask().Unplayable; got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestWhoAsksAboutAToken(t *testing.T) {
	x := asksAbout(t, caller+jwt(joseHeader, atClaims))
	if x.ask.Unplayable != "" || x.ask.Client.ID != "rs" || x.ask.Artifact.Kind != session.AccessToken || strings.Join(x.ask.Presented.Names(), " ") != "exp iat jti" {
		t.Errorf("%+v", x.ask)
	}
	for body, why := range map[string]string{
		"client_id=rs&token=a":               "",
		"token=a":                            "no_client",
		caller + "a&token=b":                 "repeated_parameters",
		"client_id=rs&client_secret=s":       "repeated_parameters",
		caller + "a&client_assertion=x":      "client_assertion",
		caller + "a&client_id=rs2":           "repeated_credentials",
		"client_id=rs&client_secret=s&token": "",
	} {
		if x := asksAbout(t, body); x.ask.Unplayable != why {
			t.Errorf("%s: unplayable for %q, want %q", body, x.ask.Unplayable, why)
		}
	}
	if x := asksAbout(t, "token=a", "Authorization", "Bearer abc"); x.ask.Unplayable != "authorization_scheme" {
		t.Errorf("a bearer: %q", x.ask.Unplayable)
	}
}

func TestWhatAnIntrospectionTeaches(t *testing.T) {
	active := `{"active":true,"client_id":"spa","aud":["rs","b"],"sub":"u","exp":1,"token_type":"Bearer"}`
	learn := func(x *introspection, status int, body string) *flow.Lesson {
		return x.Learn(&flow.Response{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)})
	}
	x := asksAbout(t, caller+"a")
	l := learn(x, 200, active)
	if l == nil || l.Unlearned != "" || l.Habit != told("client_secret_post", "rs", "spa", []byte(`["rs","b"]`), "") || len(l.Artifacts) != 0 || l.Interactive ||
		strings.Join(l.Shape.Members, " ") != "active client_id aud sub exp token_type" || l.Record.Subject != "" {
		t.Errorf("%+v", l)
	}
	for name, l := range map[string]*flow.Lesson{
		"not active":   learn(x, 200, `{"active":false}`),
		"a string":     learn(x, 200, `{"active":"true","client_id":"spa"}`),
		"a refusal":    learn(x, 401, active),
		"no JSON":      learn(x, 200, "x"),
		"not a 200":    learn(x, 201, active),
		"of an object": learn(x, 200, `["active"]`),
	} {
		if l != nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if l := learn(x, 200, `{"active":true}`); l == nil || l.Unlearned != "no_client" {
		t.Errorf("of no client: %+v", l)
	}
	if l := learn(asksAbout(t, "client_id=rs&token=a"), 200, active); l == nil || l.Unlearned != "" || l.Habit == told("client_secret_basic", "rs", "spa", []byte(`["rs","b"]`), "") {
		t.Errorf("a caller who proves nothing: %+v", l)
	}
	seen := map[string]bool{}
	for _, k := range []string{
		told("", "a", "b", nil, ""), told("", "ab", "", nil, ""), told("", "", "ab", nil, ""), told("", "a", "b", []byte(`"c"`), ""), told("", "a", "bc", nil, ""),
		told("", "a", "b", nil, "c"), told("none", "a", "b", nil, ""),
	} {
		if seen[k] {
			t.Errorf("two callers, clients or audiences are one: %q", k)
		}
		seen[k] = true
	}
}

// What is said of a token is of this token, and nothing that is not known.
func TestWhatIsSaidOfAToken(t *testing.T) {
	rec := *learned(t, Refresh{}.Match(post(plain)), reply(t)).Record
	members := []string{"exp", "iat", "nbf", "jti", "active", "sub", "client_id", "username", "scope", "token_type", "iss", "acr_of_nobody", "email"}
	say := func(rec *session.Record, change func(*flow.Permit)) (session.Object, *flow.Refusal) {
		p := permit(rec, nil)
		p.Play = &flow.Play{Client: flow.Proof{ID: "rs"}}
		p.Ends = time.Unix(1_700_009_999, 0)
		p.HabitOf = func(name string) (*session.Habit, error) {
			if name == told("", "rs", rec.Client, audienceOf(rec), "") {
				return &session.Habit{Refresh: &session.Shape{Members: members}}, nil
			}
			return &session.Habit{}, nil
		}
		if change != nil {
			change(p)
		}
		r, no := Introspection{}.Answer(p)
		if no != nil {
			return nil, no
		}
		o, err := session.ParseObject(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return o, nil
	}
	o, no := say(&rec, func(p *flow.Permit) { p.Play.Presented = ownMembers(jwt(joseHeader, atClaims)) })
	if no != nil || string(o.Get("active")) != "true" || o.Text("jti") == "" || o.Has("nbf") || o.Has("acr_of_nobody") || o.Text("client_id") != rec.Client ||
		string(o.Get("exp")) != "1700000300" || o.Text("token_type") != "Bearer" || o.Text("sub") != rec.Subject {
		t.Errorf("%v %s", no, o.Append(nil))
	}
	opaque := rec
	opaque.AccessToken, opaque.Opaque = nil, &session.Look{Length: 43, Charset: "base64url"}
	if o, no := say(&opaque, nil); no != nil || string(o.Get("exp")) != "1700009999" || string(o.Get("iat")) != "1700009699" || o.Has("jti") {
		t.Errorf("opaque: %v %s", no, o.Append(nil))
	}
	// A token that is bound is told to be, to the key and the certificate that it was bound to itself.
	bound, dpop := opaque, opaque
	bound.Certificate, dpop.JKT = "cert", "key"
	tells := func(p *flow.Permit) {
		p.HabitOf = func(string) (*session.Habit, error) {
			return &session.Habit{Refresh: &session.Shape{Members: []string{"active", "cnf"}}}, nil
		}
	}
	for name, c := range map[string]struct {
		rec    *session.Record
		change func(*flow.Permit)
		want   string
	}{
		"to a key, where that was told":   {&dpop, tells, `{"jkt":"key"}`},
		"to a key, where it was not":      {&dpop, nil, `{"jkt":"key"}`},
		"to another key":                  {&dpop, func(p *flow.Permit) { p.Bound = map[string]string{"jkt": "new"} }, `{"jkt":"new"}`},
		"to a certificate":                {&bound, tells, `{"x5t#S256":"cert"}`},
		"perhaps to a certificate":        {&bound, nil, ""},
		"to another certificate":          {&bound, func(p *flow.Permit) { tells(p); p.Bound = map[string]string{"x5t#S256": "new"} }, `{"x5t#S256":"new"}`},
		"to nothing, where that was told": {&opaque, tells, ""},
	} {
		if o, no := say(c.rec, c.change); no != nil || string(o.Get("cnf")) != c.want {
			t.Errorf("bound %s: %v %s", name, no, o.Append(nil))
		}
	}
	for name, change := range map[string]func(*flow.Permit){
		"another caller": func(p *flow.Permit) { p.Play.Client.ID = "rs2" },
		"nobody":         func(p *flow.Permit) { p.Play.Client.ID = "" },
		"another client's token": func(p *flow.Permit) {
			other := *p.Record
			other.Client = "spa2"
			p.Record = &other
		},
	} {
		if o, no := say(&rec, change); no == nil {
			t.Errorf("%s is told %s", name, o.Append(nil))
		}
	}
}

// A response in a JWT is learned for who asks for one, and made again with the primary's members.
func TestIntrospectionInAJWT(t *testing.T) {
	rec := *learned(t, Refresh{}.Match(post(plain)), reply(t)).Record
	said := `{"active":true,"client_id":"` + rec.Client + `","sub":"x","aud":` + string(audienceOf(&rec)) + `}`
	outer := `{"iss":"` + issuer + `","aud":"rs","iat":1,"token_introspection":` + said + `}`
	head := `{"alg":"ES256","typ":"token-introspection+jwt","kid":"p1"}`
	learn := func(header, claims string) *flow.Lesson {
		tok, err := ParseJWT(jwt(header, claims))
		if err != nil {
			t.Fatal(err)
		}
		o, err := session.ParseObject([]byte(said))
		if err != nil {
			t.Fatal(err)
		}
		x := asksAbout(t, caller+"a", "Accept", "application/json;q=0.5, application/token-introspection+jwt")
		return x.Learn(&flow.Response{Status: 200, Header: http.Header{"Content-Type": {signedIntrospection}}, Object: o, Token: tok})
	}
	l := learn(head, outer)
	if l == nil || l.Unlearned != "" || l.Class != flow.ClassIntrospection || l.Signed == nil || l.Habit != told("client_secret_post", "rs", rec.Client, audienceOf(&rec), signedIntrospection) {
		t.Fatalf("%+v", l)
	}
	for why, c := range map[string][2]string{
		"response_audience":   {head, strings.Replace(outer, `"aud":"rs"`, `"aud":"rs2"`, 1)},
		"other_issuer":        {head, strings.Replace(outer, issuer, "https://evil.example", 1)},
		"symmetric_signature": {strings.Replace(head, "ES256", "HS256", 1), outer},
		"no_kid":              {`{"alg":"ES256"}`, outer},
	} {
		if l := learn(c[0], c[1]); l == nil || l.Unlearned != why {
			t.Errorf("%s: %+v", why, l)
		}
	}
	p := permit(&rec, nil)
	p.Play = &flow.Play{Client: flow.Proof{ID: "rs"}, Params: map[string]string{"accept": signedIntrospection}}
	p.HabitOf = func(name string) (*session.Habit, error) {
		if name == l.Habit {
			return &session.Habit{Refresh: l.Shape}, nil
		}
		return &session.Habit{}, nil
	}
	var header, claims session.Object
	p.Sign = func(class string, h, c session.Object) (string, error) {
		if class != flow.ClassIntrospection {
			t.Errorf("class %s", class)
		}
		header, claims = h, c
		return "signed", nil
	}
	r, no := Introspection{}.Answer(p)
	if no != nil || string(r.Body) != "signed" || r.Header.Get("Content-Type") != signedIntrospection {
		t.Fatalf("%v %+v", no, r)
	}
	if header.Text("typ") != "token-introspection+jwt" || header.Text("alg") != "ES256" || claims.Text("iss") != issuer || claims.Text("aud") != "rs" || claims.Has("exp") {
		t.Errorf("%s %s", header.Append(nil), claims.Append(nil))
	}
	if o, err := session.ParseObject(claims.Get("token_introspection")); err != nil || string(o.Get("active")) != "true" || o.Text("sub") != rec.Subject {
		t.Errorf("%s", claims.Append(nil))
	}
	p.Play.Params = nil
	if r, no := (Introspection{}).Answer(p); no == nil {
		t.Errorf("who asks for JSON gets %s", r.Body)
	}
}
