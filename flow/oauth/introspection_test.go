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

func TestWhoAsksAboutAToken(t *testing.T) {
	x := asksAbout(t, caller+jwt(joseHeader, atClaims))
	if x.ask.Unplayable != "" || x.ask.Client.ID != "rs" || x.ask.Artifact.Kind != session.AccessToken || strings.Join(x.ask.Presented.Names(), " ") != "exp iat jti" {
		t.Errorf("%+v", x.ask)
	}
	for body, why := range map[string]string{
		"client_id=rs&token=a":               "no_client_secret",
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
	if l == nil || l.Unlearned != "" || l.Habit != told("rs", "spa", []byte(`["rs","b"]`)) || len(l.Artifacts) != 0 || l.Interactive ||
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
	if l := learn(asksAbout(t, "client_id=rs&token=a"), 200, active); l == nil || l.Unlearned != "no_client_secret" {
		t.Errorf("a caller who proves nothing: %+v", l)
	}
	seen := map[string]bool{}
	for _, k := range []string{told("a", "b", nil), told("ab", "", nil), told("", "ab", nil), told("a", "b", []byte(`"c"`)), told("a", "bc", nil)} {
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
			if name == told("rs", rec.Client, audienceOf(rec)) {
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
	if o, no := say(&opaque, nil); no != nil || string(o.Get("exp")) != "1700009999" || o.Has("iat") || o.Has("jti") {
		t.Errorf("opaque: %v %s", no, o.Append(nil))
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
