package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/net/html"

	"understudy/idptest"
	"understudy/session"
)

// response reads an authorization response as the application gets it, in whatever mode.
func (x *tab) response() (names []string, params url.Values) {
	x.t.Helper()
	resp, body := x.once()
	raw := ""
	x.signed = nil
	switch mode := x.query.Get("response_mode"); {
	case strings.HasPrefix(mode, "form_post"):
		if resp.StatusCode != http.StatusOK {
			x.t.Fatalf("%d %.300s", resp.StatusCode, body)
		}
		return x.unwrap(form(x.t, body))
	default:
		u, err := resp.Location()
		if err != nil || !strings.HasPrefix(u.String(), callback) {
			x.t.Fatalf("%d %v %.300s", resp.StatusCode, err, body)
		}
		if raw = u.RawQuery; raw == "" {
			raw = u.EscapedFragment()
		}
	}
	params = url.Values{}
	for _, p := range strings.Split(raw, "&") {
		n, v, _ := strings.Cut(p, "=")
		v, err := url.QueryUnescape(v)
		if err != nil {
			x.t.Fatal(err)
		}
		names = append(names, n)
		params.Add(n, v)
	}
	return x.unwrap(names, params)
}

// unwrap verifies the JWT that a response comes in (JARM, section 4.4), where it comes in one.
func (x *tab) unwrap(names []string, ps url.Values) ([]string, url.Values) {
	x.t.Helper()
	if !strings.HasSuffix(x.query.Get("response_mode"), "jwt") {
		return names, ps
	}
	if len(names) != 1 || ps.Get("response") == "" {
		x.t.Fatalf("no JWT: %v", ps)
	}
	h, c := x.r.claims(x.t, x.realm, ps.Get("response"))
	x.signed = append(session.Object{{Name: "kid", Value: h.Get("kid")}}, c...)
	if c.Text("iss") != x.r.realm(x.realm) || c.Text("aud") != x.query.Get("client_id") {
		x.t.Errorf("iss %s, aud %s", c.Text("iss"), c.Get("aud"))
	}
	if exp, ok := c.Number("exp"); !ok || exp <= time.Now().Unix() || exp > time.Now().Unix()+600 {
		x.t.Errorf("exp %s", c.Get("exp"))
	}
	names, ps = c.Names(), url.Values{}
	for _, m := range c {
		v := c.Text(m.Name)
		if v == "" {
			v = string(m.Value)
		}
		ps.Set(m.Name, v)
	}
	return names, ps
}

// form reads the form of a page.
func form(t *testing.T, page string) (names []string, params url.Values) {
	t.Helper()
	params = url.Values{}
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return names, params
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			as := map[string]string{}
			for _, a := range tok.Attr {
				as[a.Key] = a.Val
			}
			if tok.Data == "form" && as["action"] != callback {
				t.Fatalf("a form to %s", as["action"])
			}
			if tok.Data == "input" && as["name"] != "" {
				names = append(names, as["name"])
				params.Add(as["name"], as["value"])
			}
		}
	}
}

// claims verifies a token by the key set that the gateway serves for a realm.
func (r *rig) claims(t *testing.T, realm, token string) (header, claims session.Object) {
	t.Helper()
	return r.verified(t, r.realm(realm)+"/protocol/openid-connect/certs", token)
}

// verified verifies a token by the key set that the gateway serves at a place.
func (r *rig) verified(t *testing.T, jwks, token string) (header, claims session.Object) {
	t.Helper()
	resp, err := http.Get(jwks)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	s, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := s.Verify(set)
	if err != nil {
		t.Fatalf("%v: %s", err, s.Signatures[0].Header.KeyID)
	}
	iss := []byte(`"iss":"` + strings.TrimSuffix(jwks, "/protocol/openid-connect/certs") + `",`)
	if at := bytes.Index(payload, iss) + len(iss); bytes.Contains(payload[at:], iss) { // Keycloak's JARM has it twice
		payload = append(payload[:at:at], bytes.Replace(payload[at:], iss, nil, 1)...)
	}
	if claims, err = session.ParseObject(payload); err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(token, ".")
	if header, err = session.ParseObject([]byte(decoded(t, head))); err != nil {
		t.Fatal(err)
	}
	return header, claims
}

