// Package oidc holds the flows of OpenID Connect that are not grants of the token endpoint, one file each.
//
// It may not import backup, gateway or store, and no other package of flows.
package oidc

import (
	"cmp"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// UserInfo answers the UserInfo endpoint (OpenID Connect Core, section 5.3): for access tokens that the backup issued, which the
// primary cannot know, and in an outage for the primary's. It says what the primary said there for the same sign-in; where nobody
// asked it, what was in the tokens that the primary signed.
type UserInfo struct{}

// Name implements flow.Flow.
func (UserInfo) Name() string { return "userinfo" }

// Endpoint implements flow.Flow.
func (UserInfo) Endpoint() flow.Endpoint { return flow.UserInfo }

// Match implements flow.Flow. A request presents exactly one bearer token, in the Authorization header or, by POST, in a
// form (RFC 6750, sections 2.1 and 2.2); in the query it would be in everybody's logs and is not taken.
func (UserInfo) Match(r *flow.Request) flow.Exchange {
	token, dpop, ok := bearer(r)
	if !ok {
		return nil
	}
	return &userInfo{r, flow.Ask{Client: flow.Credentials{DPoP: dpop}, Artifact: flow.Artifact{Kind: session.AccessToken, Value: token}}}
}

type userInfo struct {
	r   *flow.Request
	ask flow.Ask
}

// Ask implements flow.Exchange. Nobody authenticates: whoever bears the token may ask.
func (x *userInfo) Ask() *flow.Ask { return &x.ask }

// maxUserInfo bounds what is remembered of a UserInfo response, in bytes.
const maxUserInfo = 16 << 10

// Learn implements flow.Exchange. The record has no sign-in's members: whose it is only the access token shows.
func (x *userInfo) Learn(r *flow.Response) *flow.Lesson {
	l := &flow.Lesson{
		Record: &session.Record{Format: session.RecordFormat, Tenant: x.r.Tenant, Issuer: x.r.Issuer, Headers: map[string]string{}},
		Shape:  &session.Shape{Members: []string{plainUserInfo}},
	}
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Status != http.StatusOK || len(r.Body) > maxUserInfo:
		return nil
	case t == "application/jwt":
		l.Shape.Members = []string{signedUserInfo}
		if r.Token == nil {
			l.Unlearned = "userinfo_encrypted" // or one that cannot be read
			return l
		}
		l.Record.UserInfo, l.Unlearned = r.Token, unsignable(r.Token)
	case r.Object == nil || r.Token != nil:
		return nil
	default:
		l.Record.UserInfo = &session.Token{Claims: r.Object}
		l.Record.Headers["Content-Type"] = r.Header.Get("Content-Type")
	}
	return l
}

// The forms in which a client is told.
const plainUserInfo, signedUserInfo = "json", "jwt"

// UserInfoHabit names in which form the primary tells a client.
func UserInfoHabit(client string) string { return session.Joined("userinfo", client) }

// unsignable says why the backup could not sign another UserInfo response like t, or "".
func unsignable(t *session.Token) string {
	switch alg := t.Header.Text("alg"); {
	case strings.HasPrefix(alg, "HS"):
		return "symmetric_signature" // the secret is the primary's
	case alg == "none" || alg == "":
		return "unsigned"
	case t.Header.Has("crit"):
		return "crit"
	}
	return ""
}

// maxToken bounds an access token; longer ones do not fit into a header anyway.
const maxToken = 16 << 10

// bearer returns the one access token of a request, and whether a proof of possession comes with it (RFC 9449, section 7.1). ok
// is false where there is none, and where there are several.
func bearer(r *flow.Request) (token string, dpop, ok bool) {
	proofs := len(r.HTTP.Header.Values("DPoP"))
	if q, err := url.ParseQuery(r.HTTP.URL.RawQuery); err != nil || q.Has("access_token") || proofs > 1 {
		return "", false, false
	}
	wanted := "Bearer"
	if dpop = proofs == 1; dpop {
		wanted = "DPoP"
	}
	var inForm []string
	switch r.HTTP.Method {
	case http.MethodGet:
		if len(r.Body) > 0 {
			return "", false, false
		}
	case http.MethodPost:
		if len(r.Body) > 0 && r.Form.Has("access_token") {
			t, _, err := mime.ParseMediaType(r.HTTP.Header.Get("Content-Type"))
			if err != nil || t != "application/x-www-form-urlencoded" || r.FormErr != nil || len(r.HTTP.Header.Values("Content-Type")) != 1 {
				return "", false, false
			}
			inForm = r.Form["access_token"]
		}
	default:
		return "", false, false
	}
	all := slices.Clone(inForm)
	for _, v := range r.HTTP.Header.Values("Authorization") {
		scheme, t, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, wanted) {
			return "", false, false
		}
		all = append(all, strings.Trim(t, " "))
	}
	if len(all) != 1 || !tokenLike(all[0]) {
		return "", false, false
	}
	return all[0], dpop, true
}

// tokenLike says whether s may be a token: RFC 6750, section 2.1, and what providers add to it (a colon after a prefix).
func tokenLike(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == ',' || c == '"' || c == ';' || c == '\\' {
			return false
		}
	}
	return s != "" && len(s) <= maxToken
}

