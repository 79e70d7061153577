package gateway

import (
	"errors"
	"net/http"
	"strings"

	"understudy/flow"
	"understudy/gateway/page"
)

// navigates says whether a person sees what comes back: a browser goes to a page, or frames one.
func navigates(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return false
	}
	if m := r.Header.Get("Sec-Fetch-Mode"); m != "" {
		return m == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// showLimited shows a person that sign-in is limited, because of err. It is false where nothing was sent.
func (g *Gateway) showLimited(w http.ResponseWriter, r *http.Request, v *visit, err error) bool {
	if v.endpoint != flow.Other && v.endpoint != flow.EndSession && v.endpoint != flow.Authorization {
		return false // no person goes there
	}
	if v.id == "" {
		v.id = requestID()
	}
	l := page.Limited{Tenant: v.tenant.DisplayName, Contact: v.tenant.Contact, ID: v.id}
	if r.Method == http.MethodGet {
		l.Again = r.URL.RequestURI()
	}
	if !errors.Is(err, errOurs) && !exhausted(err) { // who sheds load takes on no more
		l.Applications = g.applications(r, v)
	}
	if err := g.pages.Limited(w, r, l); err != nil {
		g.c.Log.Error("a page cannot be drawn", "tenant", v.tenant.Name, "error", err)
		return false
	}
	if v.refusal == nil { // else the line is there
		g.note(v, "refused", "primary_away", "page")
	}
	return true
}

// signedOut is the reply to a logout that was honoured here: a page for a person, else nothing.
func (t *trip) signedOut() *http.Response {
	rec := &recorder{h: http.Header{"Cache-Control": {"no-store"}}, status: http.StatusNoContent}
	if t.closed {
		t.v.withoutSession(rec.h, t.v.request.HTTP)
	}
	to, onward := t.onward()
	r := t.v.request.HTTP
	switch {
	case onward && len(t.parties.frames) == 0:
		rec.h.Set("Location", to)
		rec.status = http.StatusFound
	case navigates(r):
		_, _, asked := t.endedSession() // which knows: it sent the person here
		o := page.SignedOut{Tenant: t.v.tenant.DisplayName, ID: t.v.id, Told: t.v.tenant.names(t.v.told, ""), Untold: t.v.tenant.names(t.v.untold, asked), Frames: t.parties.frames}
		if onward {
			o.Back.URL, o.Onward = to, framesTime
		}
		if err := t.g.pages.SignedOut(rec, r, o); err != nil {
			t.g.c.Log.Error("a page cannot be drawn", "tenant", t.v.tenant.Name, "error", err)
		}
	}
	return t.reply(rec.status, rec.h, rec.body)
}
