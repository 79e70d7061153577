package gateway_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/idptest"
	"understudy/session"
)

// tellsAlone are the settings of a client to which UserInfo, signed by alg or not (""), tells a claim that no token has.
func tellsAlone(claim, value, alg string) map[string]any {
	return map[string]any{
		"secret": "told-secret", "attributes": map[string]string{"user.info.response.signature.alg": alg, "access.token.lifespan": "120"},
		"protocolMappers": []map[string]any{{
			"name": claim, "protocol": "openid-connect", "protocolMapper": "oidc-hardcoded-claim-mapper",
			"config": map[string]string{
				"claim.name": claim, "claim.value": value, "jsonType.label": "String", "userinfo.token.claim": "true",
				"id.token.claim": "false", "access.token.claim": "false", "introspection.token.claim": "false",
			},
		}},
	}
}

// asksUserInfo asks the UserInfo endpoint and gives its reply as it came.
func (r *rig) asksUserInfo(realm, token string) (status int, contentType, body string) {
	r.t.Helper()
	req := must(http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.realm(realm)+"/protocol/openid-connect/userinfo", nil))
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(must(io.ReadAll(resp.Body)))
}

// What the primary tells at its UserInfo endpoint alone is told in an outage, byte for byte, for every token of the same sign-in:
// the primary's, those of refreshed grants and of an application that the browser opened anew; and to nobody with less.
func TestUserInfoAsThePrimaryTellsIt(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	addClient(t, kc, "rot", "told", "client-secret", tellsAlone("desk", "seven", ""))
	b := &idptest.Browser{}
	x := r.tab("rot", "told", "told-secret", b).with("scope", "openid profile email")
	k := x.signIn("alice")
	learned := r.learnedFlow("userinfo")
	status, contentType, was := r.asksUserInfo("rot", k.AccessToken)
	if status != http.StatusOK || !strings.Contains(was, `"desk":"seven"`) {
		t.Fatalf("the primary: %d %s", status, was)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("userinfo") > learned })
	// The key goes on with the grant, and what was told with it, also when nobody asks again.
	next := x.refreshed(k)
	untold := r.tab("rot", "told", "told-secret", &idptest.Browser{}).with("scope", "openid profile email").signIn("bob")
	narrow := r.tab("rot", "told", "told-secret", &idptest.Browser{}).with("scope", "openid").signIn("alice")
	r.restart()
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())

	same := func(t *testing.T, token string) {
		t.Helper()
		if s, c, now := r.asksUserInfo("rot", token); s != http.StatusOK || c != contentType || now != was {
			t.Errorf("%d %s %s\nthe primary: %s %s", s, c, now, contentType, was)
		}
	}
	t.Run("the primary's token", func(t *testing.T) { same(t, k.AccessToken) })
	t.Run("the primary's token of a refresh", func(t *testing.T) { same(t, next.AccessToken) })
	t.Run("a refresh in the outage", func(t *testing.T) {
		again := x.refreshed(next)
		if !again.byBackup() {
			t.Fatalf("%v", again)
		}
		same(t, again.AccessToken)
	})
	t.Run("a code in the outage", func(t *testing.T) {
		again := r.tab("rot", "told", "told-secret", b).with("scope", "openid profile email")
		got := again.redeem(again.open("").Query().Get("code"))
		if !got.byBackup() {
			t.Fatalf("%v", got)
		}
		same(t, got.AccessToken)
	})
	for name, token := range map[string]string{"who never asked": untold.AccessToken, "a narrower sign-in of the same person": narrow.AccessToken} {
		t.Run(name, func(t *testing.T) {
			if s, _, now := r.asksUserInfo("rot", token); s != http.StatusOK || strings.Contains(now, "desk") {
				t.Errorf("%d %s", s, now)
			}
		})
	}
}

// refreshed is what a tab's client gets for its refresh token.
func (x *tab) refreshed(k *tokens) *tokens {
	x.t.Helper()
	got := x.r.refresh(x.realm, k.RefreshToken, func(q *http.Request) { q.SetBasicAuth(x.query.Get("client_id"), x.secret) })
	if got.AccessToken == "" {
		x.t.Fatalf("%v", got)
	}
	return got
}

