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
		{"dpop", "the DPoP proof does not verify, or is of another key than the tokens are bound to", "let the primary's metadata name dpop_signing_alg_values_supported"},
		{"cnf", "the tokens are bound to a key or a certificate (cnf) that was not shown here", "set `client_certificates`, or bind them by DPoP"},
		{"token_type", "the token type is not Bearer", "no mend yet: this client waits for the primary in an outage"},
		{"userinfo_encrypted", "UserInfo is encrypted: what it says cannot be learned", "turn encryption of UserInfo off for this client at the primary"},
		{"id_token_encrypted", "the ID token is encrypted: its claims cannot be learned", "turn ID token encryption off for this client at the primary"},
		{"symmetric_signature", "ID tokens signed with HS256: the secret is the primary's", "let the primary sign with RS256 or ES256 for this client"},
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
		{"access_token_encrypted", "the access token is encrypted: it cannot be learned", "let the primary issue opaque access tokens, or signed JWTs"},
		{"client_assertion", "the client proves itself with a key or a secret that is not known here, or its assertion does not verify", "set `clients: [{id, jwks_file}]` (or jwks_uri; secret_file for client_secret_jwt)"},
		{"client_certificate", "a client certificate came that could not be used: none are taken, its authority is not known, or it is not valid or not the one that the client registered", "set `client_certificates` (and `ask_certificate` of the listener)"},
		{"client_attestation", "the client proves itself with an attestation, which is not checked here yet", "private_key_jwt, client_secret_basic or client_secret_post, for now"},
		{"authorization_scheme", "the client authentication cannot be read", "one way, once: client_secret_basic or client_secret_post"},
		{"two_credentials", "the client proves itself in two ways at once", "one way, once"},
		{"repeated_credentials", "the client proves itself more than once", "one way, once"},
		{"no_client", "the request names no client", "send the client_id"},
		{"no_client_secret", "the client proves nothing", "make it a confidential client"},
		{"ambiguous_parameters", "the primary may have understood another request than was read here", "each parameter once, in the body, as a form"},
		{"repeated_parameters", "a parameter came more than once", "each parameter once"},
		{"crit", "the tokens name extensions (crit) that would have to be understood", "let the primary leave them out"},
		{"reserved_kid", "the primary's key id begins with bk-, which is the backup's", "let the primary name its keys otherwise"},
		{"unknown_key", "the tokens are signed with a key that the primary does not publish", "mend the primary's key set"},
		{"wrong_algorithm", "the tokens are signed with an algorithm that is not their key's", "mend the primary's key set"},
		{"other_issuer", "the tokens name another issuer than the endpoint's", "mend the primary's metadata"},
		{"no_lifetime", "the tokens do not say when they end", "let the primary set exp and iat"},
		{"other_token", "the reply has a token of another kind, which could not be made again", "do without it where the client can"},
		{"no_subject", "the tokens do not say whose they are", "ask for openid"},
		{"actor_token", "the exchange has an actor token, which is not checked here yet", "exchange without it where the client can"},
		{"subject_token", "the subject token or assertion is none that can be verified here", "present a JWT of the primary's"},
		{"subject_issuer", "the subject token or assertion is signed by another authorization server or by the client itself: in an outage nobody here could verify it", "present a token of the primary's"},
		{"no_session_cookie", "no session cookie known", "set `session_cookies`"},
		{"content_encoding", "the page that posts the answer is compressed in a way that is not read", "let the primary use gzip or none"},
		{"no_refresh_token", "there is no refresh token, so nothing that could be renewed", "ask for one (offline_access), or let the browser ask again with prompt=none"},
		{"request_object", "uses request objects that cannot be read here: encrypted to the primary, or signed by keys that are not known", "sign them, and set `clients: [{id, jwks_file}]`"},
		{"request_uri", "asks with a request_uri that was not pushed here a moment ago, or at which nothing is read: it is not registered here, does not answer, or has no object that the client signed for now", "set `clients: [{id, jwks_file, request_uris}]`"},
		{"request_object_unproven", "the primary's answer does not show that it read the same request object: no state in it, another nonce, or a token whose scope nobody says", "a state and a nonce in each request object; let the primary say the scope"},
		{"response_type", "uses a response_type that is not known", "use code"},
		{"response_mode", "uses a response_mode that is not read here", "use query or form_post"},
		{"response_audience", "the JWT of the authorization response (JARM) is for somebody else", "report its shape"},
		{"nonce", "asks for an ID token in the front channel without a nonce", "send a nonce"},
		{"redirect_uri", "the redirect URI is none that can be compared", "send an absolute redirect_uri without a fragment"},
		{"authorization_details", "asks for authorization_details, which are not continued", "ask for scopes"},
		{"code_challenge_method", "uses a code_challenge_method that is not known", "use S256"},
		{"other_scopes", "asks for other scopes each time", "ask for a fixed set of scopes and resources"},
		{"other_parameters", "asks with other parameters each time", "leave out what changes, or carry it in state"},
		{"asks_person", "asks for a person each time (prompt, max_age)", "ask without them first, or with prompt=none"},
	} {
		if r.code == code {
			return r.text, r.mend
		}
	}
	return "", ""
}
