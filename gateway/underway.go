package gateway

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// browsers ties authorization requests, the redirects that answer them and the redemptions of their codes together. It is in
// memory: who was under way when the process ended is learned at the next sign-in.
type browsers struct {
	now func() time.Time

	mu       sync.Mutex                          // guards what follows
	begun    map[session.ID]*waiting             // by browser
	from     map[string]int                      // how many browsers of an address wait
	codes    map[session.ID]*tied                // by the code's look-up
	opened   map[session.ID]*session.BrowserKey  // what was opened or made a moment ago, by look-up
	newest   map[session.ID]*session.BrowserKey  // and as it was learned last, by device
	requests map[session.ID]url.Values           // that were pushed, by whose they are and request_uri
	users    map[session.ID]user                 // who signed in a moment ago
	former   map[session.ID]session.ArtifactKeys // what the browser held before the primary replaced its cookies
	leaving  map[session.ID]*leaving             // by browser
	expires  []expiry
}

// begun is an authorization request that was not answered yet.
type begun struct {
	ask     *flow.Ask // nil: it lies at a URL and is not here yet
	issuer  *issuer
	request *flow.Request
	at      time.Time
	// answered is closed when the primary's answer was found.
	answered chan struct{}
}

// waiting are the requests of one browser.
type waiting struct {
	from     string // the address of the first
	form     bool   // the answer to one of them comes in a page
	requests []*begun
}

// tied is an authorization request with its answer.
type tied struct {
	*begun
	browser string
	was     session.ID // what the browser held before, where this answer replaced it; zero: it did not
	after   holding
	answer  *oauth.Redirected
	status  int
	// received is when the answer came.
	received time.Time
	// direct is set where it came at once, from the authorization endpoint: nobody can have signed in anew.
	direct bool
	// userInfo goes with what is sealed (see [session.UserInfoKey]).
	userInfo session.UserInfoKey
}

type expiry struct {
	at     time.Time
	forget func()
}

const (
	beginFor  = time.Hour        // a person may take time to sign in
	tiedFor   = 10 * time.Minute // most that a code lives (RFC 6749, section 4.1.2)
	recentFor = time.Minute      // until what was learned is kept
	maxBegun  = 8                // requests of one browser
	// maxBegunFrom bounds the browsers of one address: a stranger does not take the places of others.
	maxBegunFrom = 5_000
	maxTied      = 50_000 // of each map
)

func newBrowsers(now func() time.Time) *browsers {
	return &browsers{
		now: now, begun: map[session.ID]*waiting{}, from: map[string]int{}, codes: map[session.ID]*tied{}, opened: map[session.ID]*session.BrowserKey{},
		newest: map[session.ID]*session.BrowserKey{},
		former: map[session.ID]session.ArtifactKeys{}, users: map[session.ID]user{}, requests: map[session.ID]url.Values{}, leaving: map[session.ID]*leaving{},
	}
}

// run forgets what is over.
func (b *browsers) run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			b.sweep()
		}
	}
}

func (b *browsers) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, all := b.now(), b.expires
	b.expires = nil
	for _, e := range all {
		if now.Before(e.at) {
			b.expires = append(b.expires, e)
		} else {
			e.forget()
		}
	}
	for id, w := range b.begun {
		if now.Sub(w.requests[len(w.requests)-1].at) >= beginFor {
			b.over(id)
		}
	}
}

// later lets something be forgotten. b.mu is held.
func (b *browsers) later(d time.Duration, forget func()) {
	b.expires = append(b.expires, expiry{b.now().Add(d), forget})
}

// begin remembers an authorization request that goes to the primary. It is false where too many wait.
func (b *browsers) begin(id session.ID, x *begun) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.begun[id]
	if w == nil {
		from := x.request.Address
		if b.from[from] >= maxBegunFrom {
			return false
		}
		if len(b.begun) >= maxTied {
			for other := range b.begun { // any one makes room
				b.over(other)
				break
			}
		}
		w = &waiting{from: from}
		b.begun[id] = w
		b.from[from]++
	}
	if len(w.requests) >= maxBegun {
		w.requests = w.requests[1:]
	}
	w.form = w.form || x.ask != nil && oauth.ByForm(x.ask)
	w.requests = append(w.requests[:len(w.requests):len(w.requests)], x)
	return true
}

// asks notes what a request asks for that lay at a URL.
func (b *browsers) asks(id session.ID, x *begun, ask *flow.Ask) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x.ask = ask
	if w := b.begun[id]; w != nil && slices.Contains(w.requests, x) {
		w.form = w.form || oauth.ByForm(ask)
	}
}

// dropped forgets one request, which is answered otherwise.
func (b *browsers) dropped(id session.ID, gone *begun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.begun[id]
	if w == nil {
		return
	}
	w.requests = slices.DeleteFunc(slices.Clone(w.requests), func(x *begun) bool { return x == gone })
	if len(w.requests) == 0 {
		b.over(id)
	}
}

