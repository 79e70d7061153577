package oauth

import (
	"encoding/base64"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// learn reads a successful token response (RFC 6749, section 5.1; OpenID Connect Core, section 3.1.3.3).
func (x *exchange) learn(r *flow.Response, grant string) *flow.Lesson {
	o, err := r.Object, error(nil)
	if o == nil {
		o, err = session.ParseObject(r.Body)
	}
	if err != nil || tokenResponse(r.Status, r.Header, o) != nil {
		return &flow.Lesson{Unlearned: "reply_not_understood"}
	}
	refreshToken := o.Text("refresh_token")
	if refreshToken == "" && x.ask.Artifact.Kind == session.RefreshToken {
		refreshToken = x.ask.Artifact.Value // the same one goes on (RFC 6749, section 6)
	}
	if refreshToken == "" && x.ask.Artifact.Kind == session.Code {
		return x.record(r, o, grant) // the browser that the code came of may ask again
	}
	if refreshToken == "" {
		return nil // nothing that could be continued
	}
	claims := payload(refreshToken)
	end, cnf := ends(o, claims, r.Sent), claims.Get("cnf")
	l := x.record(r, o, grant)
	l.Artifacts = append([]flow.Artifact{{Kind: session.RefreshToken, Value: refreshToken, Ends: end}}, answerable(l.Record, o, r.Sent)...)
	if cnf != nil && !provable(cnf, l.DPoP, x.ask.Client.Certificate) && l.Unlearned == "" {
		l.Unlearned = "cnf"
	}
	if cnf != nil || claims == nil {
		l.Record.Certificate = x.ask.Client.Certificate
	}
	return l
}

// answerable is the access token of a reply, where somebody may ask what it is: UserInfo, or, of an opaque one, introspection.
func answerable(rec *session.Record, o session.Object, sent time.Time) []flow.Artifact {
	if rec.Opaque == nil && !slices.Contains(rec.Scope, "openid") {
		return nil
	}
	lifetime := seconds(o, "expires_in")
	if t := rec.AccessToken; t != nil {
		if exp, ok := t.Claims.Number("exp"); ok {
			lifetime = exp - sent.Unix()
		}
	}
	if lifetime <= 0 {
		return nil // nobody said until when
	}
	return []flow.Artifact{{Kind: session.AccessToken, Value: o.Text("access_token"), Ends: sent.Add(time.Duration(lifetime) * time.Second)}}
}

// record reads what every token response has.
func (x *exchange) record(r *flow.Response, o session.Object, grant string) *flow.Lesson {
	l := &flow.Lesson{NotBefore: seconds(o, "not-before-policy")}
	rec := &session.Record{
		Format: session.RecordFormat, Tenant: x.r.Tenant, Issuer: x.r.Issuer, Client: x.ask.Client.ID,
		Grant: grant, Asked: x.ask.Scope, Scope: strings.Fields(o.Text("scope")), Resource: x.ask.Resource,
		First: grant != "refresh_token",
		Facts: session.Facts{Address: x.r.Address, UserAgent: clip(x.r.HTTP.UserAgent(), 256), Origin: clip(x.r.HTTP.Header.Get("Origin"), 256)},
	}
	l.Record = rec
	l.Unlearned = x.unlearned
	l.DPoP = strings.EqualFold(o.Text("token_type"), "DPoP") && x.ask.Client.DPoP
	if t := o.Text("token_type"); !strings.EqualFold(t, "Bearer") && !l.DPoP && l.Unlearned == "" {
		l.Unlearned = "token_type"
	}
	if rec.Scope == nil {
		rec.Scope = rec.Asked
	}
	rec.Response = make(session.Object, 0, len(o))
	for _, m := range o {
		switch m.Name {
		case "access_token", "refresh_token", "id_token":
			m.Value = []byte("null")
		default:
			if (strings.HasSuffix(m.Name, "_token") || strings.HasSuffix(m.Name, "_secret")) && l.Unlearned == "" {
				l.Unlearned = "other_token" // it could not be made again, and artifacts are not kept (design, law 6)
			}
		}
		rec.Response = append(rec.Response, m)
	}
	at := o.Text("access_token")
	switch t, err := ParseJWT(at); {
	case err == nil:
		rec.AccessToken = t
		rec.Subject, rec.SID = t.Claims.Text("sub"), t.Claims.Text("sid")
	case jose(at):
		if l.Unlearned == "" {
			l.Unlearned = "access_token_encrypted" // or one that cannot be read
		}
	default:
		look := lookOf(at)
		rec.Opaque = &look
	}
	if id := o.Text("id_token"); id != "" {
		t, err := ParseJWT(id)
		switch {
		case err == nil:
			rec.IDToken = t
			if sub := t.Claims.Text("sub"); sub != "" {
				rec.Subject = sub
			}
			if sid := t.Claims.Text("sid"); sid != "" {
				rec.SID = sid
			}
		case l.Unlearned == "":
			l.Unlearned = "id_token_encrypted" // five parts, or nothing we can read
		}
	}
	if rec.SID == "" {
		rec.SID = o.Text("session_state")
	}
	for _, t := range []*session.Token{rec.AccessToken, rec.IDToken} {
		if t != nil && l.Unlearned == "" {
			l.Unlearned = unsignable(t, rec.Issuer, l.DPoP, x.ask.Client.Certificate)
		}
	}
	if t := rec.AccessToken; t == nil || t.Claims.Has("cnf") {
		rec.Certificate = x.ask.Client.Certificate // of an opaque token it does not show
	}
	rec.Headers = replyHeaders(r.Header)
	if grant == "refresh_token" {
		l.Shape = shapeOf(rec)
	}
	return l
}

// unsignable says why the backup could not sign another token like t, or "". What it could not sign it does not learn,
// so that nobody counts on it.
func unsignable(t *session.Token, issuer string, dpop bool, certificate string) string {
	alg, kid := t.Header.Text("alg"), t.Header.Text("kid")
	switch {
	case t.Claims.Has("cnf") && !provable(t.Claims.Get("cnf"), dpop, certificate):
		return "cnf" // a proof of possession (RFC 7800) that could not be checked again
	case strings.HasPrefix(alg, "HS"):
		return "symmetric_signature" // the secret is the primary's
	case alg == "none" || alg == "":
		return "unsigned"
	case kid == "":
		return "no_kid" // two keys would be ambiguous in the merged set
	case strings.HasPrefix(kid, keyPrefix):
		return "reserved_kid" // another backup's, or our own come back
	case t.Header.Has("crit"):
		return "crit" // RFC 7515, section 4.1.11: it would have to be understood
	case t.Claims.Text("iss") != issuer:
		return "other_issuer" // a backup key signs for its issuer alone
	case t.Lifetime() <= 0:
		return "no_lifetime"
	}
	return ""
}

// provable says whether everything to which a token is bound (RFC 7800) is shown and can be demanded again: a DPoP key (RFC 9449,
// section 6.1), whose thumbprint the gateway compares, and the client certificate (RFC 8705, section 3.1).
func provable(cnf []byte, dpop bool, certificate string) bool {
	o, err := session.ParseObject(cnf)
	for _, m := range o {
		switch {
		case m.Name == "jkt" && dpop && o.Text("jkt") != "":
		case m.Name == "kc-jkt-type" && o.Has("jkt"): // Keycloak's: what its jkt is of
		case m.Name == "x5t#S256" && certificate != "" && o.Text("x5t#S256") == certificate:
		default:
			return false
		}
	}
	return err == nil && len(o) > 0
}

// keyPrefix begins the kid of every backup key.
const keyPrefix = "bk-"

// Issued says by its form, in every mode and until it ends, whether a token is the backup's own: a JWT whose kid is a
// backup key's, or an opaque one with the deployment's tag. It verifies nothing.
func Issued(token string, tag func(string) []byte) bool {
	if len(token) > maxJWT {
		return false
	}
	if strings.Count(token, ".") == 2 {
		head, _, _ := strings.Cut(token, ".")
		h, err := segment(head)
		return err == nil && strings.HasPrefix(h.Text("kid"), keyPrefix)
	}
	return Ours(token, tag)
}

// maxJWT bounds a token that is read.
const maxJWT = 1 << 17

// jose says whether a token that is no readable JWT is one of JOSE's all the same: its first part is a header. Another of
// the same look would deceive nobody.
func jose(s string) bool {
	n := strings.Count(s, ".")
	head, _, _ := strings.Cut(s, ".")
	if n != 2 && n != 4 || len(head) > maxJWT {
		return false
	}
	h, err := segment(head)
	return err == nil && h.Has("alg")
}

// replyError is why a reply is no token response.
type replyError string

func (e replyError) Error() string { return string(e) }

// TokenResponse reads a successful token response. The error says which rule it breaks and carries no value.
func TokenResponse(status int, h http.Header, body []byte) (session.Object, error) {
	o, err := session.ParseObject(body)
	if err != nil {
		return nil, err
	}
	return o, tokenResponse(status, h, o)
}

func tokenResponse(status int, h http.Header, o session.Object) error {
	if status != http.StatusOK {
		return replyError("not a 200")
	}
	if t, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || t != "application/json" && !strings.HasSuffix(t, "+json") {
		return replyError("not JSON by its type")
	}
	if !o.Filled("access_token") {
		return replyError("no access_token")
	}
	if !o.Filled("token_type") {
		return replyError("no token_type")
	}
	return nil
}

// ParseJWT reads a compact JWS whose payload is a JSON object (RFC 7519). It does not verify it.
func ParseJWT(s string) (*session.Token, error) {
	if len(s) > maxJWT || strings.Count(s, ".") != 2 {
		return nil, replyError("not a compact JWS")
	}
	head, rest, _ := strings.Cut(s, ".")
	body, sig, _ := strings.Cut(rest, ".")
	h, err := segment(head)
	if err != nil {
		return nil, err
	}
	c, err := segment(body)
	if err != nil {
		return nil, err
	}
	if strings.Trim(sig, base64URL) != "" || len(sig)%4 == 1 {
		return nil, replyError("signature is not base64url")
	}
	return &session.Token{Header: h, Claims: c}, nil
}

const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// payload is what a token says that may be a JWT, or nil.
func payload(token string) session.Object {
	if len(token) > maxJWT || strings.Count(token, ".") != 2 {
		return nil
	}
	_, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	o, err := segment(body)
	if err != nil {
		return nil
	}
	return o
}

// header reads the header of a JWT, verifying nothing; nil where it is none.
func header(token string) session.Object {
	if len(token) > maxJWT || strings.Count(token, ".") != 2 {
		return nil
	}
	head, _, _ := strings.Cut(token, ".")
	o, err := segment(head)
	if err != nil {
		return nil
	}
	return o
}

func segment(s string) (session.Object, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, replyError("not base64url")
	}
	return session.ParseObject(b)
}

