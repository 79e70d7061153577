package proof

import (
	"slices"
	"time"

	"understudy/session"
)

// Assertions says what is demanded of one client's assertions (RFC 7521, section 5.2; RFC 7523, section 3; OpenID Connect
// Core, section 9). Which method the client uses is not read from the assertion: the caller calls the one that was learned.
type Assertions struct {
	Issuer string   // scopes the jti
	Client string   // client_id; iss and sub must both be it
	Algs   []string // learned or registered for the client; where empty, every assertion is refused
	// Audiences are the names of this authorization server: issuer, token endpoint, … An assertion for anybody beside
	// them is refused, because whoever else it names could present it here.
	Audiences []string
	Lifetime  time.Duration // most that it may be valid; 0: an hour, which is also the most
	Leeway    time.Duration // for iat and nbf; 0: a minute; at most five. exp has none
	NeedsID   bool          // jti is demanded (OpenID Connect Core, section 9)
}

// Assertion is a client assertion that was verified.
type Assertion struct {
	Alg        string
	Thumbprint string // of the registered key that signed it (RFC 7638, SHA-256); "": a secret did
	Expires    time.Time
	// Once is to be claimed. Without a jti it stands for the assertion as a whole.
	Once   Once
	Claims session.Object
}

const maxAssertion = 16 << 10

// PrivateKeyJWT verifies an assertion by the client's registered keys. Errors wrap an Assertion code.
func (a Assertions) PrivateKeyJWT(assertion string, keys *ClientKeys, now time.Time) (*Assertion, error) {
	var thumbprint string
	out, err := a.verify(assertion, asymmetric(), now, func(j *jws) (err error) {
		thumbprint, err = j.signedByOne(keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Thumbprint = thumbprint
	return out, nil
}

// ClientSecretJWT verifies an assertion by the client's secret, which must be as long as the hash of the algorithm
// (RFC 7518, section 3.2). Errors wrap an Assertion code.
func (a Assertions) ClientSecretJWT(assertion string, secret Secret, now time.Time) (*Assertion, error) {
	return a.verify(assertion, symmetric(), now, func(j *jws) error {
		if !j.signedBy(secret) {
			return AssertionSignature.because("the client's secret did not make its signature, or is shorter than the hash")
		}
		return nil
	})
}

func (a Assertions) verify(assertion string, family []string, now time.Time, signed func(*jws) error) (*Assertion, error) {
	j, err := kind{
		// draft-ietf-oauth-rfc7523bis names a type of its own; most clients write JWT or none.
		name: "assertion", maxBytes: maxAssertion, types: []string{"", "jwt", "client-authentication+jwt"}, keyMember: "jwk",
	}.read(assertion)
	if err != nil {
		return nil, err
	}
	if err := j.allow(a.Algs, family); err != nil {
		return nil, err
	}
	if err := signed(j); err != nil {
		return nil, err
	}
	if a.Client == "" || j.claims.Text("iss") != a.Client || j.claims.Text("sub") != a.Client {
		return nil, AssertionClient.because("iss and sub are not both the client_id")
	}
	audience, err := j.audience()
	if err != nil {
		return nil, err
	}
	for _, name := range audience {
		if name == "" || !slices.Contains(a.Audiences, name) {
			return nil, AssertionAudience.because("it is meant for somebody else too, or only")
		}
	}
	exp, iat, err := j.times(now, leeway(a.Leeway))
	if err != nil {
		return nil, err
	}
	most := bounded(a.Lifetime, time.Hour, time.Hour)
	if exp.IsZero() || exp.Sub(now) > most+leeway(a.Leeway) || !iat.IsZero() && exp.Sub(iat) > most {
		return nil, AssertionLifetime.because("it has no exp, or one that is too far away")
	}
	id, err := j.jti(a.NeedsID)
	if err != nil {
		return nil, err
	}
	out := &Assertion{Alg: j.alg, Expires: exp, Claims: j.claims}
	if until := exp.Add(leeway(a.Leeway)); id != "" {
		out.Once = once(until, "assertion", a.Issuer, a.Client, id)
	} else {
		out.Once = once(until, "assertion-as-a-whole", a.Issuer, a.Client, j.signed())
	}
	return out, nil
}
