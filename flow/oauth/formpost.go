package oauth

import (
	"bytes"

	"golang.org/x/net/html"

	"understudy/flow"
)

// MaxFormPage bounds a page that is read for the form of an authorization response, in bytes.
const MaxFormPage = 128 << 10

// ReadForm reads a page as the answer to an authorization request in OAuth 2.0 Form Post Response Mode, or returns nil where it
// is none: it posts to another place, or carries another state.
func ReadForm(page []byte, ask *flow.Ask) *Redirected {
	if !ByForm(ask) || len(page) > MaxFormPage {
		return nil
	}
	var ps [][2]string
	in := false
	for z := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch z.Next() {
		case html.ErrorToken:
			return nil
		case html.EndTagToken:
			if name, _ := z.TagName(); in && string(name) == "form" {
				return redirected(ps, ask)
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			switch name, as := tag(z); name {
			case "form":
				in = as["action"] == ask.Params["redirect_uri"]
				ps = nil
			case "input":
				if in && as["name"] != "" && len(ps) <= maxRedirectParams {
					ps = append(ps, [2]string{as["name"], as["value"]})
				}
			}
		}
	}
}