// Reused says whether the words beside an error, Keycloak's, say that a refresh token was refused because another has taken its
// place.
func Reused(description string) bool {
	return description == "Maximum allowed refresh token reuse exceeded"
}

// Over is what the words beside an error say is over: Keycloak's about a refresh token whose user or session is not what
// it was. 0: no more than the error says.
func Over(description string) session.What {
	switch description {
	case "User disabled", "User not found", "Account disabled":
		return session.OfSubject
	case "Session not active", "User logged out":
		return session.OfSession
	}
	return 0
}

// ends is when the refresh token ends at the primary, as far as it says so: refresh_expires_in (Keycloak),
// refresh_token_expires_in (others), or exp of a refresh token that is a JWT with these claims, whichever is first. Zero: not
// told.
func ends(o, claims session.Object, sent time.Time) (t time.Time) {
	for _, name := range []string{"refresh_expires_in", "refresh_token_expires_in"} {
		if n := seconds(o, name); n > 0 {
			if e := sent.Add(time.Duration(n) * time.Second); t.IsZero() || e.Before(t) {
				t = e
			}
		}
	}
	if n := seconds(claims, "exp"); n > 0 {
		if e := time.Unix(n, 0); t.IsZero() || e.Before(t) {
			t = e
		}
	}
	return t
}

