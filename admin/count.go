package admin

import (
	"cmp"
	"slices"
	"strings"
)

// counts are the gateway's counters by name.
type counts map[string][]Count

// group takes the form of gateway.Counts.Snapshot apart: name and labels joined with NUL; the first label is the tenant.
func group(snapshot map[string]uint64) counts {
	out := counts{}
	for k, n := range snapshot {
		f := strings.Split(k, "\x00")
		out[f[0]] = append(out[f[0]], Count{f[1:], n})
	}
	for _, cs := range out {
		slices.SortFunc(cs, func(a, b Count) int {
			if c := cmp.Compare(b.N, a.N); c != 0 {
				return c
			}
			return slices.Compare(a.Labels, b.Labels)
		})
	}
	return out
}

// of returns the counts of a tenant, the greatest first, without that label.
func (c counts) of(name, tenant string) []Count {
	out := []Count{}
	for _, x := range c[name] {
		if len(x.Labels) > 0 && x.Labels[0] == tenant {
			out = append(out, Count{x.Labels[1:], x.N})
		}
	}
	return out
}

func (c counts) sum(name, tenant string) (n uint64) {
	for _, x := range c.of(name, tenant) {
		n += x.N
	}
	return n
}

// Reason says of a reason for which an exchange was not learned what it means and what to do; both are empty for one
// that is not known.
func Reason(code string) (text, mend string) {
	for _, r := range []struct{ code, text, mend string }{
		{"password", "the grant began with a password (ROPC), which is never learned", "move the client to the authorization code flow"},
		{"dpop", "the tokens are bound to a key by DPoP, which cannot be proved again yet", "no mend yet: this client waits for the primary in an outage"},
		{"cnf", "the tokens are bound to a key (cnf), which cannot be proved again yet", "no mend yet: this client waits for the primary in an outage"},
		{"token_type", "the token type is not Bearer", "no mend yet: this client waits for the primary in an outage"},
		{"id_token_encrypted", "the ID token is encrypted: its claims cannot be learned", "turn ID token encryption off for this client at the primary"},
		{"symmetric_signature", "the tokens are signed with the client's secret (HS256), which only the primary has", "let the primary sign with RS256 or ES256 for this client"},
		{"unsigned", "the tokens are not signed", "let the primary sign with RS256 or ES256 for this client"},
		{"no_kid", "the tokens name no key (kid): clients could not tell the backup's keys from the primary's", "let the primary publish its keys with a kid and name it in its tokens"},
		{"keys_not_mergeable", "the primary's key set has keys without kid, or none that can be merged", "let the primary publish its keys with a kid"},
		{"algorithm", "the backup has no key for the algorithm, or the primary's key is not in its key set", "see the process's log; understudy check names the issuer's problem"},
		{"client_proof", "too many client secrets were tried from there", "it passes by itself; where it does not, see who tries"},
		{"client_method", "the client authenticates in a way that cannot be checked again yet", "use client_secret_basic or client_secret_post, or a public client with PKCE"},
		{"queue_full", "more was approved than could be learned", "give the process more CPU or a faster disk"},
		{"backup_failed", "the backup did not answer", "see the process's log, and the backup's process"},
		{"store_failed", "the store did not open or failed", "see the problems that status shows"},
		{"keys_failed", "the signing keys did not open", "see the problems that status shows"},
		{"audit_failed", "the sign-in log did not open", "see the problems that status shows"},
		{"spooled", "the backup is away: it waits on the gateway's disk", "it is delivered when the backup is back"},
		{"marks_unreadable", "revocations cannot be read, so the backup does not play", "see the process's log: the store is damaged"},
		{"subject_changed", "a refresh came back for another user", "look at the primary: this must not happen"},
		{"revoked", "the session was revoked here", "nothing: this is what a revocation does"},
		{"reply_not_understood", "the primary's reply is no token response that is understood", "report its shape"},
		{"seal", "it could not be sealed", "see the process's log"},
	} {
		if r.code == code {
			return r.text, r.mend
		}
	}
	return "", ""
}
