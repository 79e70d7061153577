package oauth

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

// jwt is a token with the JSON texts as they are and a signature that nobody checks here.
func jwt(header, claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(claims)) + "." + e(bytes.Repeat([]byte{7}, 256))
}

// As Keycloak writes them: blanks in the header, a prefix before the jti, roles, numbers and lists.
const (
	joseHeader = `{"alg":"RS256","typ" : "JWT","kid" : "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE"}`
	atClaims   = `{"exp":1700000300,"iat":1700000000,"auth_time":1699990000,"jti":"onrtrt:a6ca1f0d-1111-4222-8333-444455556666","iss":"` + issuer + `","aud":"account",` +
		`"sub":"f3c1a0b2-0000-4000-8000-123456789abc","typ":"Bearer","azp":"spa","sid":"c2lkLXNpZC1zaWQtc2lkLTAx","acr":"1","allowed-origins":["https://app.example.com"],` +
		`"realm_access":{"roles":["default-roles-x","offline_access","uma_authorization"]},"resource_access":{"account":{"roles":["manage-account","manage-account-links","view-profile"]}},` +
		`"scope":"openid email profile","email_verified":true,"name":"Ada \u00e9","groups":["\/a","\/b"],"level":7.10,"big":12345678901234567890,"preferred_username":"ada","given_name":"Ada","family_name":"L","email":"ada@example.com"}`
	idClaims = `{"exp":1700000300,"iat":1700000000,"auth_time":1699990000,"jti":"62ca1f0d-1111-4222-8333-444455556666","iss":"` + issuer + `","aud":"spa",` +
		`"sub":"f3c1a0b2-0000-4000-8000-123456789abc","typ":"ID","azp":"spa","sid":"c2lkLXNpZC1zaWQtc2lkLTAx","at_hash":"x","acr":"1","email_verified":true,"name":"Ada \u00e9","email":"ada@example.com"}`
	rtClaims = `{"exp":1700001800,"iat":1700000000,"jti":"1","iss":"` + issuer + `","aud":"` + issuer + `","sub":"f3c1a0b2","typ":"Refresh","azp":"spa","sid":"s","scope":"openid"}`
)

var (
	at = jwt(joseHeader, atClaims)
	id = jwt(joseHeader, idClaims)
	rt = jwt(`{"alg":"HS512","typ":"JWT","kid":"1b"}`, rtClaims)

	refreshReply = `{"access_token":"` + at + `","expires_in":300,"refresh_expires_in":1800,"refresh_token":"` + rt + `","token_type":"Bearer","id_token":"` + id +
		`","not-before-policy":0,"session_state":"c2lkLXNpZC1zaWQtc2lkLTAx","scope":"openid email profile"}`
)

var sent = time.Unix(1_700_000_000, 0)

func response(body string, header ...string) *flow.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &flow.Response{Status: 200, Header: h, Body: []byte(body), Sent: sent}
}

// reply is a token response with some members replaced, added or (by "") left out.
func reply(t testing.TB, change ...string) *flow.Response {
	t.Helper()
	o, err := session.ParseObject([]byte(refreshReply))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == "" {
			o = o.Without(change[i])
		} else {
			o.Set(change[i], []byte(change[i+1]))
		}
	}
	return response(string(o.Append(nil)))
}

func quoted(s string) string { return string(session.Quote(s)) }

