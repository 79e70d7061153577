package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/audit"
	"understudy/idptest"
	"understudy/store"
)

// disk is a rig's store. While it is full nothing is written; what was written can be read.
type disk struct {
	store.KV
	full *atomic.Bool
}

func (d disk) Apply(ctx context.Context, b *store.Batch, how store.Durability) error {
	if d.full.Load() {
		return errors.New("no space left on device")
	}
	return d.KV.Apply(ctx, b, how)
}

// behind puts a fault proxy in front of a primary.
func behind(t *testing.T, primary string) *idptest.FaultProxy {
	t.Helper()
	f, err := idptest.StartFaultProxy(primary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// fault sets a fault, and waits for nothing.
func fault(t *testing.T, f *idptest.FaultProxy, x idptest.Fault) {
	t.Helper()
	if err := f.Set(x); err != nil {
		t.Fatal(err)
	}
}

// log reads the sign-in log, which is written in groups.
func (r *rig) signIns() (out []audit.Entry) {
	r.t.Helper()
	err := audit.Read(r.t.Context(), filepath.Join(r.dir, "audit"), audit.Filter{}, false, func(e audit.Entry) error {
		out = append(out, e)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// line waits for a line of the sign-in log. t is the test that wants it.
func (r *rig) line(t *testing.T, what string, f func(audit.Entry) bool) {
	t.Helper()
	var all []audit.Entry
	for range 100 {
		if all = r.signIns(); slices.ContainsFunc(all, f) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("no line in the sign-in log: %s; there are", what)
	for _, e := range all {
		t.Errorf("  %s %s rule %s, trigger %q", e.Flow, e.Decision, e.Rule, e.Trigger)
	}
}

// metrics reads the counters whose names begin so, as the process shows them.
func (r *rig) metrics(prefix string) map[string]string {
	r.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(r.dir, "admin.sock"))
	}}}
	resp, err := c.Get("http://understudy/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, v, ok := strings.Cut(lines.Text(), " ")
		if i := strings.IndexByte(lines.Text(), '}'); i >= 0 {
			name, v, ok = lines.Text()[:i+1], strings.TrimSpace(lines.Text()[i+1:]), true
		}
		if ok && strings.HasPrefix(name, prefix) {
			out[name] = v
		}
	}
	return out
}

// administer asks Keycloak's own administration, past the gateway.
func administer(t *testing.T, kc *idptest.Keycloak, method, path string, change any) []byte {
	t.Helper()
	do := func(method, path, token string, body, contentType string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, kc.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
		return b
	}
	var admin tokens
	form := url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"}}
	if err := json.Unmarshal(do(http.MethodPost, "/realms/master/protocol/openid-connect/token", "", form.Encode(), "application/x-www-form-urlencoded"), &admin); err != nil {
		t.Fatal(err)
	}
	body := ""
	if change != nil {
		b, err := json.Marshal(change)
		if err != nil {
			t.Fatal(err)
		}
		body = string(b)
	}
	return do(method, "/admin/realms/"+path, admin.AccessToken, body, "application/json")
}

// userID is a user's at Keycloak.
func userID(t *testing.T, kc *idptest.Keycloak, realm, user string) string {
	t.Helper()
	var users []struct {
		ID string `json:"id"`
	}
	b := administer(t, kc, http.MethodGet, realm+"/users?exact=true&username="+user, nil)
	if err := json.Unmarshal(b, &users); err != nil || len(users) != 1 {
		t.Fatalf("user %s: %v", user, err)
	}
	return users[0].ID
}

// setUser changes a user at Keycloak itself, past the gateway.
func setUser(t *testing.T, kc *idptest.Keycloak, realm, user string, change map[string]any) {
	t.Helper()
	administer(t, kc, http.MethodPut, realm+"/users/"+userID(t, kc, realm, user), change)
}

// setSecret gives a client another secret at Keycloak.
func setSecret(t *testing.T, kc *idptest.Keycloak, realm, client, secret string) {
	t.Helper()
	var clients []map[string]any
	if err := json.Unmarshal(administer(t, kc, http.MethodGet, realm+"/clients?clientId="+client, nil), &clients); err != nil || len(clients) != 1 {
		t.Fatalf("client %s: %v", client, err)
	}
	clients[0]["secret"] = secret
	administer(t, kc, http.MethodPut, realm+"/clients/"+clients[0]["id"].(string), clients[0])
}

// enabled switches a user on or off at Keycloak.
func enabled(t *testing.T, kc *idptest.Keycloak, realm, user string, yes bool) {
	t.Helper()
	setUser(t, kc, realm, user, map[string]any{"enabled": yes})
}

// endSessions ends all sessions of a user at Keycloak, which tells nobody.
func endSessions(t *testing.T, kc *idptest.Keycloak, realm, user string) {
	t.Helper()
	administer(t, kc, http.MethodPost, realm+"/users/"+userID(t, kc, realm, user)+"/logout", nil)
}

// claim is a claim of the ID token.
func (t *tokens) claim(name string) string {
	_, rest, _ := strings.Cut(t.IDToken, ".")
	rest, _, _ = strings.Cut(rest, ".")
	return claimOf(rest, name)
}

// String tells a reply without its tokens.
func (t *tokens) String() string {
	return fmt.Sprintf("%d %s %q, access token %v, by the backup %v", t.status, t.Error, t.Description, t.AccessToken != "", t.byBackup())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func loopback() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/8") }
func ten() netip.Prefix      { return netip.MustParsePrefix("10.0.0.0/8") }
