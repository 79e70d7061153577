// Package coverage says what the backup could serve, by application and by resource: it counts what the gateway learned and
// could not learn, and makes a table of it.
//
// It owns the table and what is known of well-known applications. It keeps no session and no token, counts only what the
// primary approved, and is bounded whoever asks. It may not import gateway, backup or admin.
package coverage

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/session"
)

// Seen is one exchange that the primary approved.
type Seen struct {
	Tenant, Issuer string
	Client         string     // as the primary knows it
	Pseudonym      session.ID // stands for the client in the store
	Flow           string     // that goes on in an outage
	Auth           string     // how the client proves itself
	Who            session.ID // stands for the session; zero: it is the client itself
	Audiences      []string   // of the access token, "" where it names none; nil: there is none
	Asked          []string   // scope and resources; nil: that does not matter here
	Door           []string   // whatever else must be the same the next time; nil: nothing
	Person         bool       // it asked for a person, and would in an outage
	Address        string     // of the client's server; "": it has none
	Reason         string     // why it was not learned; "": it was
	Kept           bool       // the store knows of it, learned or not
	Alone          bool       // what the client may ask hangs on its secret or key
	Mute           bool       // no logout token for it can be signed here
}

const (
	maxRows      = 2000 // of applications of a tenant
	maxCells     = 2 * maxRows
	maxName      = 256 // characters of a name
	maxReasons   = 32
	maxAuth      = 8
	maxAudience  = 8 // resources of one token
	maxAddresses = 8 // of one application
	maxTenants   = 1000
	// idle is how long a row that nothing was seen of keeps its place where there are more.
	idle = session.Lifetime
)

// Book counts what was seen since it was made. Its methods are safe for concurrent use.
type Book struct {
	now   func() time.Time
	since time.Time

	mu      sync.Mutex // guards what follows
	tenants map[string]*pages
	notes   map[[3]string]string    // by tenant, issuer and client
	fetched map[[3]string]time.Time // by tenant, issuer and address: when the key set was last fetched from there
}

// pages are one tenant's.
type pages struct {
	applications map[place]*row
	resources    map[cell]*row
	full         uint64 // exchanges of applications and resources for which there was no place
	cleared      time.Time
}

// cell is an application's use of a resource.
type cell struct {
	place
	client string
}

// place is what a row is about. name is a client_id or an audience, "" where a token names none.
type place struct{ issuer, name, flow string }

type row struct {
	pseudonym session.ID
	auth      []string
	served    sketch
	lost      map[string]*sketch // by reason: what the store does not know of
	kept      map[string]*sketch // by reason: what it knows of
	asked     variety
	door      variety
	person    variety
	alone     bool     // see Seen
	mute      bool     // as it was kept last
	addresses []string // of its servers
	exchanges uint64
	last      time.Time
}

// NewBook makes an empty one.
func NewBook(now func() time.Time) *Book {
	return &Book{now: now, since: now(), tenants: map[string]*pages{}, notes: map[[3]string]string{}, fetched: map[[3]string]time.Time{}}
}

// maxNotes bounds the notes: strangers can make some.
const maxNotes = 2000

