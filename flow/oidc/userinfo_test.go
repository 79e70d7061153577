package oidc

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

func request(method, target, contentType, body string, header ...string) *flow.Request {
	h := httptest.NewRequest(method, target, strings.NewReader(body))
	if contentType != "" {
		h.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		h.Header.Add(header[i], header[i+1])
	}
	r := &flow.Request{HTTP: h, Body: []byte(body), Endpoint: flow.UserInfo}
	r.Form, r.FormErr = url.ParseQuery(body)
	return r
}

const form = "application/x-www-form-urlencoded"

func TestOneBearerToken(t *testing.T) {
	for _, c := range []struct {
		rule string
		r    *flow.Request
		want string
	}{
		{"GET with the header", request("GET", "/u", "", "", "Authorization", "Bearer abc.d-_~+/="), "abc.d-_~+/="},
		{"a provider's prefix", request("GET", "/u", "", "", "Authorization", "Bearer ory_at:abc"), "ory_at:abc"},
		{"the scheme in any case", request("GET", "/u", "", "", "Authorization", "bearer abc"), "abc"},
		{"POST with the header and no body", request("POST", "/u", "", "", "Authorization", "Bearer abc"), "abc"},
		{"POST with the form", request("POST", "/u", form, "access_token=abc"), "abc"},
		{"POST with the form and a charset", request("POST", "/u", form+"; charset=utf-8", "access_token=abc"), "abc"},
		{"POST with the header and another form", request("POST", "/u", form, "schema=openid", "Authorization", "Bearer abc"), "abc"},
		{"another query", request("GET", "/u?schema=openid", "", "", "Authorization", "Bearer abc"), "abc"},

		{"none", request("GET", "/u", "", ""), ""},
		{"in the query", request("GET", "/u?access_token=abc", "", ""), ""},
		{"in the query beside the header", request("GET", "/u?access_token=abc", "", "", "Authorization", "Bearer abc"), ""},
		{"in a query that cannot be read, beside the header", request("GET", "/u?access_token=abc;x", "", "", "Authorization", "Bearer abc"), ""},
		{"in header and form", request("POST", "/u", form, "access_token=abc", "Authorization", "Bearer abc"), ""},
		{"two headers", request("GET", "/u", "", "", "Authorization", "Bearer abc", "Authorization", "Bearer abc"), ""},
		{"twice in the form", request("POST", "/u", form, "access_token=abc&access_token=abc"), ""},
		{"a form by GET", request("GET", "/u", form, "access_token=abc"), ""},
		{"a GET with a body", request("GET", "/u", "text/plain", "x", "Authorization", "Bearer abc"), ""},
		{"a form by PUT", request("PUT", "/u", form, "access_token=abc"), ""},
		{"a form that is none by its type", request("POST", "/u", "text/plain", "access_token=abc"), ""},
		{"a form of two types", request("POST", "/u", form, "access_token=abc", "Content-Type", "application/json"), ""},
		{"a form with an error in it", request("POST", "/u", form, "access_token=abc&x=%zz"), ""},
		{"DELETE", request("DELETE", "/u", "", "", "Authorization", "Bearer abc"), ""},
		{"Basic", request("GET", "/u", "", "", "Authorization", "Basic YTpi"), ""},
		{"Basic and a form", request("POST", "/u", form, "access_token=abc", "Authorization", "Basic YTpi"), ""},
		{"the DPoP scheme", request("GET", "/u", "", "", "Authorization", "DPoP abc"), ""},
		{"a DPoP proof beside a bearer token", request("GET", "/u", "", "", "Authorization", "Bearer abc", "DPoP", "x"), ""},
		{"an empty token", request("GET", "/u", "", "", "Authorization", "Bearer "), ""},
		{"two tokens without a blank", request("GET", "/u", "", "", "Authorization", "Bearer abc,def"), ""},
		{"two tokens in one header", request("GET", "/u", "", "", "Authorization", "Bearer abc, Bearer def"), ""},
		{"other bytes", request("GET", "/u", "", "", "Authorization", "Bearer ab\x00c"), ""},
		{"too long", request("GET", "/u", "", "", "Authorization", "Bearer "+strings.Repeat("a", maxToken+1)), ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			x := UserInfo{}.Match(c.r)
			if c.want == "" {
				if x != nil {
					t.Fatalf("matched: %+v", x.Ask())
				}
				return
			}
			if x == nil {
				t.Fatal("not matched")
			}
			a := x.Ask()
			if a.Artifact.Kind != session.AccessToken || a.Artifact.Value != c.want || a.Client != (flow.Credentials{}) || a.Unplayable != "" {
				t.Errorf("ask %+v", a)
			}
		})
	}
}

