package page

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/text/language"
)

func (t texts) reason(r Reason) string {
	switch r {
	case Interaction:
		return t.Interaction
	case Ended:
		return t.Ended
	case Interrupted:
		return t.Interrupted
	}
	return t.NoRecord
}

// about says a time in round figures, never a shorter one.
func (t texts) about(seconds int) string {
	if seconds <= 90 {
		return fmt.Sprintf(t.Seconds, (seconds+4)/5*5)
	}
	return fmt.Sprintf(t.Minutes, (seconds+59)/60)
}

const (
	maxLanguages = 16  // asked for; the rest is not looked at
	maxLocales   = 512 // bytes of either list
)

// choose returns the texts in the language that the request prefers: ui_locales first, then Accept-Language, then English.
func (p *Pages) choose(r *http.Request, locales string) texts {
	if locales == "" && r.URL != nil {
		locales = r.URL.Query().Get("ui_locales")
	}
	for _, wanted := range [][]language.Tag{spaced(locales), accepted(strings.Join(r.Header.Values("Accept-Language"), ","))} {
		if _, i, confidence := p.matcher.Match(wanted...); confidence > language.No {
			return p.texts[i]
		}
	}
	return p.texts[0]
}

func spaced(s string) (tags []language.Tag) {
	for _, f := range strings.Fields(s[:min(len(s), maxLocales)]) {
		if t, err := language.Parse(f); err == nil && len(tags) < maxLanguages {
			tags = append(tags, t)
		}
	}
	return tags
}

// accepted reads Accept-Language entry by entry, so that one which cannot be read does not cost the others.
func accepted(s string) []language.Tag {
	type weighted struct {
		language.Tag
		q float32
	}
	var ws []weighted
	for e := range strings.SplitSeq(s[:min(len(s), maxLocales)], ",") {
		ts, qs, err := language.ParseAcceptLanguage(e)
		if err == nil && len(ts) == 1 && len(ws) < maxLanguages {
			ws = append(ws, weighted{ts[0], qs[0]})
		}
	}
	slices.SortStableFunc(ws, func(a, b weighted) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	tags := make([]language.Tag, len(ws))
	for i, w := range ws {
		tags[i] = w.Tag
	}
	return tags
}
