package health

import (
	"net/netip"
	"slices"
	"time"
)

// failure is one grant's.
type failure struct {
	grant, requester string
	at               time.Time
	beyond           bool
}

// maxFailures bounds what one monitor remembers. With the bound per requester nobody can fill it alone.
const maxFailures = 256

// evidence are the failures since the last answer to anybody, one a grant.
type evidence struct {
	list         []failure
	perRequester int
	window       time.Duration
	// resumed is since when the primary is known to be away from before a restart, until something is heard of it.
	resumed time.Time
}

func (e *evidence) clear() {
	e.list = e.list[:0]
	e.resumed = time.Time{}
}

// add keeps a failure. Of the same grant the first stays, but it becomes one beyond doubt where the later one is.
func (e *evidence) add(f failure) {
	e.expire(f.at)
	same := 0
	for i := range e.list {
		if e.list[i].grant == f.grant {
			e.list[i].beyond = e.list[i].beyond || f.beyond
			return
		}
		if e.list[i].requester == f.requester {
			same++
		}
	}
	if same < e.perRequester && len(e.list) < maxFailures {
		e.list = append(e.list, f)
	}
}

func (e *evidence) expire(now time.Time) {
	e.list = slices.DeleteFunc(e.list, func(f failure) bool { return now.Sub(f.at) > e.window })
}

// count returns how many grants failed, from how many requesters, and how many failed beyond doubt.
func (e *evidence) count(now time.Time) (grants, requesters, beyond int) {
	e.expire(now)
	for i, f := range e.list {
		if f.beyond {
			beyond++
		}
		if !slices.ContainsFunc(e.list[:i], func(o failure) bool { return o.requester == f.requester }) {
			requesters++
		}
	}
	return len(e.list), requesters, beyond
}

// first is when the row of failures began that ends now.
func (e *evidence) first(now time.Time) time.Time {
	if !e.resumed.IsZero() {
		return e.resumed
	}
	e.expire(now)
	for _, f := range e.list {
		if f.at.Before(now) {
			now = f.at
		}
	}
	return now
}

// requester is who sent the failed request of a grant, "" where there was none or it is not known.
func (e *evidence) requester(grant string) string {
	for _, f := range e.list {
		if f.grant == grant {
			return f.requester
		}
	}
	return ""
}

// Network is what counts as one requester: an IPv4 address, or an IPv6 /48, within which a single client can choose.
// Anything else is taken as it is.
func Network(requester string) string {
	a, err := netip.ParseAddr(requester)
	if err != nil {
		return requester
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(48)
	return p.String()
}
