package oauth

import (
	"encoding/base64"
	"mime"
	"net/http"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// learn reads a successful token response (RFC 6749, section 5.1; OpenID Connect Core, section 3.1.3.3).
func (x *exchange) learn(r *flow.Response, grant string) *flow.Lesson {
	o, err := TokenResponse(r.Status, r.Header, r.Body)
	if err != nil {
		return &flow.Lesson{Unlearned: "reply_not_understood"}
	}
	refreshToken := o.Text("refresh_token")
	if refreshToken == "" && x.ask.Artifact.Kind == session.RefreshToken {
		refreshToken = x.ask.Artifact.Value // the same one goes on (RFC 6749, section 6)
	}
	if refreshToken == "" {
		return nil // nothing that could be continued
	}
	l := &flow.Lesson{Artifacts: []flow.Artifact{{Kind: session.RefreshToken, Value: refreshToken, Ends: ends(o, refreshToken, r.Sent)}}}
	rec := &session.Record{
		Format: session.RecordFormat, Tenant: x.r.Tenant, Issuer: x.r.Issuer, Client: x.ask.Client.ID,
		Grant: grant, Asked: x.ask.Scope, Scope: strings.Fields(o.Text("scope")), Resource: x.ask.Resource,
		First: grant != "refresh_token",
		Facts: session.Facts{Address: x.r.Address, UserAgent: clip(x.r.HTTP.UserAgent(), 256), Origin: clip(x.r.HTTP.Header.Get("Origin"), 256)},
	}
	l.Record = rec
	l.Unlearned = x.unlearned
	if t := o.Text("token_type"); !strings.EqualFold(t, "Bearer") && l.Unlearned == "" {
		l.Unlearned = "token_type"
	}
	if rec.Scope == nil {
		rec.Scope = rec.Asked
	}
	for _, m := range o {
		switch m.Name {
		case "access_token", "refresh_token", "id_token":
			rec.Response = append(rec.Response, session.Member{Name: m.Name, Value: []byte("null")})
		default:
			rec.Response = append(rec.Response, m)
		}
	}
	at := o.Text("access_token")
	if t, err := ParseJWT(at); err == nil {
		rec.AccessToken = t
		if t.Claims.Has("cnf") && l.Unlearned == "" {
			l.Unlearned = "cnf"
		}
	} else {
		look := lookOf(at)
		rec.Opaque = &look
	}
	if id := o.Text("id_token"); id != "" {
		t, err := ParseJWT(id)
		switch {
		case err != nil && l.Unlearned == "":
			l.Unlearned = "id_token_encrypted" // five parts, or nothing we can read
		case err == nil:
			rec.IDToken = t
			rec.Subject = t.Claims.Text("sub")
			rec.SID = t.Claims.Text("sid")
		}
	}
	if rec.Subject == "" && rec.AccessToken != nil {
		rec.Subject = rec.AccessToken.Claims.Text("sub")
	}
	if rec.SID == "" && rec.AccessToken != nil {
		rec.SID = rec.AccessToken.Claims.Text("sid")
	}
	if rec.SID == "" {
		rec.SID = o.Text("session_state")
	}
	for _, t := range []*session.Token{rec.AccessToken, rec.IDToken} {
		if t == nil || l.Unlearned != "" {
			continue
		}
		switch alg := t.Header.Text("alg"); {
		case strings.HasPrefix(alg, "HS"):
			l.Unlearned = "symmetric_signature" // the secret is the primary's
		case alg == "none" || alg == "":
			l.Unlearned = "unsigned"
		case t.Header.Text("kid") == "":
			l.Unlearned = "no_kid" // two keys would be ambiguous in the merged set
		}
	}
	rec.Headers = cors(r.Header)
	if grant == "refresh_token" {
		l.Shape = shapeOf(rec)
	}
	return l
}

// replyError is why a reply is no token response.
type replyError string

func (e replyError) Error() string { return string(e) }

// TokenResponse reads a successful token response. The error says which rule it breaks and carries no value.
func TokenResponse(status int, h http.Header, body []byte) (session.Object, error) {
	if status != http.StatusOK {
		return nil, replyError("not a 200")
	}
	if t, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || t != "application/json" && !strings.HasSuffix(t, "+json") {
		return nil, replyError("not JSON by its type")
	}
	o, err := session.ParseObject(body)
	if err != nil {
		return nil, err
	}
	if o.Text("access_token") == "" {
		return nil, replyError("no access_token")
	}
	if o.Text("token_type") == "" {
		return nil, replyError("no token_type")
	}
	return o, nil
}

// ParseJWT reads a compact JWS whose payload is a JSON object (RFC 7519). It does not verify it.
func ParseJWT(s string) (*session.Token, error) {
	if len(s) > 1<<17 || strings.Count(s, ".") != 2 {
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
	if _, err := base64.RawURLEncoding.Strict().DecodeString(sig); err != nil {
		return nil, replyError("signature is not base64url")
	}
	return &session.Token{Header: h, Claims: c}, nil
}

func segment(s string) (session.Object, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, replyError("not base64url")
	}
	return session.ParseObject(b)
}

// ends is when the refresh token ends at the primary, as far as it says so: refresh_expires_in (Keycloak),
// refresh_token_expires_in (others), or exp of a refresh token that is a JWT, whichever is first. Zero: not told.
func ends(o session.Object, refreshToken string, sent time.Time) (t time.Time) {
	for _, name := range []string{"refresh_expires_in", "refresh_token_expires_in"} {
		if n, ok := o.Number(name); ok && n > 0 && n < 1<<32 {
			t = sent.Add(time.Duration(n) * time.Second)
		}
	}
	if jwt, err := ParseJWT(refreshToken); err == nil {
		if n, ok := jwt.Claims.Number("exp"); ok && n > 0 {
			if e := time.Unix(n, 0); t.IsZero() || e.Before(t) {
				t = e
			}
		}
	}
	return t
}

// lookOf is the form of an opaque token.
func lookOf(s string) session.Look {
	l := session.Look{Length: len(s), Charset: "base64url"}
	if len(s) == 36 && strings.Count(s, "-") == 4 && isHex(strings.ReplaceAll(s, "-", "")) {
		l.Charset = "uuid"
		return l
	}
	if isHex(s) && strings.ToLower(s) == s {
		l.Charset = "hex"
	}
	if i := strings.LastIndexAny(s[:min(16, len(s))], "_:"); l.Charset != "hex" && i > 0 && isLower(strings.NewReplacer("_", "", ":", "").Replace(s[:i])) {
		l.Prefix = s[:i+1]
	}
	return l
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func isLower(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") == ""
}

// cors keeps what a browser needs to be shown to read the reply.
func cors(h http.Header) map[string]string {
	var out map[string]string
	for _, n := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"} {
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
	return &session.Shape{Members: r.Response.Names(), AccessToken: tokenShape(r.AccessToken), IDToken: tokenShape(r.IDToken)}
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