func half(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Every response type and mode (OAuth 2.0 Multiple Response Type Encoding Practices; Form Post Response Mode) is answered as the
// primary answered it, with the request's nonce and state and the hashes of what came with it.
func TestFrontChannel(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	r.tab("rot", "spa", "", b).signIn("alice")
	type kind struct{ types, mode string }
	var kinds []kind
	for _, types := range []string{"code", "id_token", "id_token token", "token", "code id_token", "code token", "code id_token token"} {
		for _, mode := range []string{"query", "fragment", "form_post", "", "jwt", "query.jwt", "fragment.jwt", "form_post.jwt"} {
			if !strings.HasPrefix(mode, "query") || types == "code" {
				kinds = append(kinds, kind{types, mode})
			}
		}
	}
	ask := func(t *testing.T, k kind) *tab {
		x := r.tab("rot", "spa", "", b).with("response_type", k.types).with("response_mode", k.mode)
		if !strings.Contains(k.types, "code") {
			x.with("code_challenge", "").with("code_challenge_method", "")
		}
		x.t = t
		return x
	}
	was := map[kind]url.Values{}
	order := map[kind][]string{}
	first := map[kind]*tokens{}
	for _, k := range kinds {
		n := r.learnedFlow("authorization")
		x := ask(t, k)
		order[k], was[k] = x.response()
		if code := was[k].Get("code"); code != "" {
			if first[k] = x.redeem(code); first[k].AccessToken == "" {
				t.Fatalf("%v: %v", k, first[k])
			}
		}
		waitFor(t, k.types+" by "+k.mode+" is learned", func() bool { return r.learnedFlow("authorization") > n })
	}
	settled()
	kc.Kill()
	defer kc.Restart(context.Background())
	for _, k := range kinds {
		t.Run(strings.ReplaceAll(k.types, " ", "+")+" "+k.mode, func(t *testing.T) {
			x := ask(t, k)
			names, now := x.response()
			if x.signed != nil && !strings.HasPrefix(x.signed.Text("kid"), "bk-") {
				t.Errorf("the response is signed by %s", x.signed.Text("kid"))
			}
			if !slices.Equal(names, order[k]) {
				t.Errorf("parameters\n%q, the primary's\n%q", names, order[k])
			}
			for _, n := range names {
				switch n {
				case "code", "id_token", "access_token", "exp", "iat":
				case "expires_in": // Keycloak counts what is left, and two of these requests ask for the same
					if v := now.Get(n); v != "60" && v != "59" {
						t.Errorf("expires_in is %q", v)
					}
				case "state":
					if now.Get(n) != x.query.Get(n) {
						t.Errorf("state %q", now.Get(n))
					}
				default:
					if now.Get(n) != was[k].Get(n) {
						t.Errorf("%s is %q, the primary's %q", n, now.Get(n), was[k].Get(n))
					}
				}
			}
			for _, name := range []string{"id_token", "access_token"} {
				if now.Get(name) == "" {
					continue
				}
				h, c := r.claims(t, "rot", now.Get(name))
				_, wc := r.claims(t, "rot", was[k].Get(name))
				if !strings.HasPrefix(h.Text("kid"), "bk-") || !slices.Equal(c.Names(), wc.Names()) {
					t.Errorf("%s: %s\n%v\n%v", name, h.Text("kid"), c.Names(), wc.Names())
				}
				for _, m := range c {
					want := string(wc.Get(m.Name))
					switch m.Name {
					case "iat", "exp", "jti":
						if m.Name != "exp" && string(m.Value) == want {
							t.Errorf("%s: %s is not fresh", name, m.Name)
						}
						continue
					case "nonce":
						want = string(session.Quote(x.query.Get("nonce")))
					case "at_hash":
						want = string(session.Quote(half(now.Get("access_token"))))
					case "c_hash":
						want = string(session.Quote(half(now.Get("code"))))
					case "s_hash":
						want = string(session.Quote(half(x.query.Get("state"))))
					}
					if string(m.Value) != want {
						t.Errorf("%s: %s is %s, want %s", name, m.Name, m.Value, want)
					}
				}
			}
			if code := now.Get("code"); code != "" {
				got := x.redeem(code)
				if !got.byBackup() || got.claim("nonce") != x.query.Get("nonce") {
					t.Fatalf("%v", got)
				}
				_, c := r.claims(t, "rot", got.IDToken)
				_, wc := r.claims(t, "rot", first[k].IDToken)
				if !slices.Equal(c.Names(), wc.Names()) {
					t.Errorf("redeemed\n%v\n%v", c.Names(), wc.Names())
				}
			}
		})
	}
	t.Run("a token in the query", func(t *testing.T) {
		if resp, _ := ask(t, kind{"id_token", "query"}).once(); resp.Header.Get("Location") != "" {
			t.Error(resp.Header)
		}
	})
	t.Run("no nonce", func(t *testing.T) {
		if resp, _ := ask(t, kind{"id_token", "fragment"}).with("nonce", "").once(); resp.Header.Get("Location") != "" {
			t.Error(resp.Header)
		}
	})
	t.Run("prompt=none by form_post without a record", func(t *testing.T) {
		x := ask(t, kind{"code", "form_post"}).with("prompt", "none")
		x.browser = &idptest.Browser{}
		if _, ps := x.response(); ps.Get("error") != "temporarily_unavailable" || ps.Get("state") != x.query.Get("state") {
			t.Errorf("%v", ps)
		}
	})
}
