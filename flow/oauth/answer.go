package oauth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// covers says whether a request for scope and resources is one that the primary approved before. A wider scope is
// refused in the RFC's words only where the whole granted scope is known (RFC 6749, section 6); an answer to a request that
// asked for less does not tell it.
func covers(r *session.Record, scope, resource []string) *flow.Refusal {
	if len(scope) > 0 && !sameSet(scope, r.Asked) && !sameSet(scope, r.Scope) {
		whole := len(r.Scope) > 0 && (r.First || len(r.Asked) == 0)
		for _, s := range scope {
			if whole && !slices.Contains(r.Scope, s) && !slices.Contains(r.Asked, s) {
				return flow.No("scope_wider", http.StatusBadRequest, "invalid_scope")
			}
		}
		return flow.NotNow("scope_unlearned")
	}
	// A first exchange names resources for which later ones need not ask again (RFC 8707, section 2.2).
	if !sameSet(resource, r.Resource) && !(r.First && len(resource) == 0) {
		return flow.NotNow("resource_unlearned")
	}
	return nil
}

func sameSet(a, b []string) bool {
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	for _, s := range b {
		if !slices.Contains(a, s) {
			return false
		}
	}
	return true
}

// answer makes a token response from a record: the members of the primary's refresh reply in its order, the same
// claims, fresh times.
func answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	rec := p.Record
	shape := (*session.Shape)(nil)
	if rec.First && p.Habit != nil {
		shape = p.Habit.Refresh
	}
	var seen *session.Shape // of refresh replies, whatever this record was learned from
	if p.Habit != nil {
		seen = p.Habit.Refresh
	}
	lifetime, known := rec.Response.Number("expires_in")
	if known {
		lifetime = seen.Steady("expires_in", lifetime)
	} else if lifetime = 0; rec.AccessToken != nil {
		lifetime = seen.Steady("access_token", rec.AccessToken.Lifetime())
	}
	reply := &flow.Reply{Status: http.StatusOK, Header: http.Header{
		"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"},
	}}
	if t := rec.Headers["Content-Type"]; t != "" {
		reply.Header.Set("Content-Type", t)
	}
	var accessToken string
	var made *session.Token // of a JWT
	if rec.AccessToken != nil {
		h, c := fresh(rec.AccessToken, part(shape, false), p.Now, rec.First, seen.Steady("access_token", rec.AccessToken.Lifetime()))
		t, err := p.Sign(flow.ClassAccessToken, h, c)
		if err != nil {
			return nil, flow.NotNow("keys_unavailable")
		}
		accessToken, made = t, &session.Token{Header: h, Claims: c}
	} else if rec.Opaque != nil {
		accessToken = p.Opaque(*rec.Opaque)
	}
	if accessToken == "" {
		return nil, flow.NotNow("record_incomplete")
	}
	if lifetime > 0 && !shows(p, made) {
		reply.Issued = append(reply.Issued, flow.Issued{Kind: session.AccessToken, Value: accessToken, Ends: p.Now.Add(time.Duration(lifetime) * time.Second), Bound: boundTo(p)})
	}
	out := make(session.Object, 0, len(rec.Response))
	for _, m := range ordered(rec.Response, members(shape)) {
		if shape != nil && !slices.Contains(shape.Members, m.Name) && m.Name != "id_token" {
			continue // a refresh reply lacks it
		}
		if shape == nil && rec.First && m.Name == "issued_token_type" {
			continue // RFC 8693, section 2.2.1: of an exchange alone
		}
		switch m.Name {
		case "access_token":
			m.Value = inQuotes(accessToken)
		case "refresh_token":
			m.Value = session.Quote(p.Fill)
			reply.Fill = p.Fill
		case "id_token":
			if rec.IDToken == nil || shape != nil && shape.IDToken == nil {
				continue
			}
			h, c := fresh(rec.IDToken, part(shape, true), p.Now, rec.First, seen.Steady("id_token", rec.IDToken.Lifetime()))
			if c.Has("at_hash") {
				c.Set("at_hash", session.Quote(atHash(h.Text("alg"), accessToken)))
			}
			t, err := p.Sign(flow.ClassIDToken, h, c)
			if err != nil {
				return nil, flow.NotNow("keys_unavailable")
			}
			m.Value = inQuotes(t)
		case "expires_in", "ext_expires_in", "refresh_expires_in", "refresh_token_expires_in":
			if n, ok := rec.Response.Number(m.Name); ok && m.Value[0] != '"' {
				m.Value = strconv.AppendInt(nil, seen.Steady(m.Name, n), 10)
			}
		case "expires_on", "expires_at", "iat", "not_before":
			m.Value = shift(m.Value, p.Now, m.Name, lifetime)
		}
		out = append(out, m)
	}
	reply.Body = out.Append(make([]byte, 0, 512+len(accessToken)*5/2))
	return reply, nil
}