func object(t *testing.T, s string) session.Object {
	t.Helper()
	o, err := session.ParseObject([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func token(t *testing.T, claims string) *session.Token {
	t.Helper()
	return &session.Token{Header: object(t, `{"alg":"RS256"}`), Claims: object(t, claims)}
}

// untold is a permit for a sign-in of which nobody asked UserInfo.
func untold(rec *session.Record) *flow.Permit {
	return &flow.Permit{
		Record: rec, Now: time.Unix(1_700_000_100, 0), Ends: time.Unix(1_700_000_300, 0),
		UserInfo: func() (*session.Record, int64, error) { return nil, 0, session.ErrNoRecord },
		HabitOf:  func(string) (*session.Habit, error) { return &session.Habit{}, nil },
	}
}

// What the primary said at its UserInfo endpoint is said again, as it said it.
func TestUserInfoSaysWhatItSaid(t *testing.T) {
	const said = `{"sub":"u1","desk":"7","email":"old@example.com","groups":["a"]}`
	const at = 1_700_000_050
	learn := func(contentType, body string, tok *session.Token) *flow.Lesson {
		x := UserInfo{}.Match(request("GET", "/u", "", "", "Authorization", "Bearer a"))
		r := &flow.Response{Status: 200, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body), Token: tok}
		if r.Object = object(t, `{}`); tok == nil && strings.HasPrefix(body, "{") {
			r.Object = object(t, body)
		}
		return x.Learn(r)
	}
	l := learn("application/json;charset=UTF-8", said, nil)
	if l == nil || l.Unlearned != "" || l.Record.UserInfo == nil || l.Record.UserInfo.Header != nil {
		t.Fatalf("%+v", l)
	}
	if l := learn("application/json", `{"sub":"`+strings.Repeat("u", maxUserInfo)+`"}`, nil); l != nil {
		t.Error("a large one is kept")
	}
	rec := &session.Record{Client: "spa", Subject: "u1", Scope: []string{"openid", "email"}, IDToken: token(t, `{"sub":"u1","iat":1700000000,"email":"id@example.com"}`)}
	with := func(l *flow.Lesson, change func(told, rec *session.Record, p *flow.Permit)) (string, *flow.Refusal) {
		told, mine := *l.Record, *rec
		told.Client, told.Subject, told.Scope = rec.Client, rec.Subject, rec.Scope
		p := untold(&mine)
		p.UserInfo = func() (*session.Record, int64, error) { return &told, at * int64(time.Second), nil }
		p.Sign = func(class string, h, c session.Object) (string, error) {
			return class + string(h.Append(nil)) + string(c.Append(nil)), nil
		}
		if change != nil {
			change(&told, &mine, p)
		}
		r, no := UserInfo{}.Answer(p)
		if no != nil {
			return "", no
		}
		return r.Header.Get("Content-Type") + " " + string(r.Body), nil
	}
	tokens := `application/json {"sub":"u1","email":"id@example.com"}`
	for _, c := range []struct {
		rule, want string
		change     func(told, rec *session.Record, p *flow.Permit)
	}{
		{"as it was", "application/json;charset=UTF-8 " + said, nil},
		{"a later token knows better", "application/json;charset=UTF-8 " + strings.Replace(said, "old@", "new@", 1), func(_, rec *session.Record, _ *flow.Permit) {
			rec.IDToken = token(t, `{"sub":"u1","iat":1700000060,"email":"new@example.com","phone":"1"}`)
		}},
		{"a wider scope", "application/json;charset=UTF-8 " + said, func(_, rec *session.Record, _ *flow.Permit) { rec.Scope = []string{"email", "x", "openid"} }},
		{"a narrower scope", `application/json {"sub":"u1"}`, func(_, rec *session.Record, _ *flow.Permit) { rec.Scope = []string{"openid"} }},
		{"another client's", tokens, func(told, _ *session.Record, _ *flow.Permit) { told.Client = "spa2" }},
		{"somebody else's", tokens, func(told, _ *session.Record, _ *flow.Permit) { told.Subject = "u2" }},
		{"about somebody else", tokens, func(told, _ *session.Record, _ *flow.Permit) {
			told.UserInfo = &session.Token{Claims: object(t, `{"sub":"u2","email":"x"}`)}
		}},
	} {
		if got, no := with(l, c.change); no != nil || got != c.want {
			t.Errorf("%s: %v %s", c.rule, no, got)
		}
	}

	jws := &session.Token{Header: object(t, `{"alg":"ES256","kid":"p"}`), Claims: object(t, `{"sub":"u1","iss":"i","aud":"spa","iat":1,"exp":2,"desk":"7"}`)}
	l = learn("application/jwt", "a.b.c", jws)
	if l == nil || l.Unlearned != "" {
		t.Fatalf("signed: %+v", l)
	}
	want := `application/jwt userinfo{"alg":"ES256","kid":"p"}{"sub":"u1","iss":"i","aud":"spa","iat":1700000100,"exp":1700000300,"desk":"7"}`
	if got, no := with(l, nil); no != nil || got != want {
		t.Errorf("signed: %v %s", no, got)
	}
	// Who is told in a signed form is told in no other.
	p := untold(rec)
	p.HabitOf = func(name string) (*session.Habit, error) {
		if name != UserInfoHabit("spa") {
			return &session.Habit{}, nil
		}
		return &session.Habit{Refresh: l.Shape}, nil
	}
	if r, no := (UserInfo{}).Answer(p); no == nil || no.Code != "userinfo_unlearned" {
		t.Errorf("%+v %+v", r, no)
	}
	for why, tok := range map[string]*session.Token{
		"userinfo_encrypted":  nil,
		"symmetric_signature": {Header: object(t, `{"alg":"HS256"}`), Claims: jws.Claims},
		"unsigned":            {Header: object(t, `{"alg":"none"}`), Claims: jws.Claims},
		"crit":                {Header: object(t, `{"alg":"ES256","crit":["x"]}`), Claims: jws.Claims},
	} {
		if l := learn("application/jwt", "a.b.c", tok); l == nil || l.Unlearned != why || l.Shape.Members[0] != signedUserInfo {
			t.Errorf("%s: %+v", why, l)
		}
	}
}

func TestUserInfoSaysWhatTheTokensSaid(t *testing.T) {
	const id = `{"exp":1,"iat":1,"auth_time":1,"jti":"j","iss":"i","aud":"spa","sub":"u1","typ":"ID","azp":"spa","nonce":"n","sid":"s","at_hash":"h","acr":"1",` +
		`"email_verified":true,"name":"Ada \u00e9","groups":["a","b"],"preferred_username":"ada","given_name":"Ada","email":"ada@example.com","phone_number":"+1","address":{"country":"UK"}}`
	const at = `{"exp":1,"iat":1,"jti":"j","iss":"i","aud":["account"],"sub":"u1","typ":"Bearer","azp":"spa","sid":"s","realm_access":{"roles":["x"]},"resource_access":{},` +
		`"allowed-origins":["*"],"scope":"openid email","name":"another","department":{"no":7.10}}`
	const other = `{"sub":"somebody else","department":"x"}`
	openid := func(more ...string) []string { return append([]string{"openid"}, more...) }
	for _, c := range []struct {
		rule    string
		scope   []string
		id, at  string
		subject string
		want    string // "" refused with code
		code    string
		status  int
	}{
		{"every scope", openid("profile", "email", "phone", "address"), id, at, "u1",
			`{"sub":"u1","email_verified":true,"name":"Ada \u00e9","groups":["a","b"],"preferred_username":"ada","given_name":"Ada","email":"ada@example.com","phone_number":"+1","address":{"country":"UK"},"department":{"no":7.10}}`, "", 0},
		{"openid alone", openid(), id, at, "u1", `{"sub":"u1","groups":["a","b"],"department":{"no":7.10}}`, "", 0},
		{"profile", openid("profile"), id, "", "u1", `{"sub":"u1","name":"Ada \u00e9","groups":["a","b"],"preferred_username":"ada","given_name":"Ada"}`, "", 0},
		{"email", openid("email"), id, "", "u1", `{"sub":"u1","email_verified":true,"groups":["a","b"],"email":"ada@example.com"}`, "", 0},
		{"phone and address", openid("phone", "address"), id, "", "u1", `{"sub":"u1","groups":["a","b"],"phone_number":"+1","address":{"country":"UK"}}`, "", 0},
		{"no ID token", openid("profile"), "", at, "u1", `{"sub":"u1","name":"another","department":{"no":7.10}}`, "", 0},
		{"opaque access token, no ID token", openid(), "", "", "u1", `{"sub":"u1"}`, "", 0},
		{"the scope is not known: nothing that needs one", nil, id, at, "u1", `{"sub":"u1","groups":["a","b"],"department":{"no":7.10}}`, "", 0},
		{"a token about somebody else says nothing", openid(), id, other, "u1", `{"sub":"u1","groups":["a","b"]}`, "", 0},
		{"no subject", openid(), "", "", "", "", "no_subject", 503},
		{"openid was not granted", []string{"api", "profile"}, "", at, "u1", "", "scope_insufficient", 403},
	} {
		t.Run(c.rule, func(t *testing.T) {
			rec := &session.Record{Scope: c.scope, Subject: c.subject}
			if c.id != "" {
				rec.IDToken = token(t, c.id)
			}
			if c.at != "" {
				rec.AccessToken = token(t, c.at)
			}
			reply, no := UserInfo{}.Answer(untold(rec))
			if c.want == "" {
				if no == nil || no.Code != c.code || no.Status != c.status {
					t.Fatalf("refusal %+v, reply %+v", no, reply)
				}
				return
			}
			if no != nil {
				t.Fatalf("refused: %+v", no)
			}
			if got := string(reply.Body); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/json" || reply.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%d %v", reply.Status, reply.Header)
			}
			if len(reply.Issued) > 0 || reply.Fill != "" {
				t.Error("it hands out something")
			}
		})
	}
}

