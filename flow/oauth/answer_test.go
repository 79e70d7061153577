package oauth

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

var later = sent.Add(2 * time.Hour)

// permit is one with a signer that writes what it is given and a constant signature.
func permit(r *session.Record, h *session.Habit) *flow.Permit {
	return &flow.Permit{
		Play: &flow.Play{}, Record: r, Habit: h, Now: later, Fill: "FILL",
		Sign: func(_ string, header, claims session.Object) (string, error) {
			e := base64.RawURLEncoding.EncodeToString
			return e(header.Append(nil)) + "." + e(claims.Append(nil)) + ".c2ln", nil
		},
		Opaque: func(l session.Look) string { return Opaque(l, func(string) []byte { return make([]byte, 32) }) },
	}
}

func learned(t testing.TB, x flow.Exchange, r *flow.Response) *flow.Lesson {
	t.Helper()
	l := x.Learn(r)
	if l == nil || l.Unlearned != "" {
		t.Fatalf("not learned: %+v", l)
	}
	return l
}

func answered(t testing.TB, p *flow.Permit) (session.Object, *flow.Reply) {
	t.Helper()
	reply, no := Refresh{}.Answer(p)
	if no != nil {
		t.Fatalf("refused: %+v", no)
	}
	o, err := session.ParseObject(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return o, reply
}

func parsed(t testing.TB, s string) *session.Token {
	t.Helper()
	tok, err := ParseJWT(s)
	if err != nil {
		t.Fatalf("%v in %.30q", err, s)
	}
	return tok
}

// differing are the names whose values differ; the names and their order must be equal.
func differing(t *testing.T, a, b session.Object) (out []string) {
	t.Helper()
	if !slices.Equal(a.Names(), b.Names()) {
		t.Fatalf("names\n%v\n%v", a.Names(), b.Names())
	}
	for i := range a {
		if string(a[i].Value) != string(b[i].Value) {
			out = append(out, a[i].Name)
		}
	}
	return out
}

// The differential rule: an answer equals the primary's refresh reply but for times, jti, at_hash and the tokens themselves.
func TestAnswerEqualsTheRefreshReply(t *testing.T) {
	l := learned(t, Refresh{}.Match(post(plain)), reply(t))
	before := string(l.Record.AccessToken.Claims.Append(nil))
	o, r := answered(t, permit(l.Record, nil))
	was, _ := session.ParseObject([]byte(refreshReply))
	if d := differing(t, was, o); !slices.Equal(d, []string{"access_token", "refresh_token", "id_token"}) {
		t.Errorf("members %v differ", d)
	}
	if o.Text("refresh_token") != "FILL" || r.Fill != "FILL" {
		t.Error("the presented refresh token has no place")
	}
	for _, c := range []struct {
		member, claims string
		want           []string
	}{{"access_token", atClaims, []string{"exp", "iat", "jti"}}, {"id_token", idClaims, []string{"exp", "iat", "jti", "at_hash"}}} {
		tok := parsed(t, o.Text(c.member))
		h, _ := session.ParseObject([]byte(joseHeader))
		if d := differing(t, h, tok.Header); d != nil {
			t.Errorf("%s: header members %v differ", c.member, d)
		}
		was, _ := session.ParseObject([]byte(c.claims))
		if d := differing(t, was, tok.Claims); !slices.Equal(d, c.want) {
			t.Errorf("%s: claims %v differ, want %v", c.member, d, c.want)
		}
		if iat, _ := tok.Claims.Number("iat"); iat != later.Unix() || tok.Lifetime() != 300 {
			t.Errorf("%s: iat %d, lifetime %d", c.member, iat, tok.Lifetime())
		}
		if got, old := tok.Claims.Text("jti"), was.Text("jti"); jtiPrefix(got) != jtiPrefix(old) || len(got) != len(old) || lookOf(got[len(jtiPrefix(got)):]).Charset != "uuid" {
			t.Errorf("%s: jti %q after %q", c.member, got, old)
		}
	}
	sum := sha256.Sum256([]byte(o.Text("access_token")))
	if got := parsed(t, o.Text("id_token")).Claims.Text("at_hash"); got != base64.RawURLEncoding.EncodeToString(sum[:16]) {
		t.Errorf("at_hash %q", got)
	}
	if len(r.Issued) != 1 || r.Issued[0].Value != o.Text("access_token") || !r.Issued[0].Ends.Equal(later.Add(300*time.Second)) {
		t.Errorf("issued %+v", r.Issued)
	}
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", r.Header)
	}
	if string(l.Record.AccessToken.Claims.Append(nil)) != before {
		t.Error("the record was changed")
	}
}

