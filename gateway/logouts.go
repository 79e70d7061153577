package gateway

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/backup"
	"understudy/backup/notice"
	"understudy/coverage"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/gateway/page"
	"understudy/session"
)

// Logout says how a client is told of logouts. It is configuration: no request ever names such a place.
type Logout struct {
	Backchannel  notice.Client // without a URI: it is not told so
	Frontchannel string        // URI of OpenID Connect Front-Channel Logout 1.0, section 2; "": none
}

// parties are who is told of a logout by the page that follows it; who else is told or not is noted in the visit.
type parties struct {
	frames []string
}

const (
	// framesTime is how long the page after a logout stays before it leads on, in seconds: the frames have to load.
	framesTime = 3
	// partiesTime bounds the wait for the backup: the person is signed out whoever is told.
	partiesTime = 2 * time.Second
)

// notify is how a logout token to a client is made, nil for a client that is told of no logout. It takes the algorithm of the
// client's ID tokens; without one the primary's that it is most likely to be (OpenID Connect Registration, section 2:
// id_token_signed_response_alg). The alg is "" where the backup has no key for it: the client took part and cannot be told.
func (v *visit) notify(client string, idToken *session.Token) map[string]string {
	if _, ok := v.tenant.Logouts[client]; !ok {
		return nil
	}
	out := map[string]string{"alg": ""}
	switch {
	case v.issuer.problem != "":
	case idToken != nil:
		if alg := idToken.Header.Text("alg"); slices.Contains(v.issuer.algs, alg) {
			out["alg"] = alg
		}
		if idToken.Claims.Text("typ") == "ID" { // Keycloak says in its claims what a token is
			out["typ"] = "Logout"
		}
	case slices.Contains(v.issuer.algs, "RS256"):
		out["alg"] = "RS256"
	case len(v.issuer.algs) > 0:
		out["alg"] = v.issuer.algs[0]
	}
	return out
}

// Told says how a client would be told of a logout that is carried out here, as far as configuration shows.
func (t *Tenant) Told(issuer, client string) (by []string) {
	l := t.Logouts[client]
	for _, is := range t.meta.issuers() {
		if is.ID == issuer && l.Backchannel.URI != "" && is.problem == "" && len(is.algs) > 0 {
			by = append(by, coverage.BackChannel)
			break
		}
	}
	if l.Frontchannel != "" && page.Frameable(l.Frontchannel) {
		by = append(by, coverage.FrontChannel)
	}
	return by
}

// endedSession is what a logout that was carried out here says of the session: who and which, and a client that took part. The
// hint's signature was verified; a refresh token is known here, byte for byte as the primary issued it.
func (t *trip) endedSession() (subject, sid, client string) {
	f := t.v.request.Form
	token := f.Get("id_token_hint")
	if r := f.Get("refresh_token"); r != "" {
		token = r
	}
	tok, err := oauth.ParseJWT(oauth.Canonical(token))
	if err != nil || tok.Claims.Text("iss") != t.v.issuer.ID {
		return "", "", oauth.ClientID(t.v.request)
	}
	if client = tok.Claims.Text("azp"); client == "" {
		client = tok.Claims.Text("aud")
	}
	return tok.Claims.Text("sub"), tok.Claims.Text("sid"), client
}

// tellParties tells the relying parties of a session that was ended here, and notes who is told and who is not.
//
// Who took part is known by the session's pseudonym, kept when what the primary approved for a configured client was learned; the
// others by what the person was let into with the browser that signs out.
// Of a logout that names no session nobody is told: which sessions it ended is only inferred. Frames are loaded only in the
// browser that was signed in with that session: with a stranger's hint anybody could sign anybody out of their applications.
func (t *trip) tellParties(ctx context.Context) {
	v := t.v
	if v.endpoint != flow.EndSession {
		return
	}
	subject, sid, asked := t.endedSession()
	var took []string
	if t.closed {
		took = append(took, t.took...)
	}
	if asked != "" {
		took = append(took, asked)
	}
	if sid != "" && len(v.tenant.Logouts) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partiesTime)
		defer cancel()
		ps, err := t.g.c.Backup.SignedOut(ctx, &backup.SignOut{
			Tenant: v.tenant.Name, Issuer: v.issuer.ID, Subject: subject, SID: sid, At: t.over.UnixNano(),
			Clients: slices.Sorted(maps.Keys(v.tenant.Logouts)),
		})
		if err != nil {
			t.g.c.Log.Error("relying parties are not told of a logout", "tenant", v.tenant.Name, "id", v.id, "error", err)
		}
		v.told, took = ps.Told, append(took, ps.Took...)
	}
	slices.Sort(took)
	for _, name := range slices.Compact(took) {
		l := v.tenant.Logouts[name]
		if l.Frontchannel != "" && sid != "" && t.closed && navigates(v.request.HTTP) && page.Frameable(l.Frontchannel) {
			t.parties.frames = append(t.parties.frames, frontchannel(l.Frontchannel, v.issuer.ID, sid))
			if !slices.Contains(v.told, name) {
				v.told = append(v.told, name)
			}
		}
		if !slices.Contains(v.told, name) {
			v.untold = append(v.untold, name)
		}
	}
	for range v.told {
		t.g.Counts.Notified(v.tenant.Name, "told")
	}
	for range v.untold {
		t.g.Counts.Notified(v.tenant.Name, "untold")
	}
}

// frontchannel is the URI of a frame with the session in it (OpenID Connect Front-Channel Logout, section 3).
func frontchannel(uri, issuer, sid string) string {
	sep := "?"
	if strings.Contains(uri, "?") {
		sep = "&"
	}
	return uri + sep + url.Values{"iss": {issuer}, "sid": {sid}}.Encode()
}