// Answer implements flow.Flow.
func (UserInfo) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	rec := p.Record
	if rec.Subject == "" {
		return nil, flow.NotNow("no_subject")
	}
	if !slices.Contains(rec.Scope, "openid") && rec.IDToken == nil {
		return nil, flow.No("scope_insufficient", http.StatusForbidden, "insufficient_scope")
	}
	told, at, err := p.UserInfo()
	switch {
	case errors.Is(err, session.ErrNoRecord):
	case err != nil:
		return nil, flow.NotNow("store_failed")
	case fits(told, rec):
		return again(p, told, at)
	}
	h, err := p.HabitOf(UserInfoHabit(rec.Client))
	switch {
	case err != nil:
		return nil, flow.NotNow("store_failed")
	case h.Refresh != nil && slices.Contains(h.Refresh.Members, signedUserInfo):
		return nil, flow.NotNow("userinfo_unlearned")
	}
	return reply("application/json", fromTokens(rec).Append(nil)), nil
}

func reply(contentType string, body []byte) *flow.Reply {
	return &flow.Reply{
		Status: http.StatusOK, Body: body,
		Header: http.Header{"Content-Type": {contentType}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"}},
	}
}

// fits says whether what was told for a sign-in may be told for a token of it: a token of a narrower scope would be told less.
func fits(told, rec *session.Record) bool {
	for _, s := range told.Scope {
		if !slices.Contains(rec.Scope, s) {
			return false
		}
	}
	return told.Client == rec.Client && told.Subject == rec.Subject && told.UserInfo.Claims.Text("sub") == rec.Subject
}

// again says what the primary said at a time; what its tokens said later wins.
func again(p *flow.Permit, told *session.Record, at int64) (*flow.Reply, *flow.Refusal) {
	out := told.UserInfo.Claims.Clone()
	for _, t := range []*session.Token{p.Record.AccessToken, p.Record.IDToken} {
		if t == nil || t.Claims.Text("sub") != p.Record.Subject {
			continue
		}
		if iat, ok := t.Claims.Number("iat"); !ok || iat <= at/int64(time.Second) {
			continue
		}
		for _, m := range t.Claims {
			if out.Has(m.Name) && discloses(p.Record.Scope, m.Name) {
				out.Set(m.Name, m.Value)
			}
		}
	}
	if told.UserInfo.Header == nil {
		return reply(cmp.Or(told.Headers["Content-Type"], "application/json"), out.Append(nil)), nil
	}
	for i, m := range out {
		switch m.Name {
		case "iat", "nbf":
			out[i].Value = strconv.AppendInt(nil, p.Now.Unix(), 10)
		case "exp":
			out[i].Value = strconv.AppendInt(nil, p.Ends.Unix(), 10)
		case "jti":
			out[i].Value = session.Quote(session.NewID().String() + session.NewID().String())
		}
	}
	signed, err := p.Sign(flow.ClassUserInfo, told.UserInfo.Header.Clone(), out)
	if err != nil {
		return nil, flow.NotNow("keys_unavailable")
	}
	return reply("application/jwt", []byte(signed)), nil
}

// fromTokens is sub, and what the ID token and the access token said about the user that the granted scope lets UserInfo say.
func fromTokens(rec *session.Record) session.Object {
	out := session.Object{{Name: "sub", Value: session.Quote(rec.Subject)}}
	for _, t := range []*session.Token{rec.IDToken, rec.AccessToken} {
		// A token about somebody else (a delegation, a pairwise subject) says nothing about this one.
		if t == nil || t.Claims.Text("sub") != rec.Subject {
			continue
		}
		for _, m := range t.Claims {
			if !out.Has(m.Name) && discloses(rec.Scope, m.Name) {
				out = append(out, m)
			}
		}
	}
	return out
}

// discloses says whether UserInfo says a claim for a scope. A claim that belongs to a scope needs it; one that belongs to
// the protocol is never said; any other was put into the tokens by the primary's own configuration and is.
func discloses(scope []string, claim string) bool {
	switch claim {
	// OpenID Connect Core, section 5.4
	case "name", "family_name", "given_name", "middle_name", "nickname", "preferred_username", "profile", "picture",
		"website", "gender", "birthdate", "zoneinfo", "locale", "updated_at":
		return slices.Contains(scope, "profile")
	case "email", "email_verified":
		return slices.Contains(scope, "email")
	case "address":
		return slices.Contains(scope, "address")
	case "phone_number", "phone_number_verified":
		return slices.Contains(scope, "phone")

	// RFC 7519, RFC 8693, RFC 9068, OpenID Connect Core and its logout specifications
	case "sub", "iss", "aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "at_hash", "c_hash", "s_hash", "sid", "sub_jwk", "auth_time",
		"acr", "amr", "typ", "scope", "scp", "client_id", "cnf", "act", "may_act", "events", "toe", "txn", "sub_id", "vot", "vtm",
		"authorization_details", "entitlements":
		return false
	// what providers add for themselves: Keycloak, Entra ID and others
	case "session_state", "realm_access", "resource_access", "allowed-origins", "trusted-certs", "authorization", "clientId",
		"clientHost", "clientAddress", "reuse_id", "state_checker", "not-before-policy", "ver", "uti", "rh", "aio", "idtyp", "token_use", "ext":
		return false
	}
	return true
}