// A first reply and a refresh reply differ: what was learned from a code is played as the refreshes of that client look.
func TestFirstReplyPlayedAsRefresh(t *testing.T) {
	first := with(t, with(t, with(t, idClaims, "nonce", `"n"`), "c_hash", `"c"`), "s_hash", `"s"`)
	code := reply(t, "id_token", quoted(jwt(joseHeader, first)), "access_token",
		quoted(jwt(joseHeader, strings.Replace(atClaims, "onrtrt:", "onrtac:", 1))), "issued_token_type", `"x"`)
	rec := learned(t, Grant{}.Match(post("grant_type=authorization_code&client_id=spa")), code).Record

	t.Run("no refresh was seen: nothing of the code stays", func(t *testing.T) {
		o, _ := answered(t, permit(rec, &session.Habit{}))
		c := parsed(t, o.Text("id_token")).Claims
		for _, n := range []string{"nonce", "c_hash", "s_hash"} {
			if c.Has(n) {
				t.Errorf("%s stays", n)
			}
		}
		if !c.Has("at_hash") || o.Has("issued_token_type") {
			t.Errorf("%v, %v", c.Names(), o.Names())
		}
	})
	t.Run("in the shape of a refresh", func(t *testing.T) {
		shape := learned(t, Refresh{}.Match(post(plain)), response(`{"scope":"openid email profile","access_token":"`+at+`","token_type":"Bearer","expires_in":300,"refresh_token":"x","id_token":"`+
			jwt(`{"kid":"k","alg":"RS256"}`, `{"sub":"f","nonce":"other user's","iss":"`+issuer+`","iat":1700000000,"exp":1700000300,"jti":"pre:1"}`)+`"}`)).Shape
		o, _ := answered(t, permit(rec, &session.Habit{Refresh: shape}))
		if got := strings.Join(o.Names(), " "); got != "scope access_token token_type expires_in refresh_token id_token" {
			t.Errorf("members %s", got)
		}
		tok := parsed(t, o.Text("id_token"))
		if got := strings.Join(tok.Claims.Names()[:6], " "); got != "sub nonce iss iat exp jti" {
			t.Errorf("claims %s", got)
		}
		if tok.Claims.Text("nonce") != "n" || tok.Claims.Has("at_hash") || tok.Claims.Has("c_hash") {
			t.Errorf("claims %s", tok.Claims.Append(nil))
		}
		if !strings.HasPrefix(tok.Claims.Text("jti"), "pre:") || !strings.HasPrefix(parsed(t, o.Text("access_token")).Claims.Text("jti"), "onrtrt:") {
			t.Error("the jti is not a refresh's")
		}
		if tok.Header.Names()[0] != "kid" {
			t.Errorf("header %v", tok.Header.Names())
		}
	})
	t.Run("a refresh has no ID token: ours has none", func(t *testing.T) {
		shape := learned(t, Refresh{}.Match(post(plain)), reply(t, "id_token", "")).Shape
		if o, _ := answered(t, permit(rec, &session.Habit{Refresh: shape})); o.Has("id_token") {
			t.Error("an ID token that the primary would not give")
		}
	})
	t.Run("the shape of a client tells nothing about what was not learned", func(t *testing.T) {
		shape := learned(t, Refresh{}.Match(post(plain)), reply(t, "extra", `"x"`)).Shape
		shape.IDToken.Claims = append(shape.IDToken.Claims, "admin")
		o, _ := answered(t, permit(rec, &session.Habit{Refresh: shape}))
		if o.Has("extra") || parsed(t, o.Text("id_token")).Claims.Has("admin") {
			t.Error("another's member came along")
		}
	})
}

