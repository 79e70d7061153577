package gateway_test

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/idptest"
)

// asks is what Keycloak's page (login-status-iframe.html) tells an application, by its own steps: the page must be there, its check
// must let the client ask from its origin, and then the cookie and the session_state say "unchanged" or "changed".
func asks(t *testing.T, r *rig, b *idptest.Browser, realm, client, origin, state string) string {
	t.Helper()
	at := r.realm(realm) + "/protocol/openid-connect/login-status-iframe.html"
	resp, page, err := b.Get(t.Context(), at)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") ||
		!strings.Contains(page, `getCookieByName("KEYCLOAK_SESSION")`) || !strings.Contains(page, `location.pathname + "/init"`) {
		return "no page"
	}
	if _, src, ok := strings.Cut(page, `src="`); ok { // what the page does without a secure context
		src, _, _ = strings.Cut(src, `"`)
		u, err := resp.Request.URL.Parse(src)
		if err != nil {
			return "no script"
		}
		if s, body, err := b.Get(t.Context(), u.String()); err != nil || s.StatusCode != http.StatusOK || !strings.Contains(body, "SHA-384") {
			return "no script"
		}
	}
	if resp, _, err = b.Get(t.Context(), at+"/init?"+url.Values{"client_id": {client}, "origin": {origin}}.Encode()); err != nil || resp.StatusCode/100 != 2 {
		return "error"
	}
	cookie := strings.Trim(b.Cookie("KEYCLOAK_SESSION"), `"`)
	if cookie == "" {
		return "changed"
	}
	sum := sha512.Sum384([]byte(state))
	if base64.RawURLEncoding.EncodeToString(sum[:]) == cookie {
		return "unchanged"
	}
	return "changed"
}

// No application reads "changed" because the primary died or came back; who signed out meanwhile does.
func TestTheSessionPageInAnOutage(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	alice, bob := &idptest.Browser{}, &idptest.Browser{}
	states := map[*idptest.Browser]string{}
	hints := map[*idptest.Browser]string{}
	for who, b := range map[string]*idptest.Browser{"alice": alice, "bob": bob} {
		x := r.tab("rot", "spa", "", b)
		hints[b] = x.signIn(who).IDToken
		was := r.learnedFlow("authorization")
		code, answer := x.silent()
		x.redeem(code)
		waitFor(t, "the browser is learned", func() bool { return r.learnedFlow("authorization") > was })
		if states[b] = answer.Get("session_state"); states[b] == "" {
			t.Fatal("no session_state")
		}
	}
	const origin = "http://127.0.0.1:9999"
	asked := func(when string, b *idptest.Browser, want string) {
		t.Helper()
		if got := asks(t, r, b, "rot", "spa", origin, states[b]); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	asked("before", alice, "unchanged")
	asked("before", bob, "unchanged")
	if got := asks(t, r, alice, "rot", "spa", "https://evil.example", states[alice]); got != "error" {
		t.Errorf("the primary lets a stranger ask: %s", got)
	}
	kept := func() bool {
		fs, _ := filepath.Glob(filepath.Join(r.dir, "metadata", "*.pages"))
		if len(fs) != 1 {
			return false
		}
		b, err := os.ReadFile(fs[0])
		var x struct {
			Pages, Asked []json.RawMessage
		}
		return err == nil && json.Unmarshal(b, &x) == nil && len(x.Pages) >= 1 && len(x.Asked) == 1
	}
	waitFor(t, "the page is kept", kept)
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	asked("at once", alice, "unchanged")
	r.restart()
	asked("after a restart", bob, "unchanged")
	for _, o := range []string{"https://evil.example", "null", origin + ".evil.example", origin + "/", "http://127.0.0.1:9998"} {
		if got := asks(t, r, alice, "rot", "spa", o, states[alice]); got != "error" {
			t.Errorf("from %s: %s", o, got)
		}
	}
	if got := asks(t, r, alice, "rot", "web", origin, states[alice]); got != "error" {
		t.Errorf("another client: %s", got)
	}
	_, answer := r.tab("rot", "spa", "", alice).silent()
	if got := answer.Get("session_state"); got != states[alice] {
		t.Errorf("the backup's session_state %q, want %q", got, states[alice])
	}
	if resp, _, err := bob.Get(ctx, r.logoutAt("rot", hints[bob])); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("logout: %v %d", err, resp.StatusCode)
	}
	asked("signed out", bob, "changed")
	asked("the other one", alice, "unchanged")
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r.back()
	asked("back", alice, "unchanged")
	asked("back, signed out", bob, "changed")
}
