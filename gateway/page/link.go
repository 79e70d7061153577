package page

import (
	"net"
	"net/mail"
	"net/url"
	"strings"

	"golang.org/x/net/idna"
)

// Application is one that a person may open, or hear of.
type Application struct {
	Name string // empty: the host of URL
	URL  string // absolute; what is not http or https leads nowhere
}

const (
	maxLinks = 50
	maxURL   = 8 << 10
)

// links keeps the applications that can be shown, in their order, the first 50 of them: as links, or by their names where they are none.
func links(as []Application) []anchor {
	var ls []anchor
	for _, a := range as {
		l, ok := link(a)
		if !ok {
			l = anchor{Name: clean(a.Name, 80)}
		}
		if l.Name != "" && len(ls) < maxLinks {
			ls = append(ls, l)
		}
	}
	return ls
}

// anchor is an application whose URL has passed. Host stands beside the name, so that a name cannot lie about it.
type anchor struct{ Name, URL, Host string }

func link(a Application) (anchor, bool) {
	u, ok := web(a.URL)
	if !ok {
		return anchor{}, false
	}
	l := anchor{Name: clean(a.Name, 80), URL: u.String(), Host: clean(u.Host, 80)}
	if l.Name == "" || l.Name == l.Host {
		l.Name, l.Host = l.Host, ""
	}
	return l, true
}

// web parses an absolute http or https URL with a plain host: no user info, which lets a URL look like another's, and
// no character in the host that a Content-Security-Policy would read as its own.
func web(s string) (*url.URL, bool) {
	if len(s) > maxURL {
		return nil, false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Opaque != "" || u.Hostname() == "" {
		return nil, false
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		return u, true
	}
	host, err := idna.Lookup.ToASCII(u.Hostname())
	if err != nil {
		host = u.Hostname() // an underscore, perhaps; below decides
	}
	for _, c := range host {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", c) {
			return nil, false
		}
	}
	if port := u.Port(); port != "" {
		host += ":" + port
	}
	u.Host = host
	return u, true
}

// again returns a way back that stays here: path and query, beginning with a single "/", of visible ASCII as a browser
// sends it. Anything else is "". A browser drops tabs and line ends from a URL and reads "\" as "/", so that these could
// make another origin of it.
func again(s string) string {
	if len(s) > maxURL || !strings.HasPrefix(s, "/") {
		return ""
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '\\' || s[i] == '#' {
			return ""
		}
	}
	path, _, _ := strings.Cut(s, "?")
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.Contains(path, "//") {
		return ""
	}
	return s
}

// contact returns the text of a tenant's contact and where it leads; a contact that is neither a mail address nor a
// URL leads nowhere. The mail's subject is the id to quote.
func contact(s, id string) anchor {
	text := clean(s, 200)
	if u, ok := web(text); ok {
		return anchor{Name: text, URL: u.String()}
	}
	a, err := mail.ParseAddress(text)
	if err != nil || a.Address != text || strings.ContainsAny(text, `?&#%/:"`) {
		return anchor{Name: text}
	}
	l := anchor{Name: text, URL: "mailto:" + text}
	if id != "" {
		l.URL += "?subject=" + strings.ReplaceAll(url.QueryEscape(id), "+", "%20")
	}
	return l
}
