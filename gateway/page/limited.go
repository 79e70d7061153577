package page

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Reason is why a person cannot be let in. It chooses one sentence, and tells no more than that.
type Reason int

// The reasons. Any other value reads as NoRecord.
const (
	NoRecord    Reason = iota // nothing is remembered that fits this browser and application
	Interaction               // the person must be asked: a policy, prompt, max_age
	Ended                     // the session was signed out or revoked
	Interrupted               // a code of the primary could not be redeemed
)

// Limited is the page for a person whom the backup cannot let in.
type Limited struct {
	Tenant       string // its name; empty: the request's host
	Contact      string // a mail address, an http or https URL, or any text; may be empty
	Reason       Reason
	Applications []Application // what this person can open now, from their own records
	ID           string        // to quote to whoever helps; may be empty

	// Retry is the least time after which to try again: zero is 30 s, the most is an hour. Each answer says up to half
	// as much again, so that people do not come back all at once.
	Retry time.Duration
	// Again is the request to try again, as path and query of this origin. The caller sets it only for a GET that is
	// safe to repeat; what could lead elsewhere is not shown. Empty: the page says to begin at the application.
	Again string
	// Locales is the request's ui_locales (OpenID Connect Core 3.1.2.1: language tags, separated by spaces); empty: that
	// in r's query. It goes before Accept-Language.
	Locales string
}

// Limited answers r with 503, Retry-After and the page. On an error nothing has been sent.
func (p *Pages) Limited(w http.ResponseWriter, r *http.Request, l Limited) error {
	t := p.choose(r, l.Locales)
	view := struct {
		sheet
		Lead, Reason, Wait string
		Applications       []anchor
		Again              string
		Contact            anchor
	}{
		sheet:        p.sheet(t, r, t.Limited, l.Tenant, l.ID),
		Reason:       t.reason(l.Reason),
		Applications: links(l.Applications),
		Again:        again(l.Again),
	}
	view.Lead = fmt.Sprintf(t.LimitedLead, view.Tenant)
	view.Contact = contact(l.Contact, view.ID)
	seconds := wait(l.Retry, p.random())
	view.Wait = fmt.Sprintf(t.Wait, t.about(seconds))
	if view.Again == "" {
		view.Wait = fmt.Sprintf(t.WaitElsewhere, t.about(seconds))
	}
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	// The way back is a link and no form: Chromium holds form-action against every redirect that follows a form, and
	// this one is to end at the application.
	return p.write(w, http.StatusServiceUnavailable, t.Tag, "limited.html", view, "no-referrer", "; form-action 'none'")
}

// wait returns whole seconds between base and half as much again.
func wait(base time.Duration, random float64) int {
	if base <= 0 {
		base = 30 * time.Second
	}
	base = min(base, time.Hour)
	if !(random >= 0 && random < 1) {
		random = 0
	}
	return int(math.Ceil(base.Seconds() * (1 + random/2)))
}