// seconds reads a number of seconds, whole or not (RFC 7519, section 2), rounded down; 0 where there is none that a clock
// could hold.
func seconds(o session.Object, name string) int64 {
	n, ok := o.Number(name)
	if !ok {
		f, err := strconv.ParseFloat(strings.Trim(string(o.Get(name)), `"`), 64)
		if err != nil || !(f > 0 && f < 1<<33) {
			return 0
		}
		n = int64(f)
	}
	if n < 0 || n >= 1<<33 {
		return 0
	}
	return n
}

// maxLook bounds the length of an opaque token that is made.
const maxLook = 4096

// lookOf is the form of an opaque token.
func lookOf(s string) session.Look {
	l := session.Look{Length: min(len(s), maxLook), Charset: "base64url"}
	if isUUID(s) {
		l.Charset = "uuid"
		return l
	}
	if isHex(s) && strings.ToLower(s) == s {
		l.Charset = "hex"
	}
	if l.Charset == "base64url" {
		l.Prefix = prefix(s[:min(16, len(s))])
	}
	return l
}

func isUUID(s string) bool {
	return len(s) == uuidLength && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && isHex(strings.ReplaceAll(s, "-", ""))
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// prefix is the longest beginning of s that is words of small letters, each with '_' or ':' behind it.
func prefix(s string) string {
	end, word := 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
			word++
		case (c == '_' || c == ':') && word > 0:
			end, word = i+1, 0
		default:
			return s[:end]
		}
	}
	return s[:end]
}