// without is JSON text that lacks one member, or has it replaced.
func with(t testing.TB, text, name, value string) string {
	t.Helper()
	o, err := session.ParseObject([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if value == "" {
		o = o.Without(name)
	} else {
		o.Set(name, []byte(value))
	}
	return string(o.Append(nil))
}

func TestWhatIsLearned(t *testing.T) {
	r := reply(t)
	r.Header.Set("Access-Control-Allow-Origin", "https://app.example.com")
	l := Refresh{}.Match(post(plain+"&scope=openid+email&resource=https://api", "Origin", "https://app.example.com")).Learn(r)
	rec := l.Record
	if l.Unlearned != "" || l.Interactive || l.Presented == nil || l.Presented.Value != "rt-1" || l.Shape == nil {
		t.Errorf("lesson %+v", l)
	}
	if len(l.Artifacts) != 2 || l.Artifacts[0].Value != rt || !l.Artifacts[0].Ends.Equal(sent.Add(1800*time.Second)) ||
		l.Artifacts[1].Kind != session.AccessToken || !l.Artifacts[1].Ends.Equal(sent.Add(300*time.Second)) {
		t.Errorf("artifacts %+v", l.Artifacts)
	}
	if rec.Tenant != "t" || rec.Issuer != issuer || rec.Client != "spa" || rec.Subject != "f3c1a0b2-0000-4000-8000-123456789abc" || rec.SID != "c2lkLXNpZC1zaWQtc2lkLTAx" ||
		rec.Grant != "refresh_token" || rec.First || strings.Join(rec.Asked, " ") != "openid email" || strings.Join(rec.Scope, " ") != "openid email profile" ||
		strings.Join(rec.Resource, " ") != "https://api" || rec.Opaque != nil || rec.Facts.Origin != "https://app.example.com" || rec.Facts.Address != "192.0.2.1" ||
		rec.Headers["Access-Control-Allow-Origin"] != "https://app.example.com" {
		t.Errorf("record %+v", rec)
	}
	for _, m := range rec.Response {
		if strings.HasSuffix(m.Name, "_token") && string(m.Value) != "null" {
			t.Errorf("%s is kept", m.Name)
		}
	}
	for _, want := range []string{atClaims, idClaims} {
		got := string(rec.AccessToken.Claims.Append(nil))
		if want == idClaims {
			got = string(rec.IDToken.Claims.Append(nil))
		}
		if got != want {
			t.Errorf("claims changed:\n%s\n%s", got, want)
		}
	}
}

func TestAReplyThatWasParsedBeforeIsNotChanged(t *testing.T) {
	r := reply(t)
	r.Object, _ = session.ParseObject(r.Body)
	a, b := Refresh{}.Match(post(plain)).Learn(r), Refresh{}.Match(post(plain)).Learn(reply(t))
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	if string(r.Object.Append(nil)) != refreshReply {
		t.Error("it was changed")
	}
}

func TestWhereRepliesComeFrom(t *testing.T) {
	for _, c := range []struct {
		grant       string
		interactive bool
		unlearned   string
	}{
		{"authorization_code", true, ""}, {"urn:ietf:params:oauth:grant-type:device_code", true, ""},
		{"urn:ietf:params:oauth:grant-type:token-exchange", false, ""}, {"urn:openid:params:grant-type:ciba", false, ""},
		{"client_credentials", false, ""}, {"password", false, "password"},
	} {
		l := Grant{}.Match(post("client_id=spa&grant_type=" + c.grant)).Learn(reply(t))
		if l.Interactive != c.interactive || l.Unlearned != c.unlearned || !l.Record.First || l.Presented != nil || l.Shape != nil || l.Record.Grant != c.grant {
			t.Errorf("%s: %+v", c.grant, l)
		}
	}
	if l := (Grant{}).Match(post("client_id=svc&grant_type=urn:openid:params:grant-type:ciba")).Learn(reply(t, "refresh_token", "")); l != nil {
		t.Errorf("without a refresh token there is something to remember: %+v", l)
	}
	l := Refresh{}.Match(post(plain)).Learn(reply(t, "refresh_token", ""))
	if l.Artifacts[0].Value != "rt-1" {
		t.Errorf("a reply without a refresh token: the old one goes on, not %+v", l.Artifacts)
	}
}

func TestWhatIsNotLearned(t *testing.T) {
	hs := `{"alg":"HS256","kid":"k"}`
	for _, c := range []struct {
		rule string
		r    *flow.Response
		want string
	}{
		{"token_type in any case", reply(t, "token_type", `"bearer"`), ""},
		{"no ID token", reply(t, "id_token", ""), ""},
		{"an opaque access token", reply(t, "access_token", `"ory_at_abc.def"`), ""},

		{"token_type DPoP", reply(t, "token_type", `"DPoP"`), "token_type"},
		{"token_type N_A", reply(t, "token_type", `"N_A"`), "token_type"},
		{"no token_type", reply(t, "token_type", ""), "reply_not_understood"},
		{"no access token", reply(t, "access_token", ""), "reply_not_understood"},
		{"an access token that is no string", reply(t, "access_token", `{"a":1}`), "reply_not_understood"},
		{"cnf in the access token", reply(t, "access_token", quoted(jwt(joseHeader, with(t, atClaims, "cnf", `{"jkt":"x"}`)))), "cnf"},
		{"cnf in the ID token", reply(t, "id_token", quoted(jwt(joseHeader, with(t, idClaims, "cnf", `{}`)))), "cnf"},
		{"cnf in the refresh token", reply(t, "refresh_token", quoted(jwt(hs, with(t, rtClaims, "cnf", `{}`))), "access_token", `"opaque"`), "cnf"},
		{"an ID token with HS256", reply(t, "id_token", quoted(jwt(hs, idClaims))), "symmetric_signature"},
		{"an access token with HS512, the primary's own, beside an RS256 ID token", reply(t, "access_token", quoted(jwt(`{"alg":"HS512","kid":"k"}`, atClaims))), "symmetric_signature"},
		{"alg none", reply(t, "id_token", quoted(jwt(`{"alg":"none"}`, idClaims))), "unsigned"},
		{"no alg", reply(t, "id_token", quoted(jwt(`{"kid":"k"}`, idClaims))), "unsigned"},
		{"no kid", reply(t, "id_token", quoted(jwt(`{"alg":"RS256"}`, idClaims))), "no_kid"},
		{"a kid of a backup's", reply(t, "id_token", quoted(jwt(`{"alg":"RS256","kid":"bk-x"}`, idClaims))), "reserved_kid"},
		{"a critical header member", reply(t, "access_token", quoted(jwt(`{"alg":"RS256","kid":"k","crit":["x"],"x":1}`, atClaims))), "crit"},
		{"another issuer", reply(t, "id_token", quoted(jwt(joseHeader, with(t, idClaims, "iss", `"https://other"`)))), "other_issuer"},
		{"no issuer", reply(t, "access_token", quoted(jwt(joseHeader, with(t, atClaims, "iss", "")))), "other_issuer"},
		{"no exp", reply(t, "access_token", quoted(jwt(joseHeader, with(t, atClaims, "exp", "")))), "no_lifetime"},
		{"no iat", reply(t, "id_token", quoted(jwt(joseHeader, with(t, idClaims, "iat", "")))), "no_lifetime"},
		{"an end before its beginning", reply(t, "id_token", quoted(jwt(joseHeader, with(t, idClaims, "exp", "1")))), "no_lifetime"},
		{"an encrypted ID token", reply(t, "id_token", quoted(jwt(`{"alg":"RSA-OAEP","enc":"A256GCM"}`, "{}")+".a.b")), "id_token_encrypted"},
		{"an ID token that is none", reply(t, "id_token", `"x"`), "id_token_encrypted"},
		{"an encrypted access token is not opaque", reply(t, "access_token", quoted(jwt(`{"alg":"dir","enc":"A256GCM"}`, "{}")+".a.b")), "access_token_encrypted"},
		{"a JWT with a claim twice is not opaque", reply(t, "access_token", quoted(jwt(joseHeader, `{"sub":"a","sub":"b"}`))), "access_token_encrypted"},
		{"another token beside these", reply(t, "device_secret", `"x"`), "other_token"},
		{"not a 200", func() *flow.Response { r := reply(t); r.Status = 201; return r }(), "reply_not_understood"},
		{"an HTML page", response("<html>", "Content-Type", "text/html"), "reply_not_understood"},
		{"JSON by its looks, HTML by its type", response(refreshReply, "Content-Type", "text/html"), "reply_not_understood"},
		{"a member twice", response(strings.Replace(refreshReply, "{", `{"scope":"x",`, 1)), "reply_not_understood"},
		{"two objects", response(refreshReply + "{}"), "reply_not_understood"},
		{"cut off", response(refreshReply[:900]), "reply_not_understood"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			l := Refresh{}.Match(post(plain)).Learn(c.r)
			if l.Unlearned != c.want {
				t.Errorf("unlearned %q, want %q", l.Unlearned, c.want)
			}
			// The family is known even so, but for what cannot be read at all.
			if (l.Record == nil) != (c.want == "reply_not_understood") {
				t.Errorf("record %v", l.Record)
			}
		})
	}
}

func TestWhenARefreshTokenEnds(t *testing.T) {
	tok := func(exp string) string { return quoted(jwt(`{"alg":"HS512"}`, with(t, rtClaims, "exp", exp))) }
	for _, c := range []struct {
		rule string
		r    *flow.Response
		want time.Duration // after sending; 0: not told
	}{
		{"refresh_expires_in", reply(t, "refresh_token", `"x"`), 1800 * time.Second},
		{"refresh_expires_in as a string", reply(t, "refresh_token", `"x"`, "refresh_expires_in", `"60"`), time.Minute},
		{"not whole: rounded down", reply(t, "refresh_token", `"x"`, "refresh_expires_in", `60.9`), time.Minute},
		{"0 is no end (an offline token)", reply(t, "refresh_token", `"x"`, "refresh_expires_in", `0`), 0},
		{"negative is none", reply(t, "refresh_token", `"x"`, "refresh_expires_in", `-1`), 0},
		{"beyond any clock is none", reply(t, "refresh_token", `"x"`, "refresh_expires_in", `9e99`), 0},
		{"nothing told", reply(t, "refresh_token", `"x"`, "refresh_expires_in", ""), 0},
		{"the other name", reply(t, "refresh_token", `"x"`, "refresh_expires_in", "", "refresh_token_expires_in", "5"), 5 * time.Second},
		{"the first of two", reply(t, "refresh_token", `"x"`, "refresh_expires_in", "5", "refresh_token_expires_in", "9"), 5 * time.Second},
		{"the first of two, the other way", reply(t, "refresh_token", `"x"`, "refresh_expires_in", "9", "refresh_token_expires_in", "5"), 5 * time.Second},
		{"exp of the token, if earlier", reply(t, "refresh_token", tok("1700000060")), time.Minute},
		{"exp of the token, later", reply(t, "refresh_token", tok("1700009999")), 1800 * time.Second},
		{"exp alone, not whole", reply(t, "refresh_token", tok("1700000060.5"), "refresh_expires_in", ""), time.Minute},
		{"an offline token without exp", reply(t, "refresh_token", tok(""), "refresh_expires_in", "0"), 0},
		{"exp that overflows", reply(t, "refresh_token", tok("9223372036854775807"), "refresh_expires_in", ""), 0},
	} {
		l := Refresh{}.Match(post(plain)).Learn(c.r)
		got := l.Artifacts[0].Ends
		if c.want == 0 && !got.IsZero() || c.want != 0 && !got.Equal(sent.Add(c.want)) {
			t.Errorf("%s: %v after sending, want %v", c.rule, got.Sub(sent), c.want)
		}
	}
}

func TestLooksOfOpaqueTokens(t *testing.T) {
	tag := func(s string) []byte { return slices.Repeat([]byte(s[len(s)-8:]), 4) }
	stranger := func(s string) []byte { return slices.Repeat([]byte(s[:8]), 4) }
	for _, c := range []struct {
		rule, token, prefix, charset string
		length                       int
	}{
		{"oidc-provider", "GjWmQ2bXlqv-K3uGmRzI0yC1ZxV5_8dTn4aLpSeOwHf", "", "base64url", 43},
		{"Hydra", "ory_at_" + strings.Repeat("aB3_", 20), "ory_at_", "base64url", 87},
		{"LemonLDAP", strings.Repeat("0a1b2c3d", 8), "", "hex", 64},
		{"a UUID", "a6ca1f0d-1111-4222-8333-444455556666", "", "uuid", 36},
		{"short: made longer, so that it is known again", "abcDEF123", "", "base64url", 32},
		{"short hex", "0a1b2c3d", "", "hex", 44},
	} {
		t.Run(c.rule, func(t *testing.T) {
			l := lookOf(c.token)
			if l.Prefix != c.prefix || l.Charset != c.charset {
				t.Errorf("look %+v", l)
			}
			seen := map[string]bool{}
			for range 2000 {
				s := Opaque(l, tag)
				if seen[s] {
					t.Fatal("made twice")
				}
				seen[s] = true
				if len(s) != c.length || !strings.HasPrefix(s, c.prefix) {
					t.Fatalf("%q is no %+v", s, l)
				}
				if !Ours(s, tag) || !Issued(s, tag) {
					t.Fatalf("%q is not known again", s)
				}
				if Ours(s, stranger) {
					t.Fatalf("%q is another deployment's", s)
				}
				if got := lookOf(s).Charset; got != c.charset {
					t.Fatalf("%q looks like %s", s, got)
				}
				changed := []byte(s)
				changed[len(s)-1] ^= 1
				if Ours(string(changed), tag) {
					t.Fatalf("%q is taken for ours", changed)
				}
			}
			if Ours(c.token, tag) {
				t.Error("the primary's is taken for ours")
			}
			if s := Opaque(l, nil); Ours(s, tag) {
				t.Error("one without a tag is taken for ours")
			}
		})
	}
}

func TestIssuedByForm(t *testing.T) {
	tag := func(s string) []byte { return bytes.Repeat([]byte{9}, 32) }
	for token, want := range map[string]bool{
		jwt(`{"alg":"RS256","kid":"bk-abc"}`, "{}"): true, at: false, rt: false, "": false, "..": false, "a.b.c": false, "short": false,
		jwt(`{"alg":"RS256","kid":["bk-abc"]}`, "{}"): false, jwt(`{"alg":"RS256","kid":"k","kid":"bk-abc"}`, "{}"): false,
		jwt(`{"kid":"bk-abc"}`, "{}") + ".a.b": false, strings.Repeat("a", maxJWT+1): false,
	} {
		if Issued(token, tag) != want {
			t.Errorf("%.40q: %v", token, !want)
		}
	}
}

func FuzzTokenResponse(f *testing.F) {
	f.Add(refreshReply)
	f.Add(`{"access_token":"a","token_type":"b","refresh_token":"` + rt + `","refresh_expires_in":"1e3"}`)
	f.Add(`{"access_token":"a.b.c","token_type":"bearer","refresh_token":"x","id_token":"..",` + "\x00")
	f.Fuzz(func(t *testing.T, body string) {
		for _, x := range []flow.Exchange{(Refresh{}).Match(post(plain)), (Grant{}).Match(post("grant_type=authorization_code&client_id=spa"))} {
			l := x.Learn(response(body))
			if l == nil || l.Record == nil || l.Unlearned != "" {
				continue
			}
			// What is learned is played, or refused with a reason; and it stays the learned members.
			reply, no := Refresh{}.Answer(permit(l.Record, nil))
			if no != nil {
				continue
			}
			o, err := session.ParseObject(reply.Body)
			if err != nil {
				t.Fatalf("the answer is no object: %v\n%s", err, reply.Body)
			}
			for _, n := range o.Names() {
				if !l.Record.Response.Has(n) {
					t.Errorf("member %q was not learned", n)
				}
			}
		}
	})
}

func FuzzParseJWT(f *testing.F) {
	f.Add(at)
	f.Add(jwt(`{"alg":"none"}`, `{"exp":1e400,"iat":-1}`))
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		jose(s)
		look := lookOf(s)
		if n := len(Opaque(look, nil)); look.Charset != "uuid" && n > maxLook+8 {
			t.Errorf("%d characters", n)
		}
		tok, err := ParseJWT(s)
		if err != nil {
			return
		}
		for _, first := range []bool{true, false} {
			h, c := fresh(tok, nil, sent, first, tok.Lifetime())
			for _, o := range []session.Object{h, c} {
				if _, err := session.ParseObject(o.Append(nil)); err != nil {
					t.Errorf("not JSON any more: %v", err)
				}
			}
			for _, n := range c.Names() {
				if !tok.Claims.Has(n) {
					t.Errorf("claim %q was not learned", n)
				}
			}
		}
	})
}

func BenchmarkLearn(b *testing.B) {
	x := Refresh{}.Match(post(plain))
	r := response(refreshReply)
	r.Object, _ = session.ParseObject(r.Body) // the gateway has read it to classify the reply
	b.ReportAllocs()
	for b.Loop() {
		if l := x.Learn(r); l.Unlearned != "" {
			b.Fatal(l.Unlearned)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	r := post(plain + "&client_secret=s")
	b.ReportAllocs()
	for b.Loop() {
		if (Refresh{}).Match(r) == nil {
			b.Fatal("no match")
		}
	}
}
