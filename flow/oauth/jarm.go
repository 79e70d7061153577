package oauth

import (
	"bytes"
	"encoding/base64"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"understudy/flow"
	"understudy/session"
)

// Claims of an authorization response in a JWT that are no parameters of it (JARM, section 2.1).
var responseClaims = []string{"iss", "aud", "exp", "iat", "nbf", "jti"}

// unwrap reads the parameters of an authorization response out of its JWT, which nobody has verified yet; nil where it is none
// that can be read.
func (r *Redirected) unwrap(ps [][2]string) (inner [][2]string) {
	if len(ps) != 1 || ps[0][0] != "response" {
		return nil
	}
	head, rest, _ := strings.Cut(ps[0][1], ".")
	body, _, _ := strings.Cut(rest, ".")
	h, err1 := segment(head)
	b, err2 := base64.RawURLEncoding.DecodeString(body)
	if len(ps[0][1]) > maxJWT || strings.Count(rest, ".") != 1 || err1 != nil || err2 != nil {
		return nil // one that is encrypted too
	}
	c, err := namedOnce(b)
	if err != nil {
		return nil
	}
	kept := session.Token{Header: h, Claims: c}
	for i, m := range kept.Claims {
		if slices.Contains(responseClaims, m.Name) {
			continue
		}
		value := string(m.Value)
		if value != "" && value[0] == '"' {
			value = kept.Claims.Text(m.Name)
		}
		inner = append(inner, [2]string{m.Name, value})
		switch m.Name {
		case "code", "id_token", "access_token", "state": // of this response alone
			kept.Claims[i].Value = []byte("null")
		}
	}
	r.Response, r.Signed = ps[0][1], &kept
	return inner
}

// namedOnce reads an object in which a name may occur twice with the same value: Keycloak writes iss as a claim and as a parameter.
func namedOnce(b []byte) (session.Object, error) {
	var out session.Object
	d := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return nil, replyError("not an object")
	}
	for d.PeekKind() == '"' && len(out) <= maxRedirectParams+len(responseClaims) {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		m := session.Member{Name: name.String()}
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		m.Value = bytes.Clone(value)
		switch was := out.Get(m.Name); {
		case was == nil:
			out = append(out, m)
		case !bytes.Equal(was, m.Value):
			return nil, replyError("a name has two values")
		}
	}
	if t, err := d.ReadToken(); err != nil || t.Kind() != '}' {
		return nil, replyError("not an object")
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, replyError("something follows the object")
	}
	return session.ParseObject(out.Append(nil))
}

// Signature is how the JWT of an authorization response is made again; received is when it came. unlearned says why it cannot be, ""
// where it can, or there is none. Whether the primary signed it is for the caller to verify.
func (r *Redirected) Signature(issuer, client string, received time.Time) (s *session.SignedResponse, unlearned string) {
	t := r.Signed
	if t == nil {
		return nil, ""
	}
	if why := unsignable(t, issuer, false, ""); why != "" && why != "no_lifetime" {
		return nil, why
	}
	if t.Claims.Text("aud") != client && !slices.Equal(t.Claims.Texts("aud"), []string{client}) {
		return nil, "response_audience"
	}
	lifetime := t.Lifetime()
	if exp, ok := t.Claims.Number("exp"); ok && lifetime <= 0 {
		lifetime = exp - received.Unix() // many say only when it ends
	}
	if lifetime <= 0 {
		return nil, "no_lifetime"
	}
	return &session.SignedResponse{Token: *t, Lifetime: lifetime}, ""
}

// signedResponse makes the JWT of an authorization response with the parameters ps.
func signedResponse(p *flow.Permit, ps [][2]string) (string, *flow.Refusal) {
	s := p.Record.SignedResponse
	if s == nil {
		return "", flow.NotNow("record_incomplete")
	}
	h, c := s.Token.Header.Clone(), s.Token.Claims.Clone()
	for i, m := range c {
		switch m.Name {
		case "iat", "nbf":
			c[i].Value = strconv.AppendInt(nil, p.Now.Unix(), 10)
		case "exp":
			c[i].Value = strconv.AppendInt(nil, p.Now.Unix()+s.Lifetime, 10)
		case "jti":
			c[i].Value = anotherID(m.Value, s.Token.Claims.Text("jti"), nil)
		}
	}
	c = slices.DeleteFunc(c, func(m session.Member) bool {
		return !slices.Contains(responseClaims, m.Name) && !slices.ContainsFunc(ps, func(x [2]string) bool { return x[0] == m.Name })
	})
	for _, x := range ps {
		if v := c.Get(x[0]); v == nil || string(v) == "null" {
			c.Set(x[0], session.Quote(x[1]))
		}
	}
	t, err := p.Sign(flow.ClassAuthorizationResponse, h, c)
	if err != nil {
		return "", flow.NotNow("keys_unavailable")
	}
	return t, nil
}