// shows says whether whoever asks about an access token is answered by what it says of itself, as of the primary's: one that a client
// asked for by itself, in which there is no person's UserInfo to ask for.
func shows(p *flow.Permit, t *session.Token) bool {
	kind := p.Play.Artifact.Kind
	return t != nil && (kind == session.ClientSecret || kind == session.ClientKey) && !slices.Contains(p.Record.Scope, "openid") &&
		SaysWhose(t, p.Record.Issuer) && (t.Claims.Has("cnf") || boundTo(p) == nil)
}

// boundTo keeps of an access token to which key and certificate it is bound.
func boundTo(p *flow.Permit) map[string]string {
	bound := map[string]string{}
	if p.Play.Client.JKT != "" && p.Record.JKT != "" {
		bound["jkt"] = p.Play.Client.JKT
	}
	if p.Play.Client.Certificate != "" && p.Record.Certificate != "" {
		bound["x5t#S256"] = p.Play.Client.Certificate
	}
	if len(bound) == 0 {
		return nil
	}
	return bound
}

// inQuotes is JSON text of a token that was made here, in which nothing needs an escape.
func inQuotes(token string) []byte {
	b := make([]byte, 0, len(token)+2)
	return append(append(append(b, '"'), token...), '"')
}

func members(s *session.Shape) []string {
	if s == nil {
		return nil
	}
	return s.Members
}

func part(s *session.Shape, id bool) *session.TokenShape {
	switch {
	case s == nil:
		return nil
	case id:
		return s.IDToken
	}
	return s.AccessToken
}

// shift moves a point in time of the response to now.
func shift(v []byte, now time.Time, name string, lifetime int64) []byte {
	n := now.Unix()
	if name == "expires_on" || name == "expires_at" {
		n += lifetime
	}
	if len(v) > 0 && v[0] == '"' {
		return session.Quote(strconv.FormatInt(n, 10))
	}
	return strconv.AppendInt(nil, n, 10)
}

// Claims that belong to one exchange: a refresh reply may lack them, and where one was seen that does, ours does.
var exchangeClaims = []string{"nonce", "c_hash", "s_hash", "at_hash"}

// fresh returns header and claims of a token as a refresh now would carry them: nothing that was not learned, fresh
// times with the learned distances, exp − iat as given, a new jti of the same look.
func fresh(t *session.Token, shape *session.TokenShape, now time.Time, first bool, lifetime int64) (header, claims session.Object) {
	header = t.Header.Clone()
	claims = t.Claims.Clone()
	if shape != nil {
		header = ordered(header, shape.Header)
		claims = slices.DeleteFunc(ordered(claims, shape.Claims), func(m session.Member) bool {
			return slices.Contains(exchangeClaims, m.Name) && !slices.Contains(shape.Claims, m.Name)
		})
	} else if first {
		// OpenID Connect Core, section 12.2: a refreshed ID token should have no nonce; c_hash and s_hash belong to a code
		// and a state that are not there.
		claims = claims.Without("nonce", "c_hash", "s_hash")
	}
	iat, hasIat := claims.Number("iat")
	for i, m := range claims {
		switch m.Name {
		case "iat":
			claims[i].Value = strconv.AppendInt(nil, now.Unix(), 10)
		case "exp", "nbf":
			if n, ok := claims.Number(m.Name); ok && hasIat {
				n -= iat
				if m.Name == "exp" {
					n = lifetime
				}
				claims[i].Value = strconv.AppendInt(nil, n+now.Unix(), 10)
			}
		case "jti":
			claims[i].Value = anotherID(m.Value, t.Claims.Text("jti"), shape)
		}
	}
	return header, claims
}