// replyHeaders keeps what a browser needs to be shown to read the reply, and its Content-Type, which is JSON's.
func replyHeaders(h http.Header) map[string]string {
	var out map[string]string
	for _, n := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers", "Content-Type"} {
		if v := h.Get(n); v != "" && len(v) <= 512 {
			if out == nil {
				out = map[string]string{}
			}
			out[n] = v
		}
	}
	return out
}

func shapeOf(r *session.Record) *session.Shape {
	s := &session.Shape{
		Members: r.Response.Names(), AccessToken: tokenShape(r.AccessToken), IDToken: tokenShape(r.IDToken), Lifetimes: map[string]int64{},
	}
	for _, name := range lifetimeMembers() {
		if n, ok := r.Response.Number(name); ok && n > 0 {
			s.Lifetimes[name] = n
		}
	}
	for name, t := range map[string]*session.Token{"access_token": r.AccessToken, "id_token": r.IDToken} {
		if t != nil && t.Lifetime() > 0 {
			s.Lifetimes[name] = t.Lifetime()
		}
	}
	return s
}

// lifetimeMembers are members of a token response that are lifetimes in seconds.
func lifetimeMembers() []string {
	return []string{"expires_in", "ext_expires_in", "refresh_expires_in", "refresh_token_expires_in"}
}

func tokenShape(t *session.Token) *session.TokenShape {
	if t == nil {
		return nil
	}
	return &session.TokenShape{Header: t.Header.Names(), Claims: t.Claims.Names(), JTI: jtiPrefix(t.Claims.Text("jti"))}
}

func jtiPrefix(jti string) string {
	return jti[:strings.LastIndexByte(jti, ':')+1]
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
