package gateway

import (
	"context"

	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// assert verifies the client's assertion by the keys, or the secret, that are configured for it (RFC 7523, section 3). It is
// false where it does not verify, or nothing is configured, but for one with which the primary has just taken the client.
func (t *trip) assert(ctx context.Context) bool {
	if len(t.proof.Once) > 0 {
		t.proof.Vouched = t.vouched
		return true // it was verified before
	}
	return t.verifies(ctx) || t.vouched
}

func (t *trip) verifies(ctx context.Context) bool {
	c := t.ask.Client
	t.proof = flow.Proof{ID: c.ID, Method: c.Method, Vouched: t.vouched}
	want := proof.Assertions{
		Issuer: t.v.issuer.ID, Client: c.ID, Algs: t.v.issuer.assertionAlgs(), Audiences: t.v.issuer.names(), NeedsID: true,
	}
	var a *proof.Assertion
	var err error
	by := ""
	if c.Method == "client_secret_jwt" {
		secret := t.v.tenant.ClientSecrets[c.ID]
		if secret == nil {
			return false
		}
		if a, err = want.ClientSecretJWT(c.Assertion, secret, t.g.c.Now()); err != nil {
			return false
		}
		key, ok := t.g.secrets.key(ctx, t.v.tenant.Name, t.v.issuer.ID, c.ID, string(secret), t.v.address)
		if !ok {
			return false
		}
		id := t.g.c.Seal.SecretID(key)
		by = session.Joined("secret", string(id[:]))
	} else {
		a, err = want.PrivateKeyJWT(c.Assertion, t.v.tenant.keysOf(c.ID), t.g.c.Now())
		if proof.CodeOf(err) == proof.AssertionKeyUnknown && t.v.tenant.fetchKeys(ctx, c.ID) {
			a, err = want.PrivateKeyJWT(c.Assertion, t.v.tenant.keysOf(c.ID), t.g.c.Now())
		}
		if err != nil {
			return false
		}
		by = a.Thumbprint
	}
	t.proof.Once, t.proof.Until = a.Once.Key, a.Once.Until.UnixNano()
	t.proof.SecretID = t.g.c.Seal.Pseudonym("client-key", t.v.tenant.Name, t.v.issuer.ID, session.Joined(c.ID, by))
	return true
}

// assertionAlgs are the algorithms of client assertions that the primary takes, as its metadata says (RFC 8414, section 2);
// where it says nothing, those that every primary takes.
func (is *issuer) assertionAlgs() []string {
	if algs := is.object.Texts("token_endpoint_auth_signing_alg_values_supported"); len(algs) > 0 {
		return algs
	}
	return []string{"RS256", "ES256", "HS256"}
}

// names are those under which an assertion may be meant for the primary.
func (is *issuer) names() []string {
	return []string{is.ID, is.object.Text("token_endpoint")}
}