// anotherID returns a random jti of the same look: with the constant beginning that refreshes have, and a number where it
// is one.
func anotherID(v []byte, text string, shape *session.TokenShape) []byte {
	if text == "" {
		digits := bytes.Map(func(c rune) rune {
			if c >= '0' && c <= '9' {
				return c
			}
			return -1
		}, v)
		if len(digits) == 0 || len(digits) != len(v) {
			return v // null, an array: nothing to vary
		}
		rand.Read(digits)
		for i, c := range digits {
			digits[i] = '1' + c%9
		}
		return digits
	}
	own := jtiPrefix(text)
	prefix := own
	if shape != nil && shape.JTI != "" {
		prefix = shape.JTI
	}
	return session.Quote(prefix + Opaque(lookOf(text[len(own):]), nil))
}

const (
	minRandom  = 22 // characters of an opaque token that stay random beside the tag: 128 bits in base64url
	tagBase64  = 10 // characters of the tag: 60 bits
	tagHex     = 12 // 48 bits
	uuidLength = 36
)

// Opaque makes a random text of a look. Where tag is given its end is a keyed tag of its beginning, by which the
// deployment recognises its own; a look that is too short for that becomes longer.
func Opaque(l session.Look, tag func(string) []byte) string {
	n := max(l.Length-len(l.Prefix), 8)
	switch l.Charset {
	case "uuid":
		var b [16]byte
		rand.Read(b[:])
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
		s := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
		if tag != nil {
			head := s[:uuidLength-tagHex]
			s = head + hex.EncodeToString(tag(head))[:tagHex]
		}
		return s
	case "hex":
		if tag != nil {
			n = max(n, 32+tagHex)
		}
		b := make([]byte, (n+1)/2)
		rand.Read(b)
		return tagged(l.Prefix+hex.EncodeToString(b)[:n], tag, tagHex, hex.EncodeToString)
	}
	if tag != nil {
		n = max(n, minRandom+tagBase64)
	}
	b := make([]byte, (n*3+3)/4)
	rand.Read(b)
	return tagged(l.Prefix+base64.RawURLEncoding.EncodeToString(b)[:n], tag, tagBase64, base64.RawURLEncoding.EncodeToString)
}

func tagged(s string, tag func(string) []byte, size int, enc func([]byte) string) string {
	if tag == nil {
		return s
	}
	head := s[:len(s)-size]
	return head + enc(tag(head))[:size]
}

// Ours says whether an opaque token is one that Opaque made with this tag.
func Ours(s string, tag func(string) []byte) bool {
	size, enc, least := tagBase64, base64.RawURLEncoding.EncodeToString, minRandom+tagBase64
	if isHex(s) || isUUID(s) {
		size, enc, least = tagHex, hex.EncodeToString, uuidLength
	}
	if len(s) < least || len(s) > maxLook {
		return false
	}
	head := s[:len(s)-size]
	return subtle.ConstantTimeCompare([]byte(enc(tag(head))[:size]), []byte(s[len(s)-size:])) == 1
}

// ordered returns o with the members that names lists first, in that order, and the rest behind them as they were.
func ordered(o session.Object, names []string) session.Object {
	if names == nil {
		return o
	}
	out := make(session.Object, 0, len(o))
	for _, n := range names {
		if v := o.Get(n); v != nil {
			out = append(out, session.Member{Name: n, Value: v})
		}
	}
	for _, m := range o {
		if !slices.Contains(names, m.Name) {
			out = append(out, m)
		}
	}
	return out
}

// atHash is OpenID Connect Core, section 3.1.3.6: the left half of the hash that the ID token's alg uses.
func atHash(alg, accessToken string) string {
	var sum []byte
	switch {
	case strings.HasSuffix(alg, "384"):
		s := sha512.Sum384([]byte(accessToken))
		sum = s[:]
	case strings.HasSuffix(alg, "512") || alg == "EdDSA" || alg == "Ed25519":
		s := sha512.Sum512([]byte(accessToken))
		sum = s[:]
	default:
		s := sha256.Sum256([]byte(accessToken))
		sum = s[:]
	}
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}
