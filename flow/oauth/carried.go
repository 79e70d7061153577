package oauth

import (
	"bytes"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// Carried are the tokens that a redirect carries to an application, whoever asked for them and however: each id_token and access_token in
// its query, its fragment, or a JWT in either (JARM). None of them is verified.
func Carried(location string) []string {
	if !strings.Contains(location, "token") && !strings.Contains(location, "response") { // almost all
		return nil
	}
	return carried(parameters(location))
}

// SaysNothing says whether a redirect carries neither a code, a token nor an error: it may say that somebody is signed in, and no more
// (OAuth 2.0 Multiple Response Type Encoding Practices, section 4).
func SaysNothing(location string) bool {
	ps := parameters(location)
	for _, p := range ps {
		if p[0] == "response" {
			ps = append(ps, (&Redirected{}).unwrap([][2]string{p})...)
		}
	}
	return location != "" && !slices.ContainsFunc(ps, func(p [2]string) bool {
		return p[0] == "code" || p[0] == "id_token" || p[0] == "access_token" || p[0] == "error"
	})
}

// parameters are those of a URL's query and fragment.
func parameters(location string) (ps [][2]string) {
	for _, part := range strings.FieldsFunc(location, func(r rune) bool { return r == '?' || r == '#' || r == '&' }) {
		name, value, _ := strings.Cut(part, "=")
		if value, err := url.QueryUnescape(value); err == nil {
			ps = append(ps, [2]string{name, value})
		}
	}
	return ps
}

// CarriedByForm are those in the inputs of a page, which posts them.
func CarriedByForm(page []byte) []string {
	var ps [][2]string
	for z := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch z.Next() {
		case html.ErrorToken:
			return carried(ps)
		case html.StartTagToken, html.SelfClosingTagToken:
			if name, as := tag(z); name == "input" {
				ps = append(ps, [2]string{as["name"], as["value"]})
			}
		}
	}
}

func carried(ps [][2]string) (out []string) {
	for _, p := range ps {
		switch p[0] {
		case "id_token", "access_token":
			out = append(out, p[1])
		case "response":
			for _, in := range (&Redirected{}).unwrap([][2]string{p}) {
				if in[0] == "id_token" || in[0] == "access_token" {
					out = append(out, in[1])
				}
			}
		}
	}
	return out
}

// tag reads a tag and its attributes.
func tag(z *html.Tokenizer) (string, map[string]string) {
	name, more := z.TagName()
	as := map[string]string{}
	for more {
		var k, v []byte
		k, v, more = z.TagAttr()
		as[string(k)] = string(v)
	}
	return string(name), as
}
