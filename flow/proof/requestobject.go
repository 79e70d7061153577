package proof

import (
	"slices"
	"time"
)

// RequestObjects says what is demanded of one client's signed request objects (RFC 9101; OpenID Connect Core, section 6).
// Fetching a request_uri is the caller's.
type RequestObjects struct {
	Issuer    string   // scopes the jti
	Client    string   // client_id of the request that carries it
	Algs      []string // learned or registered for the client; where empty, every request object is refused
	Audiences []string // aud must name one of them: the issuer, and what else the primary takes
	// Endless takes objects without exp, where the primary was seen to. They can be replayed for ever.
	Endless  bool
	Lifetime time.Duration // most that it may be valid from now; 0: an hour; at most a day
	Leeway   time.Duration // for iat and nbf; 0: a minute; at most five
}

// RequestObject is a request object that was verified. Its parameters are the whole request: those beside it are not to be
// used (RFC 9101, section 5), but for client_id, which must be the same.
type RequestObject struct {
	Alg, KeyID string
	Expires    time.Time // zero: never
	Parameters []Parameter
	Once       Once // for callers that demand it; empty where it has no jti or does not end
}

// Parameter is a parameter of an authorization request. An array of strings is several parameters (RFC 8707, resource),
// any other value that is no string is its JSON text.
type Parameter struct{ Name, Value string }

const (
	requestObject    = "request_object"
	maxRequestObject = 32 << 10
)

// Verify verifies a request object by the client's registered keys. Errors wrap a RequestObject code;
// [RequestObjectEncrypted] where only the primary can read it.
func (r RequestObjects) Verify(object string, keys *ClientKeys, now time.Time) (*RequestObject, error) {
	j, err := kind{
		name: requestObject, maxBytes: maxRequestObject, types: []string{"", "jwt", "oauth-authz-req+jwt"}, keyMember: "jwk",
	}.read(object)
	if err != nil {
		return nil, err
	}
	if err := j.allow(r.Algs, asymmetric()); err != nil {
		return nil, err
	}
	if _, err := j.signedByOne(keys); err != nil {
		return nil, err
	}
	switch {
	case r.Client == "" || j.claims.Text("iss") != r.Client:
		return nil, RequestObjectClient.because("iss is not the client_id")
	case j.claims.Has("client_id") && j.claims.Text("client_id") != r.Client:
		return nil, RequestObjectClient.because("its client_id is another")
	case j.claims.Text("sub") == r.Client: // RFC 9101, section 10.8
		return nil, RequestObjectType.because("its sub is the client: it was made as a client assertion")
	case j.claims.Has("request") || j.claims.Has("request_uri"): // RFC 9101, section 4
		return nil, RequestObjectNested.because("it has another request inside")
	}
	audience, err := j.audience()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(audience, func(name string) bool { return name != "" && slices.Contains(r.Audiences, name) }) {
		return nil, RequestObjectAudience.because("it is meant for somebody else")
	}
	exp, _, err := j.times(now, leeway(r.Leeway))
	if err != nil {
		return nil, err
	}
	most := bounded(r.Lifetime, time.Hour, 24*time.Hour)
	if exp.IsZero() && !r.Endless || exp.Sub(now) > most+leeway(r.Leeway) {
		return nil, RequestObjectLifetime.because("it has no exp, or one that is too far away")
	}
	id, err := j.jti(false)
	if err != nil {
		return nil, err
	}
	out := &RequestObject{Alg: j.alg, KeyID: j.header.Text("kid"), Expires: exp}
	if out.Parameters, err = j.parameters(); err != nil {
		return nil, err
	}
	if id != "" && !exp.IsZero() {
		out.Once = once(exp.Add(leeway(r.Leeway)), "request-object", r.Issuer, r.Client, id)
	}
	return out, nil
}

// parameters are the claims in their order, but for those that are the JWT's own.
func (j *jws) parameters() ([]Parameter, error) {
	var out []Parameter
	for _, m := range j.claims {
		list := texts(m.Value)
		switch kind := m.Value.Kind(); {
		case slices.Contains([]string{"iss", "aud", "exp", "nbf", "iat", "jti"}, m.Name):
		case kind == 'n':
			return nil, RequestObjectMalformed.because("a parameter is null")
		case kind == '"':
			out = append(out, Parameter{m.Name, j.claims.Text(m.Name)})
		case len(list) > 0:
			for _, v := range list {
				out = append(out, Parameter{m.Name, v})
			}
		default:
			out = append(out, Parameter{m.Name, string(m.Value)})
		}
	}
	return out, nil
}