// over forgets what a browser waits for. b.mu is held.
func (b *browsers) over(id session.ID) {
	from := b.begun[id].from
	delete(b.begun, id)
	if b.from[from]--; b.from[from] <= 0 {
		delete(b.from, from)
	}
}

// unclear forgets the requests of a browser that have a state, or could have it; nil: all of them.
func (b *browsers) unclear(id session.ID, state *string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.begun[id]
	if w == nil {
		return
	}
	w.requests = slices.DeleteFunc(slices.Clone(w.requests), func(x *begun) bool {
		return state == nil || x.ask == nil || x.ask.Params["state"] == *state
	})
	if len(w.requests) == 0 {
		b.over(id)
	}
}

// match finds the request that a response answers.
func (b *browsers) match(id session.ID, read func(*flow.Ask) *oauth.Redirected) (*begun, *oauth.Redirected) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.begun[id]
	if w == nil {
		return nil, nil
	}
	var found *begun
	var answer *oauth.Redirected
	var left []*begun
	same := true
	for _, x := range w.requests {
		var r *oauth.Redirected
		if x.ask != nil {
			r = read(x.ask)
		}
		if r == nil {
			left = append(left, x)
			continue
		}
		same = same && (found == nil || slices.Equal(found.ask.Door, x.ask.Door) && found.issuer == x.issuer)
		found, answer = x, r
	}
	if found == nil {
		return nil, nil
	}
	if same { // the others are answered yet
		left = slices.DeleteFunc(slices.Clone(w.requests), func(x *begun) bool { return x == found })
	}
	if w.requests = left; len(left) == 0 {
		b.over(id)
	}
	if !same { // requests without a state that ask for different things: which one this is nobody can tell
		return nil, nil
	}
	if found.answered != nil {
		close(found.answered)
	}
	return found, answer
}

// awaitsForm says whether an answer to a request of the browser's may come in a page.
func (b *browsers) awaitsForm(id session.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.begun[id]
	return w != nil && w.form
}

// put remembers what a code came of.
func (b *browsers) put(code session.ID, x *tied) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.codes) < maxTied {
		b.codes[code] = x
		b.later(tiedFor, func() { delete(b.codes, code) })
	}
}

// replaced remembers what a browser held before its cookies were replaced.
func (b *browsers) replaced(after session.ID, before session.ArtifactKeys) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.former) < maxTied {
		b.former[after] = before
		b.later(tiedFor, func() { delete(b.former, after) })
	}
}

// take returns what a redeemed code came of, once; nil where that is not known.
func (b *browsers) take(code session.ID) *tied {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.codes[code]
	delete(b.codes, code)
	return x
}

// before returns what a browser held before.
func (b *browsers) before(lookup session.ID) (session.ArtifactKeys, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ks, ok := b.former[lookup]
	return ks, ok
}

// recent is the key behind a look-up that was kept a moment ago.
func (b *browsers) recent(lookup session.ID) *session.BrowserKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened[lookup]
}

func (b *browsers) remember(lookup session.ID, k *session.BrowserKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.opened) < maxTied {
		b.opened[lookup] = k
		b.later(recentFor, func() {
			if b.opened[lookup] == k {
				delete(b.opened, lookup)
			}
		})
	}
}

// lets notes that a person was let into an application with a browser. Tabs may have been let into others at once, each with cookies
// of its own.
func (b *browsers) lets(device session.ID, k *session.BrowserKey, o session.Opened) *session.BrowserKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last := b.newest[device]; last != nil {
		k = last
	}
	if k = k.With(o); len(b.newest) < maxTied {
		b.newest[device] = k
		b.later(recentFor, func() {
			if b.newest[device] == k {
				delete(b.newest, device)
			}
		})
	}
	return k
}

func (b *browsers) user(whose session.ID) user {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.users[whose]
}

func (b *browsers) uses(whose session.ID, u user) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.users) < maxTied {
		b.users[whose] = u
		b.later(recentFor, func() {
			if b.users[whose] == u {
				delete(b.users, whose)
			}
		})
	}
}

// close forgets what a browser waits for and what would be learned of it, but for the authorization request whose reply it is: it finds
// a session that is over, and a person signs in. nil: there is none.
func (b *browsers) close(id session.ID, browser string, begins *begun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.begun[id]; w != nil {
		w.requests = slices.DeleteFunc(slices.Clone(w.requests), func(x *begun) bool { return x != begins })
		if len(w.requests) == 0 {
			b.over(id)
		}
	}
	maps.DeleteFunc(b.codes, func(_ session.ID, x *tied) bool { return x.browser == browser })
	clear(b.opened) // whose each is does not show; what is kept is read again
}
