package gateway

import (
	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// possess verifies the DPoP proof of a request (RFC 9449, section 4.3). It is false where there is none, or it does not verify.
func (t *trip) possess() bool {
	if t.possession != nil || !t.ask.Client.DPoP {
		return t.possession != nil
	}
	d := proof.DPoP{
		Issuer: t.v.issuer.ID, Method: t.v.request.HTTP.Method, URL: t.v.issuer.object.Text("token_endpoint"),
		Algs: t.v.issuer.object.Texts("dpop_signing_alg_values_supported"),
	}
	switch t.v.endpoint {
	case flow.UserInfo:
		d.URL, d.AccessToken = t.v.issuer.object.Text("userinfo_endpoint"), t.ask.Artifact.Value
	case flow.Pushed:
		d.URL = t.v.issuer.object.Text("pushed_authorization_request_endpoint")
	}
	p, err := d.Check(t.v.request.HTTP.Header, t.g.c.Now())
	if err != nil {
		return false
	}
	t.possession = p
	return true
}

// boundTo is the key to which what a reply gave is bound, or why it cannot be continued.
func (t *trip) boundTo(r *session.Record) (jkt, why string) {
	if !t.possess() {
		return "", "dpop"
	}
	if tok := r.AccessToken; tok != nil {
		cnf, err := session.ParseObject(tok.Claims.Get("cnf"))
		if err != nil || cnf.Text("jkt") != t.possession.Thumbprint {
			return "", "dpop"
		}
	}
	return t.possession.Thumbprint, ""
}
