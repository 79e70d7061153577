package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/health"
	"understudy/session"
)

// failing are those who are known and met a failure at a class of endpoints that has no breaker of its own, since it last answered
// one of them: one of each requester. Where others fail too, a failure is not the requester's doing (design, law 1).
type failing struct {
	mu   sync.Mutex // guards list
	list []failed
}

type failed struct {
	grant, requester string
	at               time.Time
}

const (
	failingFor = time.Minute
	maxFailing = 64
)

// fails notes a failure, and says whether another grant of another requester failed too.
func (f *failing) fails(grant, requester string, now time.Time) (others bool) {
	requester = health.Network(requester)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(x failed) bool { return x.requester == requester || now.Sub(x.at) > failingFor })
	others = slices.ContainsFunc(f.list, func(x failed) bool { return x.grant != grant })
	if len(f.list) >= maxFailing {
		f.list = f.list[1:]
	}
	f.list = append(f.list, failed{grant, requester, now})
	return others
}

func (f *failing) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list) > 0
}

// forget notes that somebody who is known was answered.
func (f *failing) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = f.list[:0]
}

// excused says whether the plain request of a grant that is known may have failed for no fault of its requester's: others fail as it
// does, or it is the grant's one time.
func (t *trip) excused(probe bool) bool {
	if probe || t.odd() != "" {
		return false
	}
	return t.v.tenant.failing[t.v.endpoint].fails(t.grant, t.v.address, t.g.c.Now()) ||
		t.monitor.ElsewhereBy(t.grant, t.v.address) || t.firstDoubt()
}

// unless is the primary's answer to an authorization request, unless that is none: then it is the backup's, or errAway.
func (t *trip) unless(ctx context.Context, resp *http.Response, err error) (*http.Response, error) {
	rule := pageRule(t.g.rules, resp, err)
	if rule != nil && rule.Origin != health.Ours || !t.v.reference.awaited() {
		t.dereference(ctx)
	}
	if rule == nil && err == nil && t.noPage(resp) && t.holdsRecord(ctx) {
		rule = named(t.g.rules, "wrong_content")
	}
	if rule == nil || rule.Origin == health.Ours {
		if err == nil && resp.StatusCode/100 == 3 && t.v.tenant.failing[flow.Authorization].any() && t.holdsRecord(ctx) {
			t.v.tenant.failing[flow.Authorization].forget()
		}
		return resp, err
	}
	t.g.Counts.Rule(t.v.tenant.Name, string(t.v.endpoint), rule.Name)
	if rule.Origin == health.Beyond || t.doubts(ctx, rule.Probe) {
		if played := t.silently(ctx, rule.Name); played != nil {
			if err == nil {
				resp.Body.Close()
			}
			return played, nil
		}
	}
	// A page may have a reason that is not known here. Who wants none has no use for one that says that the primary fails.
	if err != nil || t.monitor.Share() > 0 && !(silent(t.ask) && resp.StatusCode >= 400) {
		return resp, err
	}
	resp.Body.Close()
	return nil, errAway
}

// doubts says whether the backup may answer a browser in place of a failure that could be the browser's own doing (design, law 1).
func (t *trip) doubts(ctx context.Context, probe bool) bool {
	if t.doubt = t.holdsRecord(ctx) && t.excused(probe); t.doubt {
		return true
	}
	return t.monitor.Suspect(ctx)
}

// noPage says whether a reply is a page although the request wants none, and its answer comes in no page.
func (t *trip) noPage(resp *http.Response) bool {
	return silent(t.ask) && resp.StatusCode/100 == 2 && !oauth.ByForm(t.ask)
}

// errAway is for a request that nobody can answer while the primary is away.
var errAway = errors.New("the primary is away")

// errOwn is for a request that presents what only the backup knows.
var errOwn = errors.New("the primary does not know the pushed request")

// pageRule says which line of the table of failures a reply to a browser is, nil for one that is none: a page may be anything.
func pageRule(rules []Rule, resp *http.Response, err error) *Rule {
	switch {
	case errors.Is(err, errBarred), errors.Is(err, errNotKept): // the primary answered
		return nil
	case err != nil:
		return classify(rules, &outcome{endpoint: flow.Authorization, err: err})
	}
	switch o := (&outcome{endpoint: flow.Authorization, status: resp.StatusCode, header: resp.Header, sent: true}); resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusTooEarly, http.StatusRequestHeaderFieldsTooLarge:
		return classify(rules, o)
	default:
		if resp.StatusCode >= 500 {
			return classify(rules, o)
		}
	}
	return nil
}

// doubtsOf says whether the backup may answer about a token in place of a failure that could be the asker's own doing (design, law 1).
func (t *trip) doubtsOf(ctx context.Context, probe bool) bool {
	a := t.ask.Artifact
	if t.v.endpoint == flow.UserInfo && a.Kind == session.AccessToken && t.ask.Unplayable == "" && oauth.PlainQuestion(t.v.request) {
		if st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.at(a)); err == nil && st.Known {
			if t.grant = st.Grant.String(); t.excused(probe) {
				return true
			}
		}
	}
	return t.monitor.Suspect(ctx)
}
