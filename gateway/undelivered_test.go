package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"understudy/idptest"
)

// What was ended here while the primary was away it hears of when it is back, also after a restart; nothing of it lies in the
// clear meanwhile.
func TestThePrimaryHearsOfLogouts(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	alice, bob, carol := &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}
	ka := r.tab("rot", "web", "web-secret", alice).signIn("alice")
	kb := r.tab("rot", "web", "web-secret", bob).signIn("bob")
	kc2 := r.tab("norot", "web", "web-secret", carol).signIn("alice")
	kd := r.tab("norot", "web", "web-secret", &idptest.Browser{}).signIn("bob")
	settled()
	was := alice.Clone()
	kc.Kill()
	defer kc.Restart(ctx)

	if _, _, err := alice.Get(ctx, r.realm("rot")+"/protocol/openid-connect/logout?"+url.Values{"id_token_hint": {ka.IDToken}}.Encode()); err != nil {
		t.Fatal(err)
	}
	post := func(realm, at string, form url.Values) {
		t.Helper()
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.realm(realm)+"/protocol/openid-connect/"+at, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.SetBasicAuth("web", "web-secret")
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s: %d", at, resp.StatusCode)
		}
	}
	post("rot", "revoke", url.Values{"token": {kb.RefreshToken}})
	post("norot", "logout", url.Values{"refresh_token": {kc2.RefreshToken}, "client_id": {"web"}, "client_secret": {"web-secret"}})
	waiting := func() []string {
		names, err := filepath.Glob(filepath.Join(r.dir, "*", "metadata", "undelivered", "default", "*.owed"))
		if err != nil {
			t.Fatal(err)
		}
		more, err := filepath.Glob(filepath.Join(r.dir, "metadata", "undelivered", "default", "*.owed"))
		if err != nil {
			t.Fatal(err)
		}
		return append(names, more...)
	}
	if n := len(waiting()); n != 3 {
		t.Fatalf("%d wait, want 3", n)
	}
	r.restart()
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all are delivered", func() bool {
		return r.metrics("understudy_owed_total")[`understudy_owed_total{result="delivered",tenant="default"}`] == "3" && len(waiting()) == 0
	})
	// The primary itself knows: it is asked without the gateway, by the name that it knows itself by.
	for who, k := range map[string]struct {
		realm string
		*tokens
		want int
	}{"who did not sign out": {"norot", kd, http.StatusOK}, "a logout with a hint": {"rot", ka, http.StatusBadRequest}, "a revocation": {"rot", kb, http.StatusBadRequest}, "a logout with a token": {"norot", kc2, http.StatusBadRequest}} {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}}
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, kc.URL()+"/realms/"+k.realm+"/protocol/openid-connect/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Host = strings.TrimPrefix(r.url, "http://")
		q.SetBasicAuth("web", "web-secret")
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != k.want {
			t.Errorf("%s: the primary says %d to the refresh token", who, resp.StatusCode)
		}
	}
	if resp, _ := r.tab("rot", "web", "web-secret", was).once(); resp.Header.Get("Location") != "" {
		t.Error("the primary lets her old cookies in")
	}
}
