package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"understudy/idptest"
)

// covered are the rows of the coverage table in short.
func (n *node) covered() (out []string) {
	n.t.Helper()
	var st struct {
		Tenants []struct {
			Coverage struct {
				Applications []struct {
					Application, Flow  string
					Sessions, Servable int
					Why                []struct{ Reason string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(n.run("status", "--json").out), &st); err != nil {
		n.t.Fatal(err)
	}
	for _, r := range st.Tenants[0].Coverage.Applications {
		line := fmt.Sprintf("%s %s %d/%d", r.Application, r.Flow, r.Servable, r.Sessions)
		for _, w := range r.Why {
			line += " " + w.Reason
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func (n *node) wantCovered(what string, want ...string) {
	n.t.Helper()
	n.until("covered "+what, func() bool { return slices.Equal(n.covered(), want) })
}

// The table counts what the store knows, so that a killed process has it again; an application has its name again once it
// was seen.
func TestCoverage(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	n.run("status", "--coverage").want(t, 0, "tenant staff", "APPLICATION: none was seen yet")
	alice, bob := n.signIn("alice"), n.signIn("bob")
	rows := []string{"web authorization 2/2", "web refresh_token 2/2"}
	n.wantCovered("both", rows...)
	n.run("status", "--coverage").want(t, 0, "APPLICATION", "CLIENT AUTHENTICATION", "client_secret_basic", "100 %", "RESOURCE", "(none named)")
	n.run("status", "--coverage").want(t, 0, "LOGOUT", "not notified", "Not notified of a logout in an outage: web: set `backchannel_logout_uri` or `frontchannel_logout_uri` in `clients`")
	n.run("status").want(t, 0, "not notified of a logout in an outage: web: set `backchannel_logout_uri`")
	n.run("status", "--json").want(t, 0, `"told": []`, `"mend": "set `+"`backchannel_logout_uri`")
	unread := "keys were not fetched from 127.0.0.1 since `bk-"
	n.run("status", "--coverage").want(t, 0, unread)
	if resp, err := http.Get(n.url() + "/jwks"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	if out := n.run("status", "--coverage").want(t, 0).out; strings.Contains(out, unread) {
		t.Errorf("the keys were fetched\n%s", out)
	}
	resp, err := n.api("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, want := range []string{
		`understudy_coverage_sessions{flow="refresh_token",tenant="staff"} 2`, `understudy_coverage_servable{flow="authorization",tenant="staff"} 2`,
		fmt.Sprintf(`understudy_coverage_application_sessions{application="web",flow="refresh_token",issuer=%q,tenant="staff"} 2`, n.url()),
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in the metrics", want)
		}
	}

	n.kill()
	n.start()
	n.run("status", "--coverage").want(t, 0, "APPLICATION: none was seen yet")
	n.wantRefresh("after a restart", alice, http.StatusOK, "")
	n.wantCovered("what the store knew", rows[1:]...)
	n.run("revoke", "--subject", "bob").want(t, 0)
	n.wantCovered("without whom was revoked", "web refresh_token 1/1")

	idp.Kill()
	n.until("gave the primary up", func() bool { return n.status().Tenants[0].Endpoints["token"].Mode == "outage" })
	n.wantRefresh("who is covered", alice, http.StatusOK, "")
	n.wantRefresh("who is not", bob, http.StatusBadRequest, "invalid_grant")
}

// What is to be mended is named, and is gone when it is mended.
func TestCoverageNamesTheMend(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL(), "    session_cookies: [of_another_primary]")
	n.start()
	n.until("knew the issuer", func() bool { return len(n.status().Tenants[0].Issuers) > 0 })
	c := n.client()
	c.Scopes = []string{"openid"} // and no refresh token
	alice := &idptest.Browser{}
	signIn := func() {
		t.Helper()
		at, err := alice.Visit(t.Context(), c.AuthCodeURL("s"), c.RedirectURL, map[string]string{"login": "alice", "password": "x"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exchange(t.Context(), at.Query().Get("code")); err != nil {
			t.Fatal(err)
		}
	}
	signIn()
	n.wantCovered("nothing", "web authorization 0/1 no_session_cookie", "web authorization_code 0/1 no_refresh_token")
	t.Log(n.run("status", "--coverage").want(t, 0, "1: no session cookie known: set `session_cookies`", "0 %", "offline_access").out)

	n.write(idp.URL(), "    clients: [{id: web, backchannel_logout_uri: \"http://127.0.0.1:9/out\"}]")
	n.hangup()
	n.until("took the new configuration", func() bool { return n.logged("the new configuration is in force") })
	n.until("knew the issuer", func() bool { return len(n.status().Tenants[0].Issuers) > 0 })
	signIn()
	n.wantCovered("the browser", "web authorization 1/1", "web authorization_code 0/1 no_refresh_token")
	if out := n.run("status", "--coverage").want(t, 0, "told").out; strings.Contains(out, "otified") {
		t.Errorf("it is told\n%s", out)
	}
	idp.Kill()
	at, err := alice.Visit(t.Context(), c.AuthCodeURL("s2", oauth2.SetAuthURLParam("prompt", "none")), c.RedirectURL, nil)
	if err != nil || at.Query().Get("code") == "" {
		t.Errorf("who is covered is not let in: %v %v", at, err)
	}
}
