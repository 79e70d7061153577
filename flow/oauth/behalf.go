package oauth

import (
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// behalf is a request of a client on behalf of somebody whose token it was given. It is continued for exactly what the primary
// approved: client, what it asks for, and a token that says the same about the same person and session, to the same client and
// audience.
type behalf struct {
	clientCredentials
	grant string
	token *session.Token // as presented, unverified; nil: it cannot be read
}

// onBehalf reads a request of a grant whose token stands in the parameter of that name. refused is the error code that the
// grant's standard has for a token that is not valid. unlearned says why this request could not be checked again, "" for nothing.
func onBehalf(r *flow.Request, grant, name, refused, unlearned string) *behalf {
	x := &behalf{clientCredentials: clientCredentials{parse(r)}, grant: grant}
	a := &x.ask
	a.Subject, a.SubjectRefused = r.Form.Get(name), refused
	t, err := ParseJWT(a.Subject)
	x.token = t
	switch {
	case x.unlearned != "":
	case x.anonymous():
		x.unlearned = "no_client_secret"
	case unlearned != "":
		x.unlearned = unlearned
	case err != nil:
		x.unlearned = "subject_token" // nobody could verify it
	case t.Claims.Has("cnf"):
		x.unlearned = "cnf"
	case t.Claims.Text("iss") != r.Issuer || t.Claims.Text("sub") == "":
		x.unlearned = "subject_issuer"
	}
	// What else is asked for is part of what was approved.
	if a.Unplayable = x.unlearned; a.Unplayable == "" {
		a.Artifact = flow.Artifact{Kind: session.ClientSecret, Value: x.asks(name)}
		if a.Client.Assertion != "" || a.Client.Certified() {
			a.Artifact.Kind = session.ClientKey
		}
	}
	return x
}

// asks is what is asked for, on whose behalf.
func (x *behalf) asks(tokenName string) string {
	out := []string{x.grant, x.asked()}
	var more []string
	for name, vs := range x.r.Form {
		switch name {
		case "grant_type", tokenName, "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "resource", "audience":
		case "client-request-id", "x-app-name", "x-app-ver", "x-ms-lib-capability": // of MSAL's, about the library and the application
		default:
			if !strings.HasPrefix(name, "x-client-") {
				more = append(more, session.Joined(name, vs[0]))
			}
		}
	}
	out = append(out, session.Joined(slices.Sorted(slices.Values(more))...))
	c := x.token.Claims
	out = append(out, string(x.token.Header.Get("typ"))) // no token of another class will do
	for _, name := range []string{
		"sub", "sid", "azp", "client_id", "aud", "acr", "amr", "act", "may_act", "typ",
		"appid", "tid", "oid", "idtyp", "azpacr", "appidacr", // Entra's words for the client, the tenant, the person and how strongly the client proved itself
	} {
		out = append(out, name, string(c.Get(name)))
	}
	for _, name := range []string{"scope", "scp"} {
		scope := slices.Concat(strings.Fields(c.Text(name)), listed(c, name))
		out = append(out, session.Joined(slices.Sorted(slices.Values(scope))...))
	}
	return session.Joined(out...)
}

// listed are the members of a claim that is a list.
func listed(c session.Object, name string) []string {
	if v := c.Get(name); len(v) > 0 && v[0] == '[' {
		return c.Texts(name)
	}
	return nil
}

// Learn implements flow.Exchange.
func (x *behalf) Learn(r *flow.Response) *flow.Lesson {
	if x.unlearned != "" {
		return &flow.Lesson{Unlearned: x.unlearned}
	}
	l := x.alone(r, x.grant)
	if l.Record == nil {
		return l
	}
	l.AuthTime = authTime(x.token, l.Record.IDToken, l.Record.AccessToken)
	if l.Beside != nil {
		l.Beside.AuthTime = l.AuthTime
	}
	return l
}

// answerOnBehalf answers from a record of the grant.
func answerOnBehalf(p *flow.Permit, grant string) (*flow.Reply, *flow.Refusal) {
	of := p.Play.Behalf
	switch {
	case p.Record.Grant != grant:
		return nil, flow.NotNow("record_incomplete")
	case of == nil || !Lives(of.Token, p.Now):
		return nil, flow.NotNow("subject_token_refused")
	}
	return answerAlone(p)
}

// Lives says whether a subject token is valid now by its own times. There is no leeway: the backup takes none that has expired.
func Lives(t *session.Token, now time.Time) bool {
	exp, ok := t.Claims.Number("exp")
	if !ok || exp <= now.Unix() {
		return false
	}
	nbf, ok := t.Claims.Number("nbf")
	return !t.Claims.Has("nbf") || ok && nbf <= now.Unix()
}
