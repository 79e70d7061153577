package gateway

import (
	"context"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/gateway/page"
	"understudy/session"
)

// readAuthorization reads an authorization request (RFC 6749, section 3.1). One by POST, whose body may be large, passes. Of one that
// cannot be read whole nothing is learned: the primary, which gets every byte of it, may read more.
func (g *Gateway) readAuthorization(r *http.Request, v *visit) {
	if r.Method != http.MethodGet {
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	v.navigation = &flow.Request{HTTP: r, Form: q, FormErr: err, Tenant: v.tenant.Name, Issuer: v.issuer.ID, Endpoint: v.endpoint, Address: v.address}
	if err == nil {
		g.wholeRequest(r.Context(), v, v.navigation)
	}
	if v.flow, v.exchange = g.navigation(v.navigation); v.exchange == nil {
		return
	}
	v.id = requestID()
	v.nameBrowser()
	whose := g.browserID(v) // before another goroutine has v
	if err == nil {
		v.reference = g.refer(v, v.navigation)
	}
	if v.reference == nil {
		g.puzzled(v, v.exchange.Ask())
	}
	if v.browser != "" && (v.exchange.Ask().Door != nil || v.reference != nil) {
		// The request itself may be large, and a person may take an hour.
		kept := &flow.Request{
			HTTP: &http.Request{Header: http.Header{
				"User-Agent": {clip(strings.Clone(r.UserAgent()), 256)}, "Sec-Fetch-Site": {clip(strings.Clone(r.Header.Get("Sec-Fetch-Site")), 16)},
			}},
			Tenant: v.tenant.Name, Issuer: v.issuer.ID, Endpoint: v.endpoint, Address: v.address,
		}
		x := &begun{issuer: v.issuer, request: kept, at: v.began, answered: make(chan struct{})}
		if kept.Referenced = v.reference != nil; !kept.Referenced {
			ask := *v.exchange.Ask()
			x.ask = &ask
		}
		switch {
		case len(r.URL.RawQuery) > maxBegunQuery:
			g.Counts.Unlearned(v.tenant.Name, "request_too_large")
		case !g.browsers.begin(whose, x):
			g.Counts.Unlearned(v.tenant.Name, "too_many_begun")
		default:
			v.begun = x
		}
	}
	if v.begun == nil {
		g.unclear(v)
	}
	if v.reference != nil {
		g.late.wg.Add(1)
		go g.dereference(v, v.reference)
	}
}

// unclear forgets what a browser waits for that the answer to this request, which is not remembered itself, could be taken to answer: such
// a request may ask for something else with the same state. What state the primary reads is not always known.
func (g *Gateway) unclear(v *visit) {
	if v.browser == "" || v.named {
		return
	}
	var state *string
	if r := v.navigation; r.FormErr == nil && !r.Form.Has("request") && !r.Form.Has("request_uri") && len(r.Form["state"]) <= 1 {
		s := r.Form.Get("state")
		state = &s
	}
	g.browsers.unclear(g.browserID(v), state)
}

// navigation finds the flow of an authorization request.
func (g *Gateway) navigation(r *flow.Request) (flow.Flow, flow.Exchange) {
	for _, f := range g.c.Flows {
		if f.Endpoint() != flow.Authorization {
			continue
		}
		if x := f.Match(r); x != nil {
			return f, x
		}
	}
	return nil, nil
}

// maxBegunQuery bounds what is remembered of one request.
const maxBegunQuery = 16 << 10

// authorize is the way of an authorization request: to the primary, or to the backup where that does not answer and the browser
// holds what it held when the primary approved the same.
func (u upstream) authorize(out *http.Request, v *visit) (*http.Response, error) {
	t := u.g.trip(out, v)
	ctx := out.Context()
	if v.own {
		if resp := t.silently(ctx, "own_request"); resp != nil {
			return resp, nil
		}
		return nil, errOwn
	}
	if !t.monitor.Serving(hashOf(v.browser)) {
		t.dereference(ctx)
		if resp := t.silently(ctx, "breaker"); resp != nil {
			return resp, nil
		}
	}
	dark := !t.monitor.Serving(0)
	if dark && silent(t.ask) {
		return nil, errAway
	}
	if !dark && v.reference == nil && !t.mayHold() && !silent(t.ask) { // only the primary can answer, and it has the time that the client has
		resp, err := u.pass(out, v)
		return t.unless(ctx, resp, err)
	}
	opened := t.monitor.Opened()
	up, cancel := context.WithCancel(ctx)
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	asked := *v // what this one asks for may be known only while the primary is asked
	go func() {
		resp, err := u.pass(out.WithContext(up), &asked)
		done <- result{resp, err}
	}()
	leave := func() { // nobody waits for the primary any more
		cancel()
		go func() {
			if r := <-done; r.err == nil {
				r.resp.Body.Close()
			}
		}()
	}
	deadline := time.NewTimer(t.monitor.Deadline())
	defer deadline.Stop()
	for {
		trigger := "deadline"
		select {
		case r := <-done:
			resp, err := t.unless(ctx, r.resp, r.err)
			if err != nil || resp != r.resp {
				cancel()
				return resp, err
			}
			resp.Body = &releasing{resp.Body, cancel}
			return resp, nil
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		case <-deadline.C:
			if !v.reference.awaited() {
				t.dereference(ctx)
			}
			if !dark && !(silent(t.ask) || t.holdsRecord(ctx)) || !t.doubts(ctx, false) {
				continue
			}
		case <-opened:
			opened, trigger, dark = nil, "breaker", true
			t.dereference(ctx)
			deadline.Reset(t.monitor.Deadline())
		}
		if resp := t.silently(ctx, trigger); resp != nil {
			leave()
			return resp, nil
		}
		if silent(t.ask) && t.monitor.Share() == 0 || dark && trigger == "deadline" {
			leave()
			return nil, errAway
		}
	}
}

// mayHold says whether the browser shows what it must to be let in without a person, and asks for what can be.
func (t *trip) mayHold() bool {
	v := t.v
	return !v.named && v.browser != "" && t.ask.Unplayable == "" && t.ask.Door != nil &&
		v.tenant.holds(v.navigation.HTTP).text(v.tenant.SessionCookies) != ""
}

// present finds what the browser may ask for, and makes that the artifact of the request. It is false where nothing is known.
func (t *trip) present(ctx context.Context) bool {
	v := t.v
	if t.ask.Artifact.Kind == session.Application {
		return true
	}
	if !t.mayHold() {
		return false
	}
	primary := v.tenant.holds(v.navigation.HTTP).text(v.tenant.SessionCookies)
	k := t.g.opened(ctx, v, t.g.browserKeys(v.tenant.Name, v.issuer.ID, v.browser, primary))
	if k == nil {
		return false
	}
	ask := *t.ask
	door := ask.Door
	if t.g.anyPort(ctx, v, &ask) {
		door = ask.AnyPort
	}
	ask.Artifact = flow.Artifact{Kind: session.Application, Value: k.Application(door...)}
	t.ask = &ask
	t.lookup = t.g.c.Seal.Lookup(session.Application, v.tenant.Name, v.issuer.ID, ask.Artifact.Value)
	t.place = t.lookup
	return true
}

// holdsRecord says whether the backup knows what the browser asks for.
func (t *trip) holdsRecord(ctx context.Context) bool {
	if !t.present(ctx) {
		return false
	}
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place)
	if err != nil || !st.Known {
		return false
	}
	t.grant = st.Grant.String()
	return true
}

