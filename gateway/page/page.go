// Package page draws what a person sees of the gateway in an outage: that sign-in is limited, that they are signed out,
// and the page that carries an answer to an application by form_post.
//
// It owns the words, the looks and the headers of these pages. It refuses to show a link that does not lead to http or
// https, a way back to any other origin, and anything from a third party; a person's pages hold no script and change
// nothing by being opened. It decides nothing about a sign-in, and imports none of the packages that do.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/text/language"
)

//go:embed *.html style.css submit.js
var files embed.FS

// Pages draws the pages. It may be used by several goroutines at once.
type Pages struct {
	random    func() float64
	templates map[string]*template.Template // by file name
	style     asset
	submit    asset
	texts     []texts
	matcher   language.Matcher
}

// asset is a style sheet or script that stands in the page itself, allowed there by the hash of its exact bytes.
type asset struct {
	text   string
	source string // for Content-Security-Policy
}

// New returns the pages. random gives numbers in [0,1) and spreads the times at which people try again; nil is
// math/rand/v2. It must be safe for concurrent use.
func New(random func() float64) *Pages {
	if random == nil {
		random = rand.Float64
	}
	p := &Pages{random: random, templates: map[string]*template.Template{}, style: load("style.css"), submit: load("submit.js"), texts: translations()}
	for _, name := range []string{"limited.html", "signedout.html", "formpost.html"} {
		p.templates[name] = template.Must(template.ParseFS(files, "layout.html", name))
	}
	tags := make([]language.Tag, len(p.texts))
	for i, t := range p.texts {
		tags[i] = language.MustParse(t.Tag)
	}
	p.matcher = language.NewMatcher(tags)
	return p
}

func load(name string) asset {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is part of the program
	}
	sum := sha256.Sum256(b)
	return asset{string(b), "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"}
}

// sheet is what every page has; its fields are the layout's.
type sheet struct {
	T      texts
	Style  template.CSS
	Title  string
	Tenant string
	ID     string
}

func (p *Pages) sheet(t texts, r *http.Request, title, tenant, id string) sheet {
	tenant = clean(tenant, 80)
	if tenant == "" {
		tenant = clean(r.Host, 80)
		if host, _, err := net.SplitHostPort(tenant); err == nil {
			tenant = host
		}
	}
	return sheet{T: t, Style: template.CSS(p.style.text), Title: title, Tenant: tenant, ID: clean(id, 64)}
}

// write sends the page whole, or returns an error and has sent nothing. More is what the page adds to the
// Content-Security-Policy, each part beginning with "; ".
func (p *Pages) write(w http.ResponseWriter, status int, lang, name string, view any, referrer, more string) error {
	var b bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&b, "layout.html", view); err != nil {
		return fmt.Errorf("draw %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Language", lang)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+p.style.source+"; frame-ancestors 'none'; base-uri 'none'"+more)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", referrer)
	h.Add("Vary", "Accept-Language")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error here is the client's: it has gone
	return nil
}

// clean makes foreign text safe to stand among ours: one line, at most max runes, and nothing that changes the
// direction of the text around it.
func clean(s string, max int) string {
	s = strings.ToValidUTF8(s[:min(len(s), 8*max)], "")
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029:
			return ' '
		case r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > max {
		s = string(runes[:max-1]) + "…"
	}
	return s
}