// Note keeps why authorization requests that name a client are not understood. It is in no table before the primary approves
// something for that client.
func (b *Book) Note(tenant, issuer, client, why string) {
	if len(client) > maxName || len(issuer) > maxName {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k := [3]string{tenant, issuer, client}
	if _, ok := b.notes[k]; !ok && len(b.notes) >= maxNotes {
		for old := range b.notes { // some other one
			delete(b.notes, old)
			break
		}
	}
	b.notes[k] = why
}

// Noted is what was noted, or "".
func (b *Book) Noted(tenant, issuer, client string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notes[[3]string{tenant, issuer, client}]
}

// Add counts an exchange. Only what the primary approved may be added: else strangers would fill the table.
func (b *Book) Add(s Seen) {
	if s.Client == "" || len(s.Client) > maxName || len(s.Issuer) > maxName {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.tenants[s.Tenant]
	if p == nil {
		if len(b.tenants) >= maxTenants {
			return
		}
		p = &pages{applications: map[place]*row{}, resources: map[cell]*row{}}
		b.tenants[s.Tenant] = p
	}
	who := s.who()
	r := find(b, p, p.applications, place{s.Issuer, s.Client, s.Flow}, maxRows)
	if r == nil {
		return
	}
	r.pseudonym, r.alone = s.Pseudonym, r.alone || s.Alone
	if s.Kept {
		r.mute = s.Mute
	}
	r.add(&s, who)
	if s.Address != "" && !slices.Contains(r.addresses, s.Address) && len(r.addresses) < maxAddresses {
		r.addresses = append(r.addresses, s.Address)
	}
	if s.Asked != nil {
		r.asked.add(hash(s.Asked))
	}
	if s.Door != nil {
		r.door.add(hash(s.Door))
		r.person.count(s.Person)
	}
	for _, name := range s.Audiences[:min(len(s.Audiences), maxAudience)] {
		if len(name) > maxName {
			continue
		}
		if r := find(b, p, p.resources, cell{place{s.Issuer, name, s.Flow}, s.Client}, maxCells); r != nil {
			r.add(&s, who)
		}
	}
}

// find finds a row, or makes one where there is a place. b.mu is held.
func find[K comparable](b *Book, p *pages, rows map[K]*row, at K, most int) *row {
	now := b.now()
	r := rows[at]
	if r == nil {
		if len(rows) >= most && now.Sub(p.cleared) > time.Minute {
			p.cleared = now
			for k, old := range rows {
				if now.Sub(old.last) > idle {
					delete(rows, k)
				}
			}
		}
		if len(rows) >= most {
			p.full++
			return nil
		}
		r = &row{lost: map[string]*sketch{}, kept: map[string]*sketch{}}
		rows[at] = r
	}
	r.last = now
	return r
}

// maxFetched bounds the addresses that are remembered; anybody may fetch a key set.
const maxFetched = 20_000

// Fetched notes that a key set was fetched.
func (b *Book) Fetched(tenant, issuer, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := [3]string{tenant, issuer, address}
	if _, ok := b.fetched[k]; !ok && len(b.fetched) >= maxFetched {
		for old := range b.fetched { // some other one
			delete(b.fetched, old)
			break
		}
	}
	b.fetched[k] = b.now()
}

// keeps is how long key sets are kept by what fetches them.
const keeps = 24 * time.Hour

// unread says whether the key set is known not to have been fetched from an address since a key was published. What was
// fetched before the book was made is not known: for a day nothing is said of it. b.mu is held.
func (b *Book) unread(tenant, issuer, address string, k Key) bool {
	if at, ok := b.fetched[[3]string{tenant, issuer, address}]; ok && !at.Before(k.Published) {
		return false
	}
	return !k.Published.Before(b.since) || b.now().Sub(b.since) > keeps
}

// who is the session as a number: that of the client itself is what it asks for.
func (s *Seen) who() uint64 {
	if s.Who.Zero() {
		return hash(append([]string{s.Client}, s.Asked...))
	}
	return binary.BigEndian.Uint64(s.Who[:])
}

func (r *row) add(s *Seen, who uint64) {
	r.exchanges++
	if !slices.Contains(r.auth, s.Auth) && s.Auth != "" && len(r.auth) < maxAuth {
		r.auth = append(r.auth, s.Auth)
	}
	if s.Reason == "" {
		r.served.add(who)
		return
	}
	by := r.lost
	if s.Kept {
		by = r.kept
	}
	if by[s.Reason] == nil {
		if len(by) >= maxReasons {
			return
		}
		by[s.Reason] = &sketch{}
	}
	by[s.Reason].add(who)
}

// Reasons that the table gives by itself.
const (
	OtherScopes     = "other_scopes"     // it asks for other scopes each time
	OtherParameters = "other_parameters" // it asks with other parameters each time
	AsksPerson      = "asks_person"      // it asks for a person each time
)

// Table is what a tenant's applications and resources may count on.
type Table struct {
	Since        time.Time `json:"since"` // what is not in the store is counted since then
	Applications []Row     `json:"applications"`
	Resources    []Row     `json:"resources"`
	// Full counts exchanges of applications and resources for which there was no place in the table.
	Full uint64 `json:"full,omitempty"`
}

// Row is an application's use of a flow, or a resource's.
type Row struct {
	Issuer      string   `json:"issuer"`
	Application string   `json:"application,omitempty"` // client_id
	Resource    string   `json:"resource,omitempty"`    // audience; "": the tokens name none
	Known       string   `json:"known,omitempty"`       // the name of a well-known one
	Expected    string   `json:"expected,omitempty"`    // what is known of that, where nothing was measured
	Flow        string   `json:"flow"`
	ClientAuth  []string `json:"clientAuth"`
	Exchanges   uint64   `json:"exchanges"` // that the primary approved, since the start
	Sessions    int      `json:"sessions"`
	Servable    int      `json:"servable"` // of these the backup could serve now
	Share       float64  `json:"share"`    // Servable of Sessions; 0 where there are none
	Why         []Why    `json:"why"`      // the others
	// Unread are addresses of the application's servers from which the key set was not fetched since the key that the backup signs
	// with was published: what keeps a key set that long refuses what the backup signs.
	Unread []string `json:"unread,omitempty"`
	Key    string   `json:"key,omitempty"` // that key
	// Logout says whether the application is told of a logout that is carried out in an outage; nil: no person is signed in to it by this
	// flow, or that was not asked (see [Table.Logouts]).
	Logout *Logout `json:"logout,omitempty"`

	person, mute bool
}

// Logout says how an application is told of logouts.
type Logout struct {
	Told []string `json:"told"` // BackChannel, FrontChannel; empty: it is not notified
	Mend string   `json:"mend,omitempty"`
}

// Ways to tell an application of a logout (OpenID Connect Back-Channel Logout, Front-Channel Logout).
const (
	BackChannel  = "back_channel"
	FrontChannel = "front_channel"
)

// Logouts puts into the table which applications are told of a logout in an outage. told says how an application would be, as far as
// configuration shows.
func (t *Table) Logouts(told func(issuer, application string) []string) {
	for i := range t.Applications {
		x := &t.Applications[i]
		if !x.person {
			continue
		}
		x.Logout = &Logout{Told: []string{}}
		mend := "set `backchannel_logout_uri` or `frontchannel_logout_uri` in `clients`"
		for _, how := range told(x.Issuer, x.Application) {
			if how == BackChannel && x.mute {
				mend = "the backup has no key for the algorithm of its ID tokens: use RS256 or ES256, or set `frontchannel_logout_uri` in `clients`"
				continue
			}
			x.Logout.Told = append(x.Logout.Told, how)
		}
		if len(x.Logout.Told) == 0 {
			x.Logout.Mend = mend
		}
	}
}

// Key is a key that the backup signs with.
type Key struct {
	ID        string
	Published time.Time
}

// Why says why sessions could not be served, and what to do.
type Why struct {
	Reason   string `json:"reason"`
	Sessions int    `json:"sessions"`
	Text     string `json:"text,omitempty"`
	Mend     string `json:"mend,omitempty"`
}

// Table makes a tenant's table. sessions is what the store knows of them, nil where there is none: then it is counted since the
// start. keys are those that sign now, by issuer. reason says of a code what it means and what to do.
func (b *Book) Table(tenant string, sessions map[session.Owner]session.Sessions, keys map[string]Key, reason func(code string) (text, mend string)) *Table {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := &Table{Since: b.since, Applications: []Row{}, Resources: []Row{}}
	p := b.tenants[tenant]
	if p == nil {
		return out
	}
	out.Full = p.full
	alone := map[session.ID]int{} // how many flows of a client hang on its secret or key: the store does not tell them apart
	for _, r := range p.applications {
		if r.alone {
			alone[r.pseudonym]++
		}
	}
	// kinds are what the sessions of an application hang on in the store; nil: the store does not tell.
	kinds := func(at place, r *row) []session.Kind {
		switch {
		case sessions == nil:
		case at.flow == refreshToken:
			return []session.Kind{session.RefreshToken}
		case at.flow == authorization:
			return []session.Kind{session.Application}
		case r.alone && alone[r.pseudonym] == 1:
			return []session.Kind{session.ClientSecret, session.ClientKey}
		}
		return nil
	}
	for at, r := range p.applications {
		x := Row{Issuer: at.issuer, Application: at.name, Flow: at.flow, Why: []Why{}, mute: r.mute}
		x.person = at.flow == refreshToken || at.flow == authorization
		r.measure(&x, r, kinds(at, r), sessions)
		x.finish(applications(at.name), reason)
		if k, ok := keys[at.issuer]; ok && x.Servable > 0 {
			for _, a := range r.addresses {
				if b.unread(tenant, at.issuer, a, k) {
					x.Unread, x.Key = append(x.Unread, a), k.ID
				}
			}
		}
		out.Applications = append(out.Applications, x)
	}
	rows := map[place]*Row{}
	for at, r := range p.resources {
		x := rows[at.place]
		if x == nil {
			x = &Row{Issuer: at.issuer, Resource: at.name, Flow: at.flow, Why: []Why{}}
			rows[at.place] = x
		}
		app, by := p.applications[place{at.issuer, at.client, at.flow}], []session.Kind(nil)
		if app == nil {
			app = r
		} else if app.exchanges == r.exchanges { // whatever it asks for is for this resource
			by = kinds(at.place, app)
		}
		r.measure(x, app, by, sessions)
	}
	for at, x := range rows {
		x.finish(resources(at.name), reason)
		out.Resources = append(out.Resources, *x)
	}
	order(out.Applications)
	order(out.Resources)
	return out
}

const (
	refreshToken  = "refresh_token"
	authorization = "authorization"
)

// measure adds to x what was measured. app is the row of the application. kinds are what the store knows of it; nil: it does not
// tell, and what was seen counts.
func (r *row) measure(x *Row, app *row, kinds []session.Kind, sessions map[session.Owner]session.Sessions) {
	x.Exchanges += r.exchanges
	for _, a := range r.auth {
		if !slices.Contains(x.ClientAuth, a) {
			x.ClientAuth = append(x.ClientAuth, a)
		}
	}
	servable := 0
	for _, k := range kinds {
		s := sessions[session.Owner{Client: app.pseudonym, Kind: k}]
		servable += s.Servable
		for code, n := range s.Unlearned {
			x.miss(code, n)
		}
	}
	served := r.served.count()
	missed := func(by map[string]*sketch) {
		for code, s := range by {
			x.miss(code, r.served.with(s)-served) // what was learned since is served
		}
	}
	missed(r.lost)
	if kinds == nil {
		servable = served
		missed(r.kept)
	}
	for _, v := range []struct {
		code string
		of   *variety
	}{{OtherScopes, &app.asked}, {OtherParameters, &app.door}, {AsksPerson, &app.person}} {
		if n := v.of.part(servable); n > 0 {
			x.miss(v.code, n)
			servable -= n
			break
		}
	}
	x.Sessions, x.Servable = x.Sessions+servable, x.Servable+servable
}

// miss counts sessions that could not be served.
func (x *Row) miss(code string, n int) {
	if n <= 0 {
		return
	}
	x.Sessions += n
	for i := range x.Why {
		if x.Why[i].Reason == code {
			x.Why[i].Sessions += n
			return
		}
	}
	x.Why = append(x.Why, Why{Reason: code, Sessions: n})
}

// finish puts the words to what was measured. k is what is known of it; nil: nothing.
func (x *Row) finish(k *Known, reason func(code string) (text, mend string)) {
	if x.ClientAuth = slices.Sorted(slices.Values(x.ClientAuth)); x.ClientAuth == nil {
		x.ClientAuth = []string{}
	}
	for i := range x.Why {
		w := &x.Why[i]
		w.Text, w.Mend = reason(w.Reason)
		if k != nil && k.Mend[w.Reason] != "" {
			w.Mend = k.Mend[w.Reason]
		}
	}
	slices.SortFunc(x.Why, func(a, b Why) int {
		if a.Sessions != b.Sessions {
			return b.Sessions - a.Sessions
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	if k != nil {
		x.Known = k.Name
	}
	if x.Sessions > 0 {
		x.Share = float64(x.Servable) / float64(x.Sessions)
	} else if k != nil {
		x.Expected = k.Expected()
	}
}

// order puts what is worst, and of that what concerns most, first.
func order(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int {
		if n := (b.Sessions - b.Servable) - (a.Sessions - a.Servable); n != 0 {
			return n
		}
		return strings.Compare(a.Application+a.Resource+"\x00"+a.Flow+"\x00"+a.Issuer, b.Application+b.Resource+"\x00"+b.Flow+"\x00"+b.Issuer)
	})
}
