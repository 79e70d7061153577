package gateway

import (
	"net/url"
	"strings"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// postLogout is where it is kept that the primary has sent people there after a logout (OpenID Connect RP-Initiated Logout,
// section 3), and for which client; zero where the request asks for no such place.
func (g *Gateway) postLogout(v *visit) session.ID {
	f := v.request.Form
	uri, client := f.Get("post_logout_redirect_uri"), f.Get("client_id")
	if t, err := oauth.ParseJWT(f.Get("id_token_hint")); err == nil && client == "" {
		if client = t.Claims.Text("azp"); client == "" {
			client = t.Claims.Text("aud")
		}
	}
	if uri == "" || client == "" || v.request.FormErr != nil { // the primary may read another place, or another client
		return session.ID{}
	}
	return g.c.Seal.Lookup(session.RedirectURI, v.tenant.Name, v.issuer.ID, session.Joined("post_logout", client, uri))
}

// returned notes that the primary sends a person where a logout asks for.
func (g *Gateway) returned(v *visit, location string) {
	if v.endpoint != flow.EndSession || location == "" {
		return
	}
	rest, ok := strings.CutPrefix(location, v.request.Form.Get("post_logout_redirect_uri"))
	at := g.postLogout(v)
	if !ok || at.Zero() || rest != "" && rest[0] != '?' && rest[0] != '&' {
		return
	}
	g.learner.add(v.tenant.Name, &lesson{ready: &backup.Learned{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: "post_logout_redirect_uri", Sent: v.began.UnixNano(),
		Kept: []session.SealedDoor{{Kind: session.RedirectURI, Lookup: at}},
	}})
}

// onward is where the primary would lead the person after a logout that was carried out here: a place where it was seen to send
// people. It is false where there is none.
func (t *trip) onward() (to string, ok bool) {
	v := t.v
	at := t.g.postLogout(v)
	if at.Zero() {
		return "", false
	}
	st, err := t.g.c.Backup.Standing(v.request.HTTP.Context(), v.tenant.Name, at)
	if err != nil || !st.Known {
		return "", false
	}
	to = v.request.Form.Get("post_logout_redirect_uri")
	if s, ok := v.request.Form["state"]; ok {
		sep := "?"
		if strings.Contains(to, "?") {
			sep = "&"
		}
		to += sep + url.Values{"state": s[:1]}.Encode()
	}
	return to, true
}
