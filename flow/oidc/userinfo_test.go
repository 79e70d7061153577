package oidc

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

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
			if l := x.Learn(&flow.Response{Status: 200, Body: []byte(`{"sub":"u"}`)}); l != nil {
				t.Errorf("learned %+v", l)
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
			reply, no := UserInfo{}.Answer(&flow.Permit{Record: rec})
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
		reply, no := UserInfo{}.Answer(&flow.Permit{Record: rec})
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
