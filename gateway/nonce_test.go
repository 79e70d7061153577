package gateway_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/gateway"
	"understudy/idptest"
	"understudy/session"
)

const browserApp = "http://127.0.0.1:9999"

// nonceRig is an oidc-provider that demands nonces of "app", "par" and "svc", and none of "free", behind a proxy for faults.
type nonceRig struct {
	*rig
	op       *idptest.OIDCProvider
	f        *idptest.FaultProxy
	key      *holder
	browser  *idptest.Browser
	verifier string
}

func newNonceRig(t *testing.T, change ...func(*gateway.Tenant)) *nonceRig {
	t.Helper()
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := must(idptest.FreePort())
	client := func(id, auth string, grants ...string) map[string]any {
		c := map[string]any{
			"client_id": id, "token_endpoint_auth_method": auth, "grant_types": grants, "response_types": []string{}, "redirect_uris": []string{}, "dpop_bound_access_tokens": true,
		}
		if auth != "none" {
			c["client_secret"] = id + "-secret"
		}
		if slices.Contains(grants, "authorization_code") {
			c["response_types"], c["redirect_uris"] = []string{"code"}, []string{callback}
		}
		return c
	}
	op, err := idptest.StartOIDCProvider(t.Context(), t.TempDir(), idptest.OIDCProviderOptions{
		Issuer: fmt.Sprintf("http://127.0.0.1:%d", port), Nonces: []string{"app", "par", "svc"},
		Clients: []map[string]any{
			client("app", "none", "authorization_code", "refresh_token"), client("free", "none", "authorization_code", "refresh_token"),
			client("par", "client_secret_basic", "authorization_code", "refresh_token"), client("svc", "client_secret_basic", "client_credentials"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Kill)
	f := behind(t, op.URL())
	r := newRigAt(t, port, f.URL(), change...)
	return &nonceRig{rig: r, op: op, f: f, key: newHolder(t, r), browser: &idptest.Browser{}}
}

// said is a reply.
type said struct {
	status int
	header http.Header
	session.Object
}

func (s *said) nonce() string { return s.header.Get("DPoP-Nonce") }

// demands says whether the reply wants a nonce, as RFC 9449 has it at the endpoint of tokens (section 8) or at UserInfo (section 9).
func (s *said) demands() bool {
	if s.status == http.StatusUnauthorized {
		return strings.HasPrefix(s.header.Get("WWW-Authenticate"), "DPoP ") && strings.Contains(s.header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`) && s.nonce() != ""
	}
	return s.status == http.StatusBadRequest && s.Text("error") == "use_dpop_nonce" && s.nonce() != ""
}

func (s *said) byBackup() bool { return strings.HasPrefix(kid(s.Text("id_token")), "bk-") }

func (s *said) String() string {
	return fmt.Sprintf("%d %s %v", s.status, s.Object.Without("access_token", "id_token", "refresh_token").Append(nil), s.header)
}

// do sends a request with a proof, as a browser application does.
func (x *nonceRig) do(method, path, proof string, form url.Values, change ...func(*http.Request)) *said {
	x.t.Helper()
	q := must(http.NewRequestWithContext(x.t.Context(), method, x.url+path, strings.NewReader(form.Encode())))
	if form != nil {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	q.Header.Set("Origin", browserApp)
	q.Header.Set("DPoP", proof)
	for _, c := range change {
		c(q)
	}
	resp := must(http.DefaultClient.Do(q))
	defer resp.Body.Close()
	o, _ := session.ParseObject(must(io.ReadAll(resp.Body)))
	return &said{resp.StatusCode, resp.Header, o}
}

// with is a proof with a nonce, which may be anything; nil: it has none.
func (x *nonceRig) with(method, path, token string, nonce any) string {
	return x.key.proof(method, x.url+path, token, func(c map[string]any) {
		if nonce != nil {
			c["nonce"] = nonce
		}
	})
}

func (x *nonceRig) refresh(token string, nonce any) *said {
	x.t.Helper()
	return x.refreshWith("app", token, x.with("POST", "/token", "", nonce))
}

func (x *nonceRig) refreshWith(client, token, proof string) *said {
	x.t.Helper()
	return x.do("POST", "/token", proof, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {client}})
}

func (x *nonceRig) userInfo(token string, nonce any) *said {
	x.t.Helper()
	return x.do("GET", "/me", x.with("GET", "/me", token, nonce), nil, func(q *http.Request) { q.Header.Set("Authorization", "DPoP "+token) })
}

func (x *nonceRig) redeem(client, code string, nonce any, change ...func(*http.Request)) *said {
	x.t.Helper()
	return x.do("POST", "/token", x.with("POST", "/token", "", nonce), url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "client_id": {client}, "code_verifier": {x.verifier},
	}, change...)
}

// asked is an authorization request.
func (x *nonceRig) asked(client string) url.Values {
	x.verifier = rand43()
	sum := sha256.Sum256([]byte(x.verifier))
	return url.Values{
		"client_id": {client}, "response_type": {"code"}, "scope": {"openid profile email"}, "state": {"s"}, "nonce": {"n"}, "redirect_uri": {callback},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
}

func (x *nonceRig) code(q url.Values) string {
	x.t.Helper()
	at, err := x.browser.Visit(x.t.Context(), x.url+"/auth?"+q.Encode(), callback, map[string]string{"login": "alice", "password": "pw"})
	if err != nil {
		x.t.Fatal(err)
	}
	if at.Query().Get("code") == "" {
		x.t.Fatalf("no code: %s", at)
	}
	return at.Query().Get("code")
}

// signIn signs alice in, as a library does that is asked for a nonce, and asks UserInfo. All of it is learned.
func (x *nonceRig) signIn(client string) *said {
	x.t.Helper()
	browsers, told := x.learnedFlow("authorization"), x.learnedFlow("userinfo")
	code := x.code(x.asked(client))
	k := x.redeem(client, code, nil)
	if client != "free" {
		if !k.demands() {
			x.t.Fatalf("the primary demands nothing: %v", k)
		}
		k = x.redeem(client, code, k.nonce())
	}
	if k.Text("refresh_token") == "" {
		x.t.Fatalf("sign in: %v", k)
	}
	waitFor(x.t, "the browser is learned", func() bool { return x.learnedFlow("authorization") > browsers })
	me := x.userInfo(k.Text("access_token"), nil)
	if client != "free" {
		if !me.demands() || me.status != http.StatusUnauthorized {
			x.t.Fatalf("the primary demands nothing at UserInfo: %v", me)
		}
		me = x.userInfo(k.Text("access_token"), me.nonce())
	}
	if me.Text("sub") != "alice" {
		x.t.Fatalf("UserInfo: %v", me)
	}
	waitFor(x.t, "UserInfo is learned", func() bool { return x.learnedFlow("userinfo") > told })
	return k
}

// steady waits where a window of nonces is about to end.
func steady() (window int64) {
	const length = 3 * time.Minute
	if left := time.Until(time.Now().Truncate(length).Add(length)); left < 5*time.Second {
		time.Sleep(left + 100*time.Millisecond)
	}
	return time.Now().Unix() / int64(length/time.Second)
}

// Where the primary demands a nonce, the backup demands one of its own, and the client goes on with it, and with the primary's again
// when that is back.
func TestNonce(t *testing.T) {
	x := newNonceRig(t)
	k, free := x.signIn("app"), x.signIn("free")
	rt, access := k.Text("refresh_token"), k.Text("access_token")

	// The primary asks for its nonce, and dies before the client comes back.
	asked := x.refresh(rt, nil)
	if !asked.demands() || x.metrics("understudy_demanded")[`understudy_demanded_total{flow="refresh_token",tenant="default"}`] != "" {
		t.Fatalf("the primary: %v", asked)
	}
	x.op.Kill()
	got := x.refresh(rt, asked.nonce())
	if !got.byBackup() {
		t.Fatalf("with the nonce for which the primary has just asked: %v", got)
	}
	window := steady()
	if now := x.seal.Nonce("default", x.url, window); got.nonce() != now && x.refresh(rt, asked.nonce()).nonce() != now {
		t.Errorf("it is told no nonce of the backup's: %v", got)
	}

	x.restart() // what the primary gave out is forgotten
	old := asked.nonce()
	first := x.refresh(rt, old)
	if !first.demands() || first.status != http.StatusBadRequest {
		t.Fatalf("with a nonce that nobody knows: %v", first)
	}
	if e := first.header.Get("Access-Control-Expose-Headers"); first.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(e, "DPoP-Nonce") {
		t.Errorf("a browser application cannot read it: %v", first.header)
	}
	x.line(t, "the demand", func(e audit.Entry) bool {
		return e.Flow == "refresh_token" && e.Decision == "demanded" && e.Rule == "dpop_nonce" && e.Client == "app"
	})
	waitFor(t, "it is counted", func() bool {
		return x.metrics("understudy_demanded")[`understudy_demanded_total{flow="refresh_token",tenant="default"}`] == "1"
	})
	for name := range x.metrics("understudy_refused_total") {
		if strings.Contains(name, "nonce") {
			t.Errorf("counted as a refusal: %s", name)
		}
	}
	for range 3 {
		if got = x.refresh(rt, first.nonce()); !got.byBackup() {
			t.Fatalf("with the nonce of the backup's: %v", got)
		}
	}
	if got.nonce() != "" {
		t.Errorf("another nonce where there is none: %v", got)
	}
	window = steady()
	before := x.refresh(rt, x.seal.Nonce("default", x.url, window-1))
	if !before.byBackup() || before.nonce() != x.seal.Nonce("default", x.url, window) || !strings.Contains(strings.Join(before.header.Values("Access-Control-Expose-Headers"), ","), "DPoP-Nonce") {
		t.Errorf("with the nonce of the window before: %v", before)
	}

	for name, token := range map[string]string{"the primary's token": access, "the backup's token": got.Text("access_token")} {
		me := x.userInfo(token, nil)
		if !me.demands() || me.status != http.StatusUnauthorized {
			t.Errorf("UserInfo, %s: %v", name, me)
		}
		if e := me.header.Get("Access-Control-Expose-Headers"); !strings.Contains(e, "DPoP-Nonce") || !strings.Contains(e, "WWW-Authenticate") {
			t.Errorf("UserInfo, %s: a browser application cannot read it: %v", name, me.header)
		}
		// The primary's demand at sign-in marked nothing.
		if me = x.userInfo(token, me.nonce()); me.status != http.StatusOK || me.Text("email") != "alice@example.test" {
			t.Errorf("UserInfo, %s, with a nonce: %v", name, me)
		}
	}
	x.line(t, "the demand at UserInfo", func(e audit.Entry) bool {
		return e.Flow == "userinfo" && e.Decision == "demanded" && e.Rule == "dpop_nonce"
	})

	q := x.asked("app")
	q.Set("prompt", "none")
	code := x.code(q)
	if d := x.redeem("app", code, nil); !d.demands() {
		t.Errorf("a code of the backup's, without a nonce: %v", d)
	} else if k := x.redeem("app", code, d.nonce()); !k.byBackup() {
		t.Errorf("a code of the backup's, after the demand: %v", k)
	}

	// Of whom the primary demands none.
	if k := x.refreshWith("free", free.Text("refresh_token"), x.with("POST", "/token", "", nil)); !k.byBackup() || k.nonce() != "" {
		t.Errorf("of whom none was demanded: %v", k)
	}
	if me := x.userInfo(free.Text("access_token"), nil); me.status != http.StatusOK || me.nonce() != "" {
		t.Errorf("UserInfo, of whom none was demanded: %v", me)
	}

	if err := x.op.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.back()
	steady()
	theirs := x.refresh(rt, first.nonce())
	if !theirs.demands() || theirs.nonce() == first.nonce() || strings.Contains(theirs.Text("error_description"), "understudy") {
		t.Fatalf("the primary, of a nonce of the backup's: %v", theirs)
	}
	if me := x.userInfo(access, first.nonce()); !me.demands() {
		t.Errorf("UserInfo at the primary, of a nonce of the backup's: %v", me)
	}
	if k = x.refresh(rt, theirs.nonce()); k.Text("refresh_token") == "" || k.byBackup() {
		t.Fatalf("the primary, of its own: %v", k)
	}
	// Nor did its demands mark anything now.
	x.learnedAt(x.url, k.Text("refresh_token"))
	x.op.Kill()
	if me := x.userInfo(access, theirs.nonce()); me.status != http.StatusOK {
		t.Errorf("UserInfo after the primary's demand there: %v", me)
	}
	if got := x.refresh(k.Text("refresh_token"), theirs.nonce()); !got.byBackup() {
		t.Errorf("after the primary's demands: %v", got)
	}
}

// A nonce is demanded where a client pushes, and of services.
func TestNonceOfClients(t *testing.T) {
	x := newNonceRig(t)
	as := func(id string) func(*http.Request) {
		return func(q *http.Request) { q.SetBasicAuth(id, id+"-secret") }
	}
	pushWith := func(proof string) *said { return x.do("POST", "/request", proof, x.asked("par"), as("par")) }
	push := func(nonce any) *said { return pushWith(x.with("POST", "/request", "", nonce)) }
	service := func(nonce any) *said {
		return x.do("POST", "/token", x.with("POST", "/token", "", nonce), url.Values{"grant_type": {"client_credentials"}}, as("svc"))
	}
	pushed := push(nil)
	if !pushed.demands() {
		t.Fatalf("the primary: %v", pushed)
	}
	// Whom it gave a nonce it lets have a clock that is wrong. What such a proof says is not known here.
	nonce := pushed.nonce()
	slow := func(method, path, token string) string {
		return x.key.proof(method, x.url+path, token, func(c map[string]any) { c["nonce"], c["iat"] = nonce, time.Now().Add(-time.Hour).Unix() })
	}
	unlearned := func() int {
		n, _ := strconv.Atoi(x.metrics("understudy_unlearned_total")[`understudy_unlearned_total{reason="dpop",tenant="default"}`])
		return n
	}
	if pushed = pushWith(slow("POST", "/request", "")); pushed.Text("request_uri") == "" {
		t.Fatalf("the primary, by a slow clock: %v", pushed)
	}
	waitFor(t, "the push by a slow clock is not learned", func() bool { return unlearned() > 0 })
	if pushed = push(nonce); pushed.Text("request_uri") == "" {
		t.Fatalf("the primary: %v", pushed)
	}
	browsers := x.learnedFlow("authorization")
	open := func(uri string) string { return x.code(url.Values{"client_id": {"par"}, "request_uri": {uri}}) }
	code := open(pushed.Text("request_uri"))
	k := x.redeem("par", code, nil, as("par"))
	if k = x.redeem("par", code, k.nonce(), as("par")); k.Text("refresh_token") == "" {
		t.Fatalf("the primary: %v", k)
	}
	// UserInfo was not told to who has this token, as far as is known here.
	mine, before := k.Text("access_token"), unlearned()
	me := x.do("GET", "/me", slow("GET", "/me", mine), nil, func(q *http.Request) { q.Header.Set("Authorization", "DPoP "+mine) })
	if me.Text("sub") != "alice" {
		t.Fatalf("UserInfo at the primary, by a slow clock: %v", me)
	}
	waitFor(t, "UserInfo by a slow clock is not learned", func() bool { return unlearned() > before })
	// One that shows a nonce at UserInfo alone.
	k = x.redeem("free", x.code(x.asked("free")), nil)
	waitFor(t, "it is learned", func() bool { return x.learnedFlow("authorization") > browsers+1 })
	free := k.Text("access_token")
	if me := x.userInfo(free, nonce); me.Text("sub") != "alice" {
		t.Fatalf("UserInfo at the primary: %v", me)
	}
	s := service(nil)
	if s = service(s.nonce()); s.Text("access_token") == "" {
		t.Fatalf("the primary: %v", s)
	}
	waitFor(t, "all is learned", func() bool {
		return x.learnedFlow("authorization") > browsers && x.learnedFlow("pushed_authorization_request") > 0 && x.learnedFlow("client_credentials") > 0 &&
			x.learnedFlow("userinfo") > 0
	})
	x.op.Kill()
	x.restart()
	for name, token := range map[string]string{"as at the token endpoint, where it is not known": mine, "as there, where it is known": free} {
		if d := x.userInfo(token, nil); !d.demands() {
			t.Errorf("UserInfo, %s: %v", name, d)
		} else if me := x.userInfo(token, d.nonce()); me.Text("sub") != "alice" {
			t.Errorf("UserInfo, %s, with a nonce: %v", name, me)
		}
	}
	if k := x.refreshWith("free", k.Text("refresh_token"), x.with("POST", "/token", "", nil)); !k.byBackup() {
		t.Errorf("at the token endpoint, where the primary demanded none: %v", k)
	}
	for name, ask := range map[string]func(any) *said{"a service": service, "a pushed request": push} {
		d := ask(nil)
		if !d.demands() || d.status != http.StatusBadRequest {
			t.Errorf("%s: %v", name, d)
		}
		if got := ask(d.nonce()); got.status/100 != 2 {
			t.Errorf("%s, with a nonce: %v", name, got)
		} else if name == "a pushed request" {
			code := open(got.Text("request_uri"))
			if d := x.redeem("par", code, nil, as("par")); !d.demands() {
				t.Errorf("its code: %v", d)
			}
			if k := x.redeem("par", code, d.nonce(), as("par")); !k.byBackup() {
				t.Errorf("its code, with a nonce: %v", k)
			}
		}
	}
}

// What is no nonce of the backup's for the tenant and the time is none, whatever else it is; and a proof is used once.
func TestNonceAttacks(t *testing.T) {
	x := newNonceRig(t)
	k := x.signIn("app")
	rt, access := k.Text("refresh_token"), k.Text("access_token")
	theirs := x.refresh(rt, nil).nonce()
	x.op.Kill()
	x.restart()
	window := steady()
	good := x.seal.Nonce("default", x.url, window)
	otherKey := must(session.NewSealer([]byte(strings.Repeat("k", 32))))
	bad := map[string]any{
		"none": nil, "empty": "", "the primary's": theirs, "of another tenant": x.seal.Nonce("other", x.url, window),
		"of another issuer": x.seal.Nonce("default", x.url+"/other", window), "of another deployment": otherKey.Nonce("default", x.url, window),
		"expired": x.seal.Nonce("default", x.url, window-2), "of the future": x.seal.Nonce("default", x.url, window+2),
		"forged": "A" + strings.Repeat("b", len(good)-1), "cut": good[:len(good)-1], "with more": good + "A", "long": strings.Repeat("A", 3000),
		"a number": 7, "a list": []string{good}, "of null": []any{nil}[0],
	}
	bad["changed"] = good[:10] + string("AB"[b2i(good[10] == 'A')]) + good[11:]
	for name, nonce := range bad {
		t.Run(name, func(t *testing.T) {
			if d := x.refresh(rt, nonce); !d.demands() || d.Has("access_token") || d.nonce() != good {
				t.Errorf("%v", d)
			}
			if d := x.userInfo(access, nonce); !d.demands() || d.status != http.StatusUnauthorized || d.Has("sub") {
				t.Errorf("UserInfo: %v", d)
			}
		})
	}
	t.Run("no proof at all", func(t *testing.T) {
		d := x.do("POST", "/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}, "client_id": {"app"}}, func(q *http.Request) { q.Header.Del("DPoP") })
		if d.Text("error") != "invalid_dpop_proof" {
			t.Errorf("%v", d)
		}
	})
	t.Run("another key", func(t *testing.T) {
		proof := newHolder(t, x.rig).proof("POST", x.url+"/token", "", func(c map[string]any) { c["nonce"] = good })
		if d := x.refreshWith("app", rt, proof); d.Has("access_token") || d.Text("error_description") != "understudy: dpop_mismatch" {
			t.Errorf("%v", d)
		}
	})
	// A demand uses nothing up; an answer does, and that is known after a restart.
	without, used := x.with("POST", "/token", "", nil), x.with("POST", "/token", "", good)
	for range 2 {
		if d := x.refreshWith("app", rt, without); !d.demands() {
			t.Errorf("%v", d)
		}
	}
	if got := x.refreshWith("app", rt, used); !got.byBackup() {
		t.Fatalf("%v", got)
	}
	for _, when := range []string{"at once", "after a restart"} {
		if d := x.refreshWith("app", rt, used); d.Has("access_token") || d.Text("error_description") != "understudy: dpop_replayed" {
			t.Errorf("a used proof, %s: %v", when, d)
		}
		x.restart()
	}
	if got := x.refresh(rt, good); !got.byBackup() {
		t.Errorf("a nonce from before the restart: %v", got)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A demand is no answer: a primary that fails for one client alone, while the gateway's probe finds it well, is stood in for once, and
// that is when the client comes back with the nonce.
func TestNonceInDoubt(t *testing.T) {
	x := newNonceRig(t)
	rt := x.signIn("app").Text("refresh_token")
	x.restart()
	steady()
	fault(t, x.f, idptest.Fault{Kind: idptest.ServerError, Status: http.StatusInternalServerError, Grant: "refresh_token"})
	d := x.refresh(rt, nil)
	if !d.demands() {
		t.Fatalf("%v", d)
	}
	if got := x.refresh(rt, d.nonce()); !got.byBackup() {
		t.Errorf("with the nonce: %v", got)
	}
	for _, nonce := range []any{nil, d.nonce()} {
		if got := x.refresh(rt, nonce); got.status < 500 || got.Has("access_token") || got.nonce() != "" {
			t.Errorf("a second time: %v", got)
		}
	}
}

// The exercise beside the primary demands nothing: the nonce in the proof is the primary's.
func TestNonceInShadow(t *testing.T) {
	x := newNonceRig(t, func(t *gateway.Tenant) { t.Shadow = 100 })
	rt := x.signIn("app").Text("refresh_token")
	for range 2 { // the first teaches how a refresh reply looks
		d := x.refresh(rt, nil)
		if d = x.refresh(rt, d.nonce()); d.Text("refresh_token") == "" {
			t.Fatalf("the primary: %v", d)
		}
		rt = d.Text("refresh_token")
		x.learnedAt(x.url, rt)
	}
	waitFor(t, "the exercise", func() bool {
		return x.metrics("understudy_shadow_total")[`understudy_shadow_total{flow="refresh_token",result="equal",tenant="default"}`] != ""
	})
	for name := range x.metrics("understudy_shadow_total") {
		if strings.Contains(name, "refused") {
			t.Error(name)
		}
	}
}