func TestTimesAndForms(t *testing.T) {
	o, r := answered(t, permit(learned(t, Refresh{}.Match(post(plain)), response(`{"token_type":"bearer","access_token":"GjWmQ2bXlqv-K3uGmRzI0yC1ZxV5_8dTn4aLpSeOwHf","expires_in":"3600",`+
		`"expires_on":"1700003600","not_before":1700000000,"iat":1700000000,"expires_at":1700003600,"refresh_token":"x","odd":1.50,"big":12345678901234567890}`)).Record, nil))
	for name, want := range map[string]string{
		"expires_in": `"3600"`, "expires_on": `"1700010800"`, "expires_at": `1700010800`, "not_before": `1700007200`, "iat": `1700007200`,
		"odd": "1.50", "big": "12345678901234567890", "token_type": `"bearer"`,
	} {
		if got := string(o.Get(name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if a := o.Text("access_token"); len(a) != 43 || len(r.Issued) != 1 || r.Issued[0].Value != a || !r.Issued[0].Ends.Equal(later.Add(time.Hour)) {
		t.Errorf("%q, issued %+v", a, r.Issued)
	}

	for _, c := range []struct{ rule, claims, want string }{
		{"nbf keeps its distance", `{"iat":100,"nbf":40,"exp":400}`, `{"iat":1700007200,"nbf":1700007140,"exp":1700007500}`},
		{"aud stays a string", `{"aud":"a","iat":1,"exp":2}`, `{"aud":"a","iat":1700007200,"exp":1700007201}`},
		{"aud stays a list of one", `{"aud":["a"],"iat":1,"exp":2}`, `{"aud":["a"],"iat":1700007200,"exp":1700007201}`},
		{"auth_time stays", `{"auth_time":5,"iat":1,"exp":2,"amr":["pwd"],"acr":0}`, `{"auth_time":5,"iat":1700007200,"exp":1700007201,"amr":["pwd"],"acr":0}`},
		{"numbers and escapes stay", `{"a":1.0,"b":1e3,"c":"\u0041\/","iat":1,"exp":2}`, `{"a":1.0,"b":1e3,"c":"\u0041\/","iat":1700007200,"exp":1700007201}`},
		{"a jti that is null stays", `{"jti":null,"iat":1,"exp":2}`, `{"jti":null,"iat":1700007200,"exp":1700007201}`},
	} {
		claims, err := session.ParseObject([]byte(c.claims))
		if err != nil {
			t.Fatal(err)
		}
		if _, got := fresh(&session.Token{Claims: claims}, nil, later, false, (&session.Token{Claims: claims}).Lifetime()); string(got.Append(nil)) != c.want {
			t.Errorf("%s: %s", c.rule, got.Append(nil))
		}
	}
	number, _ := session.ParseObject([]byte(`{"jti":1234567,"iat":1,"exp":2}`))
	_, got := fresh(&session.Token{Claims: number}, nil, later, false, (&session.Token{Claims: number}).Lifetime())
	if n, ok := got.Number("jti"); !ok || n == 1234567 || len(got.Get("jti")) != 7 || got.Get("jti")[0] == '"' {
		t.Errorf("a jti that is a number became %s", got.Get("jti"))
	}
}

func TestAtHashFollowsTheAlgorithm(t *testing.T) {
	for alg, n := range map[string]int{"RS256": 22, "ES256": 22, "PS384": 32, "ES384": 32, "RS512": 43, "EdDSA": 43, "Ed25519": 43} {
		if got := len(atHash(alg, "token")); got != n {
			t.Errorf("%s: %d characters, want %d", alg, got, n)
		}
	}
}

// A wider scope or a foreign resource is never served, and refused for good only where that is certain.
func TestScopeAndResource(t *testing.T) {
	fields := strings.Fields
	for _, c := range []struct {
		rule                     string
		first                    bool
		asked, granted, resource string // of the record
		scope, wants             string // of the request
		code                     string
	}{
		{"not asked for", true, "", "openid email", "", "", "", ""},
		{"as granted", true, "", "openid email", "", "email openid", "", ""},
		{"as asked, of which less was granted", true, "openid admin", "openid", "", "openid admin", "", ""},
		{"wider than granted", true, "", "openid email", "", "openid admin", "", "scope_wider"},
		{"only wider", true, "", "openid", "", "admin", "", "scope_wider"},
		{"narrower: not learned", true, "", "openid email", "", "openid", "", "scope_unlearned"},
		{"what was asked and not granted", true, "openid admin", "openid", "", "admin", "", "scope_unlearned"},
		{"wider than a narrowed refresh: it may have been granted at first", false, "openid", "openid", "", "openid email", "", "scope_unlearned"},
		{"wider than a whole refresh", false, "", "openid", "", "openid email", "", "scope_wider"},
		{"the granted scope was never told", true, "", "", "", "openid", "", "scope_unlearned"},
		{"case matters", true, "", "openid", "", "OpenID", "", "scope_wider"},

		{"the resource as approved", false, "", "a", "https://api", "", "https://api", ""},
		{"two resources in another order", false, "", "a", "https://api https://b", "", "https://b https://api", ""},
		{"a foreign resource", false, "", "a", "https://api", "", "https://other", "resource_unlearned"},
		{"a foreign one beside it", false, "", "a", "https://api", "", "https://api https://other", "resource_unlearned"},
		{"one of two", false, "", "a", "https://api https://b", "", "https://api", "resource_unlearned"},
		{"any, where none was named", true, "", "a", "", "", "https://api", "resource_unlearned"},
		{"none, after a first exchange for one", true, "", "a", "https://api", "", "", ""},
		{"none, after a refresh for one", false, "", "a", "https://api", "", "", "resource_unlearned"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			rec := *learned(t, Refresh{}.Match(post(plain)), reply(t)).Record
			rec.First, rec.Asked, rec.Scope, rec.Resource = c.first, fields(c.asked), fields(c.granted), fields(c.resource)
			p := permit(&rec, nil)
			p.Play.Scope, p.Play.Resource = fields(c.scope), fields(c.wants)
			reply, no := Refresh{}.Answer(p)
			if c.code == "" {
				if no != nil {
					t.Fatalf("refused: %+v", no)
				}
				return
			}
			if reply != nil || no == nil || no.Code != c.code {
				t.Fatalf("%+v, %+v", reply, no)
			}
			if wider := c.code == "scope_wider"; no.Definite != wider || wider != (no.Error == "invalid_scope") || wider != (no.Status == 400) {
				t.Errorf("refusal %+v", no)
			}
		})
	}
}

func TestNoAnswerWithoutAToken(t *testing.T) {
	rec := learned(t, Refresh{}.Match(post(plain)), reply(t)).Record
	p := permit(rec, nil)
	for _, class := range []string{flow.ClassAccessToken, flow.ClassIDToken} {
		p.Sign = func(c string, _, _ session.Object) (string, error) {
			if c == class {
				return "", errors.New("no key")
			}
			return "a.b.c", nil
		}
		if reply, no := (Refresh{}).Answer(p); reply != nil || no == nil || no.Code != "keys_unavailable" {
			t.Errorf("%s cannot be signed: %+v, %+v", class, reply, no)
		}
	}
	bare := *rec
	bare.AccessToken = nil
	if reply, no := (Refresh{}).Answer(permit(&bare, nil)); reply != nil || no == nil || no.Code != "record_incomplete" {
		t.Errorf("no access token was learned: %+v, %+v", reply, no)
	}
	if reply, no := (Grant{}).Answer(permit(rec, nil)); reply != nil || no == nil {
		t.Error("another grant is answered")
	}
}

func BenchmarkAnswer(b *testing.B) {
	p := permit(learned(b, Refresh{}.Match(post(plain)), reply(b)).Record, nil)
	p.Sign = func(string, session.Object, session.Object) (string, error) { return at, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, no := (Refresh{}).Answer(p); no != nil {
			b.Fatal(no.Code)
		}
	}
}
