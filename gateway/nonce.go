package gateway

import (
	"crypto/subtle"
	"net/http"
	"time"

	"understudy/flow"
	"understudy/session"
)

const (
	// nonceWindow is how long one nonce is given out (RFC 9449, section 8). It is taken for as long again.
	nonceWindow = 3 * time.Minute
	// nonceLeeway is how far the clocks of a deployment's nodes may differ.
	nonceLeeway = time.Minute
	// givenFor is how long a nonce of the primary's is taken here.
	givenFor = time.Minute
	// maxNonce bounds a nonce of the primary's, in bytes.
	maxNonce = 512
)

// nonce is the one that is given out at a time, here and at every other node.
func (t *trip) nonce(at time.Time) string {
	return t.g.c.Seal.Nonce(t.v.tenant.Name, t.v.issuer.ID, at.Unix()/int64(nonceWindow/time.Second))
}

// fresh says whether a proof of possession has a nonce that is good now: one of ours, or one that the primary has just given out.
// Who is asked by the primary for its nonce, and comes back when that is dead, tries once and no more.
func (t *trip) fresh() bool {
	n, now := t.possession.Claims.Text("nonce"), t.g.c.Now()
	if n == "" {
		return false
	}
	for _, at := range []time.Time{now, now.Add(-nonceWindow), now.Add(nonceLeeway)} {
		if subtle.ConstantTimeCompare([]byte(n), []byte(t.nonce(at))) == 1 {
			return true
		}
	}
	return t.g.nonces.recent(t.givenPlace(n), now)
}

func (t *trip) givenPlace(nonce string) session.ID {
	return t.g.c.Seal.Pseudonym("dpop-nonce", t.v.tenant.Name, t.v.issuer.ID, nonce)
}

// gives notes the nonce that a reply of the primary's gives out.
func (t *trip) gives(h http.Header) {
	switch t.v.endpoint {
	case flow.Token, flow.Pushed, flow.UserInfo:
		if all := h.Values("DPoP-Nonce"); len(all) == 1 && all[0] != "" && len(all[0]) <= maxNonce {
			t.g.nonces.note(t.givenPlace(all[0]), t.g.c.Now())
		}
	}
}

// renew puts the nonce of now into the answer to who showed another (RFC 9449, section 8.2), for a browser application to read too.
func (t *trip) renew(h http.Header) {
	n := t.nonce(t.g.c.Now())
	if t.possession.Claims.Text("nonce") == n {
		return
	}
	h.Set("DPoP-Nonce", n)
	if t.header("Origin") != "" {
		h.Add("Access-Control-Expose-Headers", "DPoP-Nonce")
	}
}

// nonced says whether the proof that the primary took has a nonce, which it demanded or gave.
func (t *trip) nonced() bool { return t.possess() && t.possession.Claims.Has("nonce") }
