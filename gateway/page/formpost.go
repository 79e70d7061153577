package page

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
)

// FormPost is an authorization response in OAuth 2.0 Form Post Response Mode: a form that submits itself.
type FormPost struct {
	Tenant     string
	Action     string // the redirect URI, which the caller has found to be the client's
	Parameters []Parameter
	Locales    string // the request's ui_locales; empty: that in r's query
}

// Parameter is one of the response's, in its order.
type Parameter struct{ Name, Value string }

// ErrAction is for a redirect URI to which no form can be posted.
var ErrAction = errors.New("the redirect URI is not an http or https URL with a plain host")

// FormPost answers r with 200 and the page. On an error, ErrAction among them, nothing has been sent.
//
// The policy names no form-action: browsers disagree whether it holds for the redirects after the POST too (Chromium
// says so), and where the application sends its user next is not ours to know. What it would fence, a form that markup
// in a value adds, the escaping of every value excludes, and the only script is allowed by its hash.
//
// Referrer-Policy is strict-origin, since no-referrer would have the browser send "Origin: null" with the POST, which
// applications that check it against their provider's origin refuse.
func (p *Pages) FormPost(w http.ResponseWriter, r *http.Request, f FormPost) error {
	u, ok := web(f.Action)
	if !ok {
		return fmt.Errorf("post to the application: %w", ErrAction)
	}
	t := p.choose(r, f.Locales)
	view := struct {
		sheet
		Lead, Action string
		Parameters   []Parameter
		Script       template.JS
	}{
		sheet:      p.sheet(t, r, t.Moment, f.Tenant, ""),
		Lead:       fmt.Sprintf(t.MomentLead, clean(u.Host, 80)),
		Action:     f.Action,
		Parameters: f.Parameters,
		Script:     template.JS(p.submit.text),
	}
	return p.write(w, http.StatusOK, t.Tag, "formpost.html", view, "strict-origin", "; script-src "+p.submit.source)
}
