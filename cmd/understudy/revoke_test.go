package main

import (
	"net/http"
	"strings"
	"testing"
)

// What an operator ended stays ended when the process is killed the moment after it was acknowledged, in an outage and
// when the primary, which heard nothing of it, is back.
func TestRevocationIsDurableBeforeItIsAcknowledged(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	tokens := map[string]string{}
	for _, user := range []string{"alice", "bob"} {
		tokens[user] = n.signIn(user)
	}
	device := n.signIn("bob")

	r := command(t, device+"\n", nil, "revoke", "--device", "--json", "--config", n.file())
	n.kill()
	r.want(t, 0, `"marks": 1`)
	if strings.Contains(r.out+r.err, device) {
		t.Error("the refresh token is repeated")
	}
	idp.Kill()
	n.start()
	n.wantRefresh("the device that was revoked", device, http.StatusBadRequest, "invalid_grant")
	n.wantRefresh("the same user's other device", tokens["bob"], http.StatusOK, "")

	r = n.run("revoke", "--subject", "alice")
	n.kill()
	r.want(t, 0, "revoked: what began until")
	n.start()
	n.wantRefresh("the user who was revoked", tokens["alice"], http.StatusBadRequest, "invalid_grant")
	n.wantRefresh("another user", tokens["bob"], http.StatusOK, "")

	if err := idp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.until("went back to the primary", func() bool { return n.status().Tenants[0].Endpoints["token"].Mode == "normal" })
	n.wantRefresh("the user, in normal mode, at a primary that did not hear of it", tokens["alice"], http.StatusBadRequest, "invalid_grant")
	n.wantRefresh("another user, in normal mode", tokens["bob"], http.StatusOK, "")

	n.run("revoke", "--client", "web", "--tenant", "staff").want(t, 0)
	n.wantRefresh("the client that was revoked", tokens["bob"], http.StatusBadRequest, "invalid_grant")
	again := n.signIn("bob")
	n.wantRefresh("a sign-in after it", again, http.StatusOK, "")
	n.run("revoke", "--all").want(t, 0)
	idp.Kill()
	n.wantRefresh("everything, in an outage", again, http.StatusBadRequest, "invalid_grant")

	// Every act and every answer left a line.
	n.run("log", "--decision", "revoked", "--json", "-n", "0").want(t, 0, `"flow":"operator"`, `"subject":"alice"`, `"client":"web"`)
	n.run("log", "--decision", "refused", "--rule", "revoked").want(t, 0, `client="web"`, `because="revoked_here"`)
	if out := n.run("log", "--decision", "issued", "--client", "nobody", "-n", "0").want(t, 0).out; out != "" {
		t.Errorf("a filter that chooses nothing chose %s", out)
	}
	if out := n.run("log", "-n", "1", "--json").out; strings.Count(out, "\n") != 1 {
		t.Errorf("-n 1: %s", out)
	}
}

func TestRevokeSaysWhatIsMissing(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	n.start()
	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"nobody", "", []string{}, 2, "say whose sign-ins end"},
		{"two at once", "", []string{"--all", "--subject", "x"}, 2, "can't be used together"},
		{"all of one issuer", "", []string{"--all", "--issuer", "http://x"}, 2, "leave --issuer out"},
		{"no token", "", []string{"--device"}, 2, "no refresh token on standard input"},
		{"a token as an argument", "", []string{"--device", "abc"}, 2, "unexpected argument"},
		{"another tenant", "", []string{"--subject", "x", "--tenant", "guests"}, 1, `there is no tenant "guests"; there are ["staff"]`},
		{"an issuer that nobody knows", "", []string{"--subject", "x"}, 1, "--issuer"},
		{"an issuer that is named", "", []string{"--subject", "x", "--issuer", "http://127.0.0.1:9/"}, 0, "revoked"},
		{"a token that is not known", "abc", []string{"--device", "--issuer", "http://x"}, 1, "not known here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command(t, c.stdin, nil, append([]string{"revoke", "--config", n.file()}, c.args...)...).want(t, c.code, c.want)
		})
	}
	n.kill()
	n.run("revoke", "--all").want(t, 1, "no understudy is running", "--data-dir")
}

// The refusals of a sick primary are lifted by hand, as one batch; what was ended for good is not.
func TestLift(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	alice, bob := n.signIn("alice"), n.signIn("bob")
	if err := idp.Disable("alice"); err != nil {
		t.Fatal(err)
	}
	n.wantRefresh("a primary that refuses", alice, http.StatusBadRequest, "invalid_grant")
	n.run("revoke", "--subject", "bob").want(t, 0)
	idp.Kill()
	n.wantRefresh("what the primary refused, in the outage", alice, http.StatusBadRequest, "invalid_grant")

	n.run("lift", "--tenant", "staff", "--from", "1h", "--dry-run").want(t, 0, "1 marks would be lifted")
	n.wantRefresh("after only counting", alice, http.StatusBadRequest, "invalid_grant")
	n.run("lift", "--tenant", "staff", "--from", "48h", "--to", "24h").want(t, 0, "0 marks")
	n.wantRefresh("after lifting another day's", alice, http.StatusBadRequest, "invalid_grant")
	n.run("lift", "--tenant", "staff", "--from", "soon").want(t, 2, "is no time")
	n.run("lift", "--tenant", "staff", "--from", "1h", "--json").want(t, 0, `"refused": 1`, `"lifted": true`)
	n.wantRefresh("after lifting", alice, http.StatusOK, "")
	n.wantRefresh("what an operator ended", bob, http.StatusBadRequest, "invalid_grant")
}
