package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// stateCookies are the cookies that the OP iframe of a well-known primary reads (Keycloak). They open nothing; where a person is
// signed out here they go, so that the applications read "changed".
func stateCookies() []string { return []string{"KEYCLOAK_SESSION"} }

// initCheck is the place of a check that the page at a path makes: whether a client may ask from an origin. It is "" where the
// request is none.
func (s *statePages) initCheck(r *http.Request) string {
	at, ok := strings.CutSuffix(r.URL.EscapedPath(), "/init")
	if !ok || r.Method != http.MethodGet || len(r.URL.RawQuery) > 2000 {
		return ""
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q["client_id"]) != 1 || len(q["origin"]) != 1 {
		return ""
	}
	o := q.Get("origin")
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o { // "null" is nobody's
		return ""
	}
	for _, is := range s.tenant.meta.issuers() {
		if is.statePage(s.tenant) == at { // whether there is a copy yet or not
			return session.Joined(at, q.Get("client_id"), o)
		}
	}
	return ""
}

// passed learns from the primary's own reply that a client may ask from an origin, or may not any more.
func (s *statePages) passed(r *http.Request, status int) {
	if status != http.StatusNoContent && status != http.StatusForbidden {
		return
	}
	k := s.initCheck(r)
	if k == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	yes := status == http.StatusNoContent
	if s.asked[k] == yes || yes && len(s.asked) >= maxStateAsked {
		return
	}
	if delete(s.asked, k); yes {
		s.asked[k] = true
	}
	s.nudge()
}

// answer answers in the primary's place: the page, its scripts, or its check. It is false where there is no copy, or the client was
// never seen to ask from that origin: then it is not known whether it may.
func (s *statePages) answer(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if k := s.initCheck(r); k != "" {
		s.mu.Lock()
		ok := s.asked[k]
		s.mu.Unlock()
		if ok {
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNoContent)
		}
		return ok
	}
	s.mu.Lock()
	d := s.pages[r.URL.EscapedPath()]
	s.mu.Unlock()
	if d == nil {
		return false
	}
	for name, vs := range d.Header {
		w.Header()[name] = vs
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(d.Body) // a client that is gone asks again
	}
	return true
}

// stateAway answers for the OP iframe while the breaker is open.
func (g *Gateway) stateAway(w http.ResponseWriter, r *http.Request, t *Tenant) bool {
	return t.monitors[flow.Token].Share() == 0 && t.states.answer(w, r)
}

// stateReply is the reply to a request for the OP iframe that the primary failed to answer, or nil where there is none.
func (v *visit) stateReply(out *http.Request, resp *http.Response, err error) *http.Response {
	if v.endpoint != flow.Other || err == nil && resp.StatusCode < 500 {
		return nil
	}
	rec := &recorder{h: http.Header{}, status: http.StatusOK}
	if !v.tenant.states.answer(rec, out) {
		return nil
	}
	if resp != nil {
		resp.Body.Close()
	}
	return replyTo(out, rec.status, rec.h, rec.body)
}
