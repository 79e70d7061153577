package gateway

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// A nonce is good in its window and the next, wherever it was made, though the clocks of two nodes differ by a minute; the primary's
// for a minute after it was given out at an endpoint for tokens.
func TestFresh(t *testing.T) {
	seal, err := session.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	const primarys = "from-the-primary"
	begins := time.Unix(180*1000, 0) // of a window
	now := begins
	g := &Gateway{c: Config{Seal: seal, Now: func() time.Time { return now }}, nonces: newLately(givenFor)}
	x := &trip{g: g, v: &visit{tenant: &Tenant{Name: "t"}, issuer: &issuer{ID: "i"}, endpoint: flow.Token}}
	says := func(nonce string) bool {
		x.possession = &proof.Possession{Claims: session.Object{{Name: "nonce", Value: session.Quote(nonce)}}}
		return x.fresh()
	}
	mine := x.nonce(begins)
	for after, want := range map[time.Duration]bool{
		-61 * time.Second: false, -60 * time.Second: true, -time.Second: true, 0: true, 3*time.Minute - time.Second: true, 3 * time.Minute: true,
		6*time.Minute - time.Second: true, 6 * time.Minute: false, time.Hour: false,
	} {
		if now = begins.Add(after); says(mine) != want {
			t.Errorf("%s after its window began: good %v", after, !want)
		}
	}
	for name, c := range map[string]struct {
		endpoint flow.Endpoint
		header   http.Header
		after    time.Duration
		want     bool
	}{
		"at once":          {flow.Token, http.Header{"Dpop-Nonce": {primarys}}, 0, true},
		"of UserInfo":      {flow.UserInfo, http.Header{"Dpop-Nonce": {primarys}}, 0, true},
		"of a push":        {flow.Pushed, http.Header{"Dpop-Nonce": {primarys}}, 0, true},
		"for a minute":     {flow.Token, http.Header{"Dpop-Nonce": {primarys}}, 59 * time.Second, true},
		"no longer":        {flow.Token, http.Header{"Dpop-Nonce": {primarys}}, time.Minute, false},
		"of another place": {flow.Other, http.Header{"Dpop-Nonce": {primarys}}, 0, false},
		"twice":            {flow.Token, http.Header{"Dpop-Nonce": {primarys, "another"}}, 0, false},
		"of nothing":       {flow.Token, http.Header{}, 0, false},
	} {
		g.nonces, now = newLately(givenFor), begins
		x.v.endpoint = c.endpoint
		x.gives(c.header)
		if now = begins.Add(c.after); says(primarys) != c.want || says("") {
			t.Errorf("the primary's %s: good %v", name, !c.want)
		}
	}
	// The primary gives the same to many: it counts from the last time.
	now, x.v.endpoint = begins, flow.Token
	x.gives(http.Header{"Dpop-Nonce": {primarys}})
	now = begins.Add(50 * time.Second)
	x.gives(http.Header{"Dpop-Nonce": {primarys}})
	if now = begins.Add(100 * time.Second); !says(primarys) {
		t.Error("given out again, it is no good")
	}
	long := string(bytes.Repeat([]byte{'a'}, maxNonce+1))
	x.gives(http.Header{"Dpop-Nonce": {long}})
	if says(long) {
		t.Error("a nonce without a bound is remembered")
	}
}

// A challenge about the proof, or its nonce, does not say that the token is over.
func TestSaysOver(t *testing.T) {
	x := &trip{v: &visit{endpoint: flow.UserInfo}}
	for challenge, over := range map[string]bool{
		"": true, "Bearer": true, `Bearer error="invalid_token"`: true, `DPoP error="invalid_token", algs="ES256"`: true,
		`DPoP algs="ES256", error="use_dpop_nonce", error_description="x"`: false, `DPoP error=use_dpop_nonce`: false,
		`Bearer realm="x", DPoP error="use_dpop_nonce"`: false, `DPoP realm="x", error="invalid_dpop_proof"`: false,
		`Bearer error="invalid_token", error_description="use_dpop_nonce"`: true,
	} {
		if o := (&outcome{status: http.StatusUnauthorized, header: http.Header{"Www-Authenticate": {challenge}}}); x.saysOver(o) != over {
			t.Errorf("%s: over %v", challenge, !over)
		}
	}
}
