package page

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// SignedOut is the page after a logout in an outage.
type SignedOut struct {
	Tenant string   // its name; empty: the request's host
	Told   []string // names of the applications that were told, or are told by Frames
	Untold []string // names of those that could not be told

	// Frames are the applications' front-channel logout URIs (OpenID Connect Front-Channel Logout 1.0), iss and sid
	// in them, loaded out of sight. Only https, and http on loopback; others are left out: see Frameable.
	Frames []string
	// Back is where the person asked to go: a post_logout_redirect_uri that the caller has found approved. The zero
	// value shows no such link.
	Back Application
	// Onward is after how many seconds the browser goes there by itself, so that the frames have loaded; 0: it does not.
	Onward  int
	ID      string // to quote to whoever helps; may be empty
	Locales string // the request's ui_locales; empty: that in r's query
}

// SignedOut answers r with 200 and the page. On an error nothing has been sent.
func (p *Pages) SignedOut(w http.ResponseWriter, r *http.Request, s SignedOut) error {
	t := p.choose(r, s.Locales)
	view := struct {
		sheet
		Lead         string
		Told, Untold []string
		Back         anchor
		BackText     string
		Frames       []string
	}{sheet: p.sheet(t, r, t.SignedOut, s.Tenant, s.ID), Told: names(s.Told), Untold: names(s.Untold)}
	view.Lead = fmt.Sprintf(t.SignedOutLead, view.Tenant)
	if l, ok := link(s.Back); ok {
		view.Back, view.BackText = l, fmt.Sprintf(t.Back, l.Name)
		if s.Onward > 0 {
			w.Header().Set("Refresh", fmt.Sprintf("%d;url=%s", s.Onward, l.URL)) // no script: the page has none
		}
	}
	more := "; form-action 'none'"
	var origins []string
	for _, f := range s.Frames {
		u, origin, ok := frame(f)
		if !ok || len(view.Frames) == maxLinks {
			continue
		}
		view.Frames = append(view.Frames, u.String())
		if !strings.Contains(" "+strings.Join(origins, " ")+" ", " "+origin+" ") {
			origins = append(origins, origin)
		}
	}
	if len(origins) > 0 {
		more += "; frame-src " + strings.Join(origins, " ")
	}
	return p.write(w, http.StatusOK, t.Tag, "signedout.html", view, "no-referrer", more)
}

// Frameable says whether the page can load that front-channel logout URI; an application whose URI it cannot belongs
// into Untold.
func Frameable(uri string) bool {
	_, _, ok := frame(uri)
	return ok
}

// frame returns a front-channel logout URI and its origin as a Content-Security-Policy writes it, which has no word
// for an IPv6 address.
func frame(s string) (u *url.URL, origin string, ok bool) {
	u, ok = web(s)
	if !ok || strings.ContainsAny(u.Host, "_[") {
		return nil, "", false
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		return nil, "", false
	}
	return u, u.Scheme + "://" + strings.ToLower(u.Host), true
}

func names(ss []string) []string {
	var ns []string
	for _, s := range ss {
		if n := clean(s, 80); n != "" && len(ns) < 4*maxLinks {
			ns = append(ns, n)
		}
	}
	return ns
}