// silently answers an authorization request without a person, or returns nil.
func (t *trip) silently(ctx context.Context, trigger string) *http.Response {
	if t.v.refusal != nil {
		return nil
	}
	if !t.present(ctx) {
		if t.v.refusal = flow.NotNow("no_browser"); t.ask.Unplayable != "" {
			t.v.refusal, trigger = flow.NotNow("not_playable"), t.ask.Unplayable
		}
		t.g.note(t.v, "refused", t.v.refusal.Code, trigger)
		return nil
	}
	t.g.asking.wait(ctx, t.place)
	if p := t.play(ctx, trigger); p.no == nil {
		t.g.browsers.dropped(t.g.browserID(t.v), t.v.begun)
		return p.resp
	}
	return nil
}

// hashOf splits traffic in a ramp.
func hashOf(browser string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(browser))
	return h.Sum32()
}

// silent says whether an authorization request wants no page.
func silent(ask *flow.Ask) bool { return slices.Contains(strings.Fields(ask.Params["prompt"]), "none") }

// tellApplication answers an authorization request that wants no page (prompt=none) with the protocol's error at the
// redirect URI (OpenID Connect Core, section 3.1.2.6). It is false where the primary was never seen to send people there.
func (g *Gateway) tellApplication(w http.ResponseWriter, r *http.Request, v *visit) bool {
	if v.navigation == nil || v.exchange == nil {
		return false
	}
	ask := v.exchange.Ask()
	if !silent(ask) || ask.Params["redirect_uri"] == "" || oauth.Signs(ask) {
		return false
	}
	st, err := g.c.Backup.Standing(r.Context(), v.tenant.Name, g.redirectPlace(v, ask))
	if err != nil || !st.Known {
		return false
	}
	code, rule := "temporarily_unavailable", "primary_away"
	if no := v.refusal; no != nil {
		switch rule = no.Code; {
		case no.Code == "revoked":
			code = "login_required"
		case no.Error == "interaction_required", no.Code == "max_age":
			code = "interaction_required"
		}
	}
	if code == "temporarily_unavailable" && g.withheld(v, r) {
		code = "interaction_required"
	}
	issuer := ""
	if string(v.issuer.object.Get("authorization_response_iss_parameter_supported")) == "true" {
		issuer = v.issuer.ID // RFC 9207
	}
	if v.refusal == nil { // else the line is there
		g.note(v, "refused", rule, "prompt_none")
	}
	reply := oauth.ErrorResponse(ask, issuer, code, "understudy: "+rule)
	if reply.Post != nil {
		return g.showPost(w, r, v, reply.Post) == nil
	}
	maps.Copy(w.Header(), reply.Header)
	w.WriteHeader(reply.Status)
	return true
}