// Every claim of the protocol, however it got into a token, stays out.
func TestUserInfoNeverSaysProtocolClaims(t *testing.T) {
	for _, name := range []string{
		"iss", "aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "at_hash", "c_hash", "s_hash", "sid", "auth_time", "acr", "amr",
		"typ", "scope", "scp", "client_id", "cnf", "act", "session_state", "realm_access", "resource_access", "allowed-origins",
	} {
		rec := &session.Record{
			Scope: []string{"openid", "profile", "email", "address", "phone"}, Subject: "u",
			IDToken: token(t, `{"sub":"u","`+name+`":"x"}`), AccessToken: token(t, `{"sub":"u","`+name+`":"x"}`),
		}
		reply, no := UserInfo{}.Answer(untold(rec))
		if no != nil || string(reply.Body) != `{"sub":"u"}` {
			t.Errorf("%s: %s", name, reply.Body)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("POST", form, "Bearer abc", "access_token=abc", "a=b")
	f.Add("GET", "", "Bearer abc", "", "")
	f.Add("GET", "a;b=c/d", "DPoP x", "%zz", "access_token=%00")
	f.Fuzz(func(t *testing.T, method, contentType, authorization, body, query string) {
		r := &flow.Request{
			HTTP: &http.Request{Method: method, Header: http.Header{}, URL: &url.URL{RawQuery: query}}, Body: []byte(body),
		}
		if contentType != "" {
			r.HTTP.Header.Set("Content-Type", contentType)
		}
		if authorization != "" {
			r.HTTP.Header.Set("Authorization", authorization)
		}
		r.Form, r.FormErr = url.ParseQuery(body)
		if x := (UserInfo{}).Match(r); x != nil {
			v := x.Ask().Artifact.Value
			if v == "" || !strings.Contains(authorization+r.Form.Get("access_token"), v) {
				t.Errorf("token %q came from nowhere", v)
			}
		}
	})
}
