package gateway

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// Parameters with which a request may be refused although the session goes on: it asks for a newer or a stronger sign-in, or for
// somebody else's.
var demanding = []string{"max_age", "acr_values", "claims", "id_token_hint", "login_hint"}

// unanswered keeps of a reply to an authorization request, which is no answer to it, that the primary wants the person: unless it shows
// that the reply was another's, who stands before a primary that is dead, or that the primary led to the answer by itself. Until that is
// known nobody is let in (see [undecided.wait]), and the reply waits for nothing.
func (g *Gateway) unanswered(ctx context.Context, v *visit, resp *http.Response, before holding) {
	x := v.begun
	if x.ask == nil || !asksPerson(x.ask, v.navigation, resp) {
		return
	}
	k, doors := g.letIn(ctx, v, x, before)
	if len(doors) == 0 {
		return
	}
	settled := g.asking.begin(doors)
	if settled == nil {
		g.wants(ctx, v, x, "interaction_required", k, doors)
		return
	}
	sure, leads := v.surely(resp), resp.StatusCode/100 == 3
	g.late.wg.Add(1)
	go func() {
		defer g.late.wg.Done()
		defer settled()
		ctx, cancel := g.late.outlive(ctx)
		defer cancel()
		if !sure && v.tenant.monitors[flow.Token].Suspect(ctx) || leads && x.answeredSoon(ctx) {
			return
		}
		g.wants(ctx, v, x, "interaction_required", k, doors)
	}()
}

// surely says whether a reply is the primary's without doubt: what stands before one does not lead below the path of its issuer, and sets no
// cookie there. An issuer without a path has no such place.
func (v *visit) surely(resp *http.Response) bool {
	is, err := url.Parse(v.issuer.ID)
	if err != nil || strings.Trim(is.Path, "/") == "" {
		return false
	}
	at := strings.TrimSuffix(is.Path, "/") + "/"
	if resp.StatusCode/100 == 3 {
		to, err := url.Parse(resp.Header.Get("Location"))
		return err == nil && (to.Host == "" || v.tenant.publicHost(to.Host)) && strings.HasPrefix(to.Path, at) && to.Path != v.path
	}
	return slices.ContainsFunc(resp.Header["Set-Cookie"], func(line string) bool {
		c, err := http.ParseSetCookie(line)
		return err == nil && strings.HasPrefix(c.Path+"/", at)
	})
}

// throughFor is how long a primary may lead a browser through places of its own, before it is taken to lead to where the person is asked.
const throughFor = 3 * time.Second