// withheld says whether a frame at another site asks, in a browser that gives its cookies to none, as most do today, or that has
// none. Some keep others for frames, under which nobody ever signed in. Whether the person is let in shows when the application
// sends them here themselves, and that is what it must be told: libraries do so where interaction is required, and where sign-in
// is unavailable they do not.
func (g *Gateway) withheld(v *visit, r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Dest") == "iframe" && r.Header.Get("Sec-Fetch-Site") == "cross-site" && v.tenant.holds(r).text(v.tenant.SessionCookies) == "" &&
		(v.named || v.browser == "" || !g.seenAt(r.Context(), v, g.browserKeys(v.tenant.Name, v.issuer.ID, v.browser, "").Lookup))
}

// showPost draws the page that posts a response to the application.
func (g *Gateway) showPost(w http.ResponseWriter, r *http.Request, v *visit, p *flow.Post) error {
	f := page.FormPost{Tenant: v.tenant.DisplayName, Action: p.Action}
	for _, x := range p.Parameters {
		f.Parameters = append(f.Parameters, page.Parameter{Name: x[0], Value: x[1]})
	}
	err := g.pages.FormPost(w, r, f)
	if err != nil {
		g.c.Log.Error("a page cannot be drawn", "tenant", v.tenant.Name, "error", err)
	}
	return err
}

// ownCode answers the redemption of a code of the backup's.
func (t *trip) ownCode(ctx context.Context) *http.Response {
	v := t.v
	if t.ask.Own != "" {
		t.g.note(v, "refused", "own_code", t.ask.Own)
		return t.refuse(flow.NotNow("own_code"))
	}
	ask := *t.ask
	ask.Artifact.Kind = session.OwnCode
	t.ask = &ask
	t.place = t.g.c.Seal.Lookup(session.OwnCode, v.tenant.Name, v.issuer.ID, ask.Artifact.Value)
	return t.play(ctx, "own_code").resp
}

// releasing gives something back when a body has been read or left.
type releasing struct {
	io.ReadCloser
	release func()
}

func (r *releasing) Close() error {
	if r.release != nil {
		r.release()
		r.release = nil
	}
	return r.ReadCloser.Close()
}
