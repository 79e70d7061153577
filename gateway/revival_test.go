package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/gateway"
	"understudy/health"
	"understudy/idptest"
	"understudy/session"
)

// One person cannot hold the way back: with grants of her own that the primary refuses, presented again and again, she does not keep
// everybody else at the backup, which would go on for who was disabled meanwhile.
func TestTheRampIsNobodysToHold(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.Health = health.Config{ProbeAway: 200 * time.Millisecond, RampStep: time.Second}
	})
	hash := func(k *tokens) uint32 {
		st, err := r.backup.Standing(t.Context(), "default", r.seal.Lookup(session.RefreshToken, "default", r.realm("norot"), k.RefreshToken))
		if err != nil || !st.Known {
			t.Fatal(st, err)
		}
		return st.Hash % 100
	}
	var mine []*tokens // her own, in the first share
	for n := 0; len(mine) < 3 && n < 200; n++ {
		if k := r.signIn("norot", "alice"); hash(k) < 10 {
			mine = append(mine, k)
		}
	}
	bob := r.signIn("norot", "bob")
	for hash(bob) < 10 {
		bob = r.signIn("norot", "bob")
	}
	endSessions(t, kc, "norot", "alice") // in her account's page: nothing of it passes the token endpoint
	settled()
	kc.Kill()
	if k := r.refresh("norot", bob.RefreshToken); !k.byBackup() {
		t.Fatal(k)
	}
	if err := kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	share := func() string {
		return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`]
	}
	waitFor(t, "the ramp begins", func() bool { return share() != "0" })
	for _, k := range mine {
		if got := r.refresh("norot", k.RefreshToken); got.Error != "invalid_grant" {
			t.Errorf("alice: %v", got)
		}
	}
	enabled(t, kc, "norot", "bob", false)
	defer enabled(t, kc, "norot", "bob", true)
	waitFor(t, "everybody is at the primary again", func() bool {
		for _, k := range mine {
			r.refresh("norot", k.RefreshToken)
		}
		return share() == "100"
	})
	if k := r.refresh("norot", bob.RefreshToken); k.AccessToken != "" {
		t.Errorf("bob, who is disabled: %v", k)
	}
}

// Somebody's ended session does not teach that the primary refuses superseded tokens, where it accepts them: who keeps his first
// token, as this primary allows, goes on in the outage and after it.
func TestAnEndedSessionIsNoRotation(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	bob := r.signIn("norot", "bob")
	for range 2 {
		k := r.refresh("norot", bob.RefreshToken)
		if k.AccessToken == "" {
			t.Fatal(k)
		}
		r.learned("norot", k.RefreshToken)
	}
	for range 3 {
		alice := r.signIn("norot", "alice")
		r.learned("norot", r.refresh("norot", alice.RefreshToken).RefreshToken)
		endSessions(t, kc, "norot", "alice")
		if k := r.refresh("norot", alice.RefreshToken); k.Error != "invalid_grant" {
			t.Fatalf("alice's session goes on: %v", k)
		}
	}
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	if k := r.refresh("norot", bob.RefreshToken); !k.byBackup() {
		t.Errorf("in the outage: %v", k)
	}
	fault(t, f, idptest.Fault{})
	r.back()
	if k := r.refresh("norot", bob.RefreshToken); k.AccessToken == "" {
		t.Errorf("at the primary again: %v", k)
	}
}

// What is under way when a revocation is acknowledged is not given out any more.
func TestRevokedInFlight(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	bob := r.signIn("rot", "bob")
	taken := make(chan struct{})
	fault(t, f, idptest.Fault{Kind: idptest.LateReply, Times: 1, Match: func(q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/token") {
			return false
		}
		close(taken)
		return true
	}})
	done := make(chan *tokens)
	go func() { done <- r.refresh("rot", bob.RefreshToken) }()
	<-taken
	m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("rot"), bob.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	f.Release()
	if k := <-done; k.AccessToken != "" || k.Error != "invalid_grant" {
		t.Errorf("%v", k)
	}
	r.line(t, "the refusal", func(e audit.Entry) bool { return e.Rule == "revoked" && e.Trigger == "revoked_here" })
}

// A revocation that the primary, or what stands before it, does not answer does not keep the others from it; and a header field may
// hold any bytes.
func TestWhatIsOwedGoesOn(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	revoke := func(k *tokens, header, value string) {
		t.Helper()
		if s := r.revoke("norot", k.RefreshToken, func(q *http.Request) { q.Header.Set(header, value) }); s != http.StatusOK {
			t.Errorf("revoke: %d", s)
		}
	}
	endSessions(t, kc, "norot", "bob")
	alice, bob, latin := r.signIn("norot", "alice"), r.signIn("norot", "bob"), r.signIn("norot", "bob")
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	waitFor(t, "the outage", func() bool {
		r.refresh("norot", alice.RefreshToken)
		return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "0"
	})
	revoke(alice, "Cookie", "x="+strings.Repeat("a", 9_000))
	revoke(bob, "User-Agent", "plain")
	revoke(latin, "User-Agent", "Caf\xe9")
	// A reverse proxy that takes no more than 8 KB of cookies.
	fault(t, f, idptest.Fault{Kind: idptest.ServerError, Status: 400, Match: func(q *http.Request) bool { return len(q.Header.Get("Cookie")) > 8192 }})
	r.back()
	waitFor(t, "bob is signed out at the primary", func() bool {
		var sessions []any
		if err := json.Unmarshal(administer(t, kc, http.MethodGet, "norot/users/"+userID(t, kc, "norot", "bob")+"/sessions", nil), &sessions); err != nil {
			t.Fatal(err)
		}
		return len(sessions) == 0
	})
	if n := r.metrics("understudy_owed_total")[`understudy_owed_total{result="unreadable",tenant="default"}`]; n != "" && n != "0" {
		t.Errorf("%s of what the primary has yet to hear are lost", n)
	}
}