// answeredSoon says whether a request is answered before a person can have done much.
func (x *begun) answeredSoon(ctx context.Context) bool {
	t := time.NewTimer(throughFor)
	defer t.Stop()
	select {
	case <-x.answered:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// undecided are the doors of which it is not known yet whether the primary wants the person there.
type undecided struct {
	mu    sync.Mutex // guards doors
	doors map[session.ID][]chan struct{}
}

// maxUndecided bounds the doors that wait for that.
const maxUndecided = 4096

// begin notes doors until settled is called; that is nil where too many wait.
func (a *undecided) begin(doors []session.ID) (settled func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.doors) >= maxUndecided {
		return nil
	}
	known := make(chan struct{})
	for _, d := range doors {
		a.doors[d] = append(a.doors[d], known)
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, d := range doors {
			left := slices.DeleteFunc(slices.Clone(a.doors[d]), func(c chan struct{}) bool { return c == known })
			if a.doors[d] = left; len(left) == 0 {
				delete(a.doors, d)
			}
		}
		close(known)
	}
}

// wait waits until it is known of a door.
func (a *undecided) wait(ctx context.Context, door session.ID) {
	a.mu.Lock()
	all := a.doors[door]
	a.mu.Unlock()
	for _, known := range all {
		select {
		case <-known:
		case <-ctx.Done():
			return
		}
	}
}

// asksPerson says whether a reply to an authorization request is none to the application: a page of the primary's on which somebody is
// asked something or refused, or the way to one. A page that sets no cookie may be anybody's who stands before a primary that is dead:
// whoever signs in is told apart by one. What is said of bytes that a primary does not take says nothing of the person whom another site's link
// had send them (design, law 1): and to whatever they do not like a 400 is said by many.
func asksPerson(ask *flow.Ask, r *flow.Request, resp *http.Response) bool {
	if silent(ask) || ask.Unplayable != "" || !oauth.Spelled(r) {
		return false
	}
	switch location := resp.Header.Get("Location"); {
	case resp.StatusCode/100 == 3: // but for an answer that cannot be read
		return location != "" && !strings.HasPrefix(location, ask.Params["redirect_uri"])
	case resp.StatusCode == http.StatusOK:
		return isHTML(resp.Header) && len(resp.Header["Set-Cookie"]) > 0
	}
	return resp.StatusCode == http.StatusBadRequest && oauth.OddNavigation(r) == ""
}

// wantsPerson keeps that the primary refused what the browser was let in to before, or wants the person first (OpenID Connect Core,
// section 3.1.2.6; RFC 6749, section 4.1.2.1): until it approves that again, nobody is let in there in an outage either. Where it said
// that nobody is signed in, that holds for all that this browser may open.
func (g *Gateway) wantsPerson(ctx context.Context, v *visit, x *begun, why string, before holding) {
	switch why {
	case "login_required", "interaction_required", "consent_required", "account_selection_required", "access_denied", "unauthorized_client":
		k, doors := g.letIn(ctx, v, x, before)
		g.wants(ctx, v, x, why, k, doors)
	}
}

// letIn are the doors of a request to which the browser was let in before, and its key. What the browser was never let in to shows
// nothing: an application may have a stricter sign-in of its own.
func (g *Gateway) letIn(ctx context.Context, v *visit, x *begun, before holding) (k *session.BrowserKey, doors []session.ID) {
	if x.ask.Door == nil || slices.ContainsFunc(demanding, func(name string) bool { return x.ask.Params[name] != "" }) {
		return nil, nil
	}
	primary := before.text(v.tenant.SessionCookies)
	if v.browser == "" || primary == "" {
		return nil, nil
	}
	of := &visit{tenant: v.tenant, issuer: x.issuer}
	if k = g.opened(ctx, of, g.browserKeys(v.tenant.Name, x.issuer.ID, v.browser, primary)); k == nil {
		return nil, nil
	}
	for _, door := range [][]string{x.ask.Door, x.ask.AnyPort} {
		if door == nil {
			continue
		}
		at := g.application(of, x.ask, k.Application(door...)).Lookup
		if st, err := g.c.Backup.Standing(ctx, v.tenant.Name, at); err != nil || st.Known && !st.Doubted {
			doors = append(doors, at)
		}
	}
	return k, doors
}

// wants keeps that the primary wants the person, or refused them, at doors.
func (g *Gateway) wants(ctx context.Context, v *visit, x *begun, why string, k *session.BrowserKey, doors []session.ID) {
	for _, at := range doors {
		var err error
		if why == "login_required" { // of the browser: what an application holds by itself may outlive that
			m := session.Mark{Of: session.OfDevice, ID: g.c.Seal.Device(v.tenant.Name, x.issuer.ID, k), At: v.began.UnixNano(), Cause: "refused", Told: true}
			err = g.c.Backup.Mark(context.WithoutCancel(ctx), v.tenant.Name, m)
		} else {
			err = g.c.Backup.Refused(context.WithoutCancel(ctx), &backup.Refused{
				Tenant: v.tenant.Name, Lookup: at, Error: why, Sent: v.began.UnixNano(),
				Client: g.c.Seal.Pseudonym("client", v.tenant.Name, x.issuer.ID, x.ask.Client.ID),
			})
		}
		if err != nil { // the backup plays no more then
			g.c.Log.Error("that the primary wants the person is not kept", "tenant", v.tenant.Name, "error", err)
		}
	}
}
