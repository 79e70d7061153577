package gateway

import (
	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// assert verifies the client's assertion by the keys that are configured for it (RFC 7523, section 3). It is false where it
// does not verify, or no keys are.
func (t *trip) assert() bool {
	c := t.ask.Client
	if len(t.proof.Once) > 0 {
		return true // it was verified before
	}
	t.proof = flow.Proof{ID: c.ID, Method: c.Method}
	keys := t.v.tenant.ClientKeys[c.ID]
	if keys == nil {
		return false
	}
	a, err := proof.Assertions{
		Issuer: t.v.issuer.ID, Client: c.ID, Algs: t.v.issuer.assertionAlgs(), Audiences: t.v.issuer.names(), NeedsID: true,
	}.PrivateKeyJWT(c.Assertion, keys, t.g.c.Now())
	if err != nil {
		return false
	}
	t.proof.Once, t.proof.Until = a.Once.Key, a.Once.Until.UnixNano()
	t.proof.SecretID = t.g.c.Seal.Pseudonym("client-key", t.v.tenant.Name, t.v.issuer.ID, session.Joined(c.ID, a.Thumbprint))
	return true
}

// assertionAlgs are the algorithms of client assertions that the primary takes, as its metadata says (RFC 8414, section 2);
// where it says nothing, those that every primary takes.
func (is *issuer) assertionAlgs() []string {
	if algs := is.object.Texts("token_endpoint_auth_signing_alg_values_supported"); len(algs) > 0 {
		return algs
	}
	return []string{"RS256", "ES256"}
}

// names are those under which an assertion may be meant for the primary.
func (is *issuer) names() []string {
	return []string{is.ID, is.object.Text("token_endpoint")}
}