// Who is told in a signed form (OpenID Connect Core, section 5.3.2) is told so in an outage too, and in no other; the client's own
// library verifies it.
func TestSignedUserInfo(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	addClient(t, kc, "rot", "told-signed", "client-secret", tellsAlone("desk", "eight", "RS256"))
	b := &idptest.Browser{}
	x := r.tab("rot", "told-signed", "told-secret", b).with("scope", "openid profile email")
	k := x.signIn("alice")
	provider := must(oidc.NewProvider(t.Context(), r.realm("rot")))
	asks := func(t *testing.T, k *tokens) map[string]any {
		t.Helper()
		u, err := provider.UserInfo(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: k.AccessToken}))
		if err != nil {
			t.Error(err)
			return nil
		}
		var out map[string]any
		if err := u.Claims(&out); err != nil {
			t.Error(err)
		}
		return out
	}
	learned := r.learnedFlow("userinfo")
	was := asks(t, k)
	if was["desk"] != "eight" {
		t.Fatalf("the primary: %v", was)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("userinfo") > learned })
	_, form, primary := r.asksUserInfo("rot", k.AccessToken)
	untold := r.tab("rot", "told-signed", "told-secret", &idptest.Browser{}).with("scope", "openid profile email").signIn("bob")
	r.publishes(r.realm("rot"), r.realm("rot")+"/protocol/openid-connect/certs")
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	again := x.refreshed(k)
	for name, k := range map[string]*tokens{"the primary's token": k, "a backup's": again} {
		now := asks(t, k)
		if len(now) != len(was) {
			t.Errorf("%s: %v, the primary: %v", name, now, was)
		}
		for claim, v := range was {
			if claim != "iat" && claim != "exp" && claim != "jti" && !reflect.DeepEqual(now[claim], v) {
				t.Errorf("%s: %s is %v, the primary: %v", name, claim, now[claim], v)
			}
		}
	}
	s, c, signed := r.asksUserInfo("rot", again.AccessToken)
	if s != http.StatusOK || c != form || !strings.HasPrefix(kid(signed), "bk-") || headerOf(signed).Text("typ") != headerOf(primary).Text("typ") {
		t.Errorf("%d %s %s", s, c, signed)
	}
	if s, _, now := r.asksUserInfo("rot", untold.AccessToken); s != http.StatusServiceUnavailable {
		t.Errorf("who never asked: %d %s", s, now)
	}
	// What answers one question is no token: nobody takes it for one.
	for as, s := range map[string]func() bool{
		"an access token": func() bool { s, _, _ := r.asksUserInfo("rot", signed); return s == http.StatusOK },
		"a refresh token": func() bool { return x.r.refresh("rot", signed).AccessToken != "" },
		"an introspected one": func() bool {
			_, o := r.introspect("rot", "svc", "svc-secret", signed)
			return string(o.Get("active")) == "true"
		},
	} {
		if s() {
			t.Errorf("a UserInfo response is taken for %s", as)
		}
	}
}

// publishes waits until the key set of an issuer has all of the backup's keys, as it must soon after one is made.
func (r *rig) publishes(issuer, jwks string) {
	r.t.Helper()
	waitFor(r.t, "the backup's keys are published", func() bool {
		_, b := r.asks(must(http.NewRequestWithContext(r.t.Context(), http.MethodGet, jwks, nil)))
		for _, k := range must(r.backup.PublicKeys(r.t.Context(), "default", issuer, nil)) {
			if !strings.Contains(string(b), k.KeyID) {
				return false
			}
		}
		return true
	})
}

func headerOf(jwt string) session.Object {
	head, _, _ := strings.Cut(jwt, ".")
	return must(session.ParseObject(must(base64.RawURLEncoding.DecodeString(head))))
}

// A token goes on being answered for until it ends, whatever was approved for its sign-in since: a refresh token that stays the same
// leads to what was learned last, and the tokens of before still lead to theirs.
func TestTokensOfBeforeAreAnsweredFor(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	k := r.signIn("norot", "alice")
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	own := r.refresh("norot", k.RefreshToken)
	b := &idptest.Browser{}
	if !own.byBackup() {
		t.Fatalf("%v", own)
	}
	if err := kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.back()
	refresh := func() {
		t.Helper()
		was := r.learnedFlow("refresh_token")
		if next := r.refresh("norot", k.RefreshToken); next.AccessToken == "" || next.byBackup() {
			t.Fatalf("%v", next)
		}
		waitFor(t, "it is learned", func() bool { return r.learnedFlow("refresh_token") > was })
	}
	refresh()
	if s, _ := r.userInfo("norot", own.AccessToken); s != http.StatusOK {
		t.Errorf("the backup's token, when the primary is back: %d", s)
	}
	// The browser's record is replaced by each silent sign-on.
	x := r.tab("norot", "spa", "", b)
	x.signIn("alice")
	settled()
	kc.Kill()
	if s, _ := r.userInfo("norot", k.AccessToken); s != http.StatusOK {
		t.Errorf("the primary's token of before a refresh: %d", s)
	}
	again := r.tab("norot", "spa", "", b)
	code := again.redeem(again.open("").Query().Get("code"))
	if !code.byBackup() {
		t.Fatalf("%v", code)
	}
	if err := kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.back()
	r.tab("norot", "spa", "", b).signIn("")
	if s, _ := r.userInfo("norot", code.AccessToken); s != http.StatusOK {
		t.Errorf("the token of the backup's code, after a silent sign-on at the primary: %d", s)
	}
}

// An application asks UserInfo as soon as it has its token, before that is learned, and not again.
func TestUserInfoThatIsAskedAtOnce(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	addClient(t, kc, "rot", "told", "client-secret", tellsAlone("desk", "seven", ""))
	for range 3 {
		x := r.tab("rot", "told", "told-secret", &idptest.Browser{})
		code := x.open("alice").Query().Get("code")
		learned := r.learnedFlow("userinfo")
		k := x.redeem(code)
		if s, _, was := r.asksUserInfo("rot", k.AccessToken); s != http.StatusOK || !strings.Contains(was, "seven") {
			t.Fatalf("the primary: %d %s", s, was)
		}
		waitFor(t, "it is learned", func() bool { return r.learnedFlow("userinfo") > learned })
	}
}
