package coverage

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/session"
)

func id(s string) (i session.ID) {
	copy(i[:], s)
	h := hash([]string{s})
	for n := range 8 {
		i[n] = byte(h >> (8 * n))
	}
	return i
}

func explain(code string) (string, string) { return "text of " + code, "mend of " + code }

// clock is a time that tests set.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newBook() (*Book, *clock) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	return NewBook(c.now), c
}

// line is a row in short.
func (r *Row) line() string {
	var why []string
	for _, w := range r.Why {
		why = append(why, fmt.Sprintf("%d %s", w.Sessions, w.Reason))
	}
	return fmt.Sprintf("%s%s %s %v %d/%d %s", r.Application, r.Resource, r.Flow, r.ClientAuth, r.Servable, r.Sessions, strings.Join(why, ", "))
}

func lines(rows []Row) (out []string) {
	for i := range rows {
		out = append(out, rows[i].line())
	}
	return out
}

func want(t *testing.T, rows []Row, wanted ...string) {
	t.Helper()
	if got := lines(rows); !slices.Equal(got, wanted) {
		t.Errorf("the table is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

func TestTable(t *testing.T) {
	web := Seen{Tenant: "staff", Issuer: "https://i", Client: "web", Pseudonym: id("web"), Flow: "refresh_token", Auth: "client_secret_basic", Who: id("s1"), Audiences: []string{"api", "files"}, Kept: true}
	with := func(s Seen, f func(*Seen)) Seen { f(&s); return s }
	owner := func(kind session.Kind) session.Owner { return session.Owner{Client: id("web"), Kind: kind} }
	for _, c := range []struct {
		name      string
		seen      []Seen
		store     map[session.Owner]session.Sessions
		apps, res []string
	}{
		{"no store: a session is one", []Seen{web, web, with(web, func(s *Seen) { s.Who = id("s2") })}, nil,
			[]string{"web refresh_token [client_secret_basic] 2/2 "},
			[]string{"api refresh_token [client_secret_basic] 2/2 ", "files refresh_token [client_secret_basic] 2/2 "}},
		{"no store: unlearned, then learned", []Seen{with(web, func(s *Seen) { s.Reason = "cnf" }), web, with(web, func(s *Seen) { s.Who, s.Reason = id("s2"), "cnf" })}, nil,
			[]string{"web refresh_token [client_secret_basic] 1/2 1 cnf"},
			[]string{"api refresh_token [client_secret_basic] 1/2 1 cnf", "files refresh_token [client_secret_basic] 1/2 1 cnf"}},
		{"the store counts, and what left no trace is added",
			[]Seen{with(web, func(s *Seen) { s.Audiences = nil }), with(web, func(s *Seen) { s.Who, s.Reason, s.Kept, s.Audiences = id("s2"), "no_session_cookie", false, nil })},
			map[session.Owner]session.Sessions{owner(session.RefreshToken): {Servable: 7, Unlearned: map[string]int{"password": 2}}},
			[]string{"web refresh_token [client_secret_basic] 7/10 2 password, 1 no_session_cookie"}, nil},
		{"the store has none any more", []Seen{with(web, func(s *Seen) { s.Audiences = nil })}, map[session.Owner]session.Sessions{},
			[]string{"web refresh_token [client_secret_basic] 0/0 "}, nil},
		{"two flows of one secret are counted live",
			[]Seen{
				{Tenant: "staff", Client: "web", Pseudonym: id("web"), Flow: "client_credentials", Asked: []string{"a"}, Kept: true, Alone: true},
				{Tenant: "staff", Client: "web", Pseudonym: id("web"), Flow: "token_exchange", Asked: []string{"b"}, Kept: true, Alone: true},
			},
			map[session.Owner]session.Sessions{owner(session.ClientSecret): {Servable: 2}},
			[]string{"web client_credentials [] 1/1 ", "web token_exchange [] 1/1 "}, nil},
		{"one is counted by the store", []Seen{{Tenant: "staff", Client: "web", Pseudonym: id("web"), Flow: "client_credentials", Asked: []string{"a"}, Kept: true, Alone: true}},
			map[session.Owner]session.Sessions{owner(session.ClientSecret): {Servable: 2}, owner(session.ClientKey): {Servable: 1}},
			[]string{"web client_credentials [] 3/3 "}, nil},
		{"a resource has what the store knows of an application that asks for no other",
			[]Seen{
				web, {Tenant: "staff", Issuer: "https://i", Client: "cli", Pseudonym: id("cli"), Flow: "refresh_token", Auth: "none", Who: id("s1"), Audiences: []string{"api"}, Kept: true},
				{Tenant: "staff", Issuer: "https://i", Client: "cli", Pseudonym: id("cli"), Flow: "refresh_token", Auth: "none", Who: id("s1"), Audiences: []string{"other"}, Kept: true},
			},
			map[session.Owner]session.Sessions{
				owner(session.RefreshToken):                     {Servable: 7, Unlearned: map[string]int{"password": 2}},
				{Client: id("cli"), Kind: session.RefreshToken}: {Servable: 5},
			},
			[]string{"web refresh_token [client_secret_basic] 7/9 2 password", "cli refresh_token [none] 5/5 "},
			[]string{"api refresh_token [client_secret_basic none] 8/10 2 password", "files refresh_token [client_secret_basic] 7/9 2 password", "other refresh_token [none] 1/1 "}},
		{"another tenant's is not here", []Seen{with(web, func(s *Seen) { s.Tenant = "other" })}, nil, nil, nil},
		{"without a name", []Seen{with(web, func(s *Seen) { s.Client = "" })}, nil, nil, nil},
		{"too long a name", []Seen{with(web, func(s *Seen) { s.Client = strings.Repeat("x", 300) })}, nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := newBook()
			for _, s := range c.seen {
				b.Add(s)
			}
			got := b.Table("staff", c.store, nil, explain)
			want(t, got.Applications, c.apps...)
			want(t, got.Resources, c.res...)
		})
	}
}

// What is asked for anew each time was not approved when the outage comes.
func TestWhoAsksAnewEachTime(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		seen func(i int) Seen
		want string
	}{
		{"the same", 10, func(int) Seen { return Seen{Asked: []string{"a"}} }, "1/1 "},
		{"a few sets in turn", 20, func(i int) Seen { return Seen{Asked: []string{fmt.Sprint(i % 5)}} }, "5/5 "},
		{"three sets once", 3, func(i int) Seen { return Seen{Asked: []string{fmt.Sprint(i)}} }, "3/3 "},
		{"others each time", 10, func(i int) Seen { return Seen{Asked: []string{fmt.Sprint(i)}} }, "0/10 10 other_scopes"},
		{"others for ever", 500, func(i int) Seen { return Seen{Who: id("one"), Asked: []string{fmt.Sprint(i)}} }, "0/1 1 other_scopes"},
		{"other parameters", 10, func(i int) Seen { return Seen{Who: id("one"), Asked: []string{"a"}, Door: []string{fmt.Sprint(i)}} }, "0/1 1 other_parameters"},
		{"a person each time", 10, func(i int) Seen { return Seen{Who: id("one"), Asked: []string{"a"}, Door: []string{"d"}, Person: true} }, "0/1 1 asks_person"},
		{"a person at first", 10, func(i int) Seen {
			return Seen{Who: id("one"), Asked: []string{"a"}, Door: []string{"d"}, Person: i < 4}
		}, "1/1 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := newBook()
			for i := range c.n {
				s := c.seen(i)
				s.Tenant, s.Client, s.Flow = "staff", "app", "authorization"
				b.Add(s)
			}
			want(t, b.Table("staff", nil, nil, explain).Applications, "app authorization [] "+c.want)
		})
	}
}

func TestThePlacesAreBounded(t *testing.T) {
	b, c := newBook()
	for i := range maxRows + 10 {
		b.Add(Seen{Tenant: "staff", Client: fmt.Sprintf("c%05d", i), Flow: "refresh_token", Who: id("s"), Audiences: []string{"api"}})
	}
	got := b.Table("staff", nil, nil, explain)
	if len(got.Applications) != maxRows || got.Full != 10 || len(got.Resources) != 1 {
		t.Errorf("%d applications, %d without a place, %d resources", len(got.Applications), got.Full, len(got.Resources))
	}
	// Who was not seen for three days gives way.
	c.at = c.at.Add(idle + time.Hour)
	b.Add(Seen{Tenant: "staff", Client: "new", Flow: "refresh_token", Who: id("s")})
	want(t, b.Table("staff", nil, nil, explain).Applications, "new refresh_token [] 1/1 ")
	for i := range maxNotes + 10 {
		b.Note("staff", "i", fmt.Sprint(i), "request_object")
	}
	if len(b.notes) != maxNotes || b.Noted("staff", "i", fmt.Sprint(maxNotes+9)) != "request_object" || b.Noted("staff", "i", "nobody") != "" {
		t.Errorf("%d notes", len(b.notes))
	}
	for i := range maxTenants + 5 {
		b.Add(Seen{Tenant: fmt.Sprint(i), Client: "c"})
	}
	if len(b.tenants) != maxTenants {
		t.Errorf("%d tenants", len(b.tenants))
	}
	for i := range maxReasons + maxAuth {
		b.Add(Seen{Tenant: "staff", Client: "new", Flow: "refresh_token", Reason: fmt.Sprint(i), Auth: fmt.Sprint(i), Who: id("t")})
	}
	if r := b.Table("staff", nil, nil, explain).Applications[0]; len(r.Why) != maxReasons || len(r.ClientAuth) != maxAuth {
		t.Errorf("%d reasons, %d ways to authenticate", len(r.Why), len(r.ClientAuth))
	}
}

func TestSketch(t *testing.T) {
	for _, n := range []int{0, 1, 64, 65, 1000, 100_000} {
		var s, o sketch
		for i := range n {
			x := hash([]string{fmt.Sprint(i)})
			s.add(x)
			s.add(x)
			o.add(hash([]string{fmt.Sprint(i + n/2)}))
		}
		for what, x := range map[string][2]int{"count": {s.count(), n}, "with": {s.with(&o), n + n/2}, "with itself": {s.with(&s), s.count()}} {
			most := 0.25 * float64(x[1])
			if x[1] <= fewest || what == "with itself" {
				most = 0
			}
			if math.Abs(float64(x[0]-x[1])) > most {
				t.Errorf("%s of %d: %d, want %d", what, n, x[0], x[1])
			}
		}
	}
	// Some that are few and others that are many, both ways.
	var few, many sketch
	few.add(hash([]string{"x"}))
	for i := range 200 {
		many.add(hash([]string{fmt.Sprint(i)}))
	}
	if a, b := few.with(&many), many.with(&few); a != b || a < many.count() {
		t.Errorf("%d and %d", a, b)
	}
}

func TestText(t *testing.T) {
	b, _ := newBook()
	b.Add(Seen{Tenant: "staff", Issuer: "https://i", Client: "grafana", Flow: "authorization_code", Auth: "client_secret_basic", Who: id("s"), Reason: "no_refresh_token", Audiences: []string{""}})
	b.Add(Seen{Tenant: "staff", Issuer: "https://i", Client: "evil\x1b[2Jname", Flow: "refresh_token", Auth: "none", Who: id("s"), Audiences: []string{"https://graph.microsoft.com"}})
	b.Add(Seen{Tenant: "staff", Issuer: "https://i", Client: "prod-slack", Pseudonym: id("slack"), Flow: "refresh_token", Kept: true})
	var out bytes.Buffer
	b.Table("staff", nil, nil, explain).Text(&out)
	for _, s := range []string{"APPLICATION", "RESOURCE", "grafana", "1: text of no_refresh_token: set use_refresh_token = true", "evil\uFFFD[2Jname", "100 %", "(none named)", "https://graph.microsoft.com (Microsoft Graph)"} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("%q is not in\n%s", s, out.String())
		}
	}
	// What was measured beats what was expected; where nothing was, the latter is shown.
	if strings.Contains(out.String(), "expected") || strings.ContainsRune(out.String(), 0x1b) {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	b.Table("staff", map[session.Owner]session.Sessions{}, nil, explain).Text(&out)
	if !strings.Contains(out.String(), "expected: SAML 2.0, begun by the application, which is not answered here: use OpenID Connect") {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	b.Table("empty", nil, nil, explain).Text(&out)
	if !strings.Contains(out.String(), "none was seen yet") {
		t.Errorf("%s", out.String())
	}
}

// Each application that persons are signed in to is told of a logout, or stands there as one that is not.
func TestLogouts(t *testing.T) {
	b, _ := newBook()
	see := func(client, flow string, change func(*Seen)) {
		s := Seen{Tenant: "staff", Issuer: "https://i", Client: client, Flow: flow, Auth: "none", Who: id("s"), Kept: true}
		if change != nil {
			change(&s)
		}
		b.Add(s)
	}
	for _, client := range []string{"back", "front", "both", "neither", "mute", "mute-framed", "heard\x1b[2J"} {
		see(client, "refresh_token", func(s *Seen) { s.Mute = strings.HasPrefix(client, "mute") })
	}
	see("neither", "authorization", nil)
	see("service", "client_credentials", func(s *Seen) { s.Alone = true })
	configured := map[string][]string{
		"back": {BackChannel}, "front": {FrontChannel}, "both": {BackChannel, FrontChannel}, "mute": {BackChannel}, "mute-framed": {BackChannel, FrontChannel}, "service": {BackChannel},
	}
	table := b.Table("staff", nil, nil, explain)
	table.Logouts(func(issuer, client string) []string {
		if issuer != "https://i" {
			t.Errorf("issuer %q", issuer)
		}
		return configured[client]
	})
	have := map[string]string{}
	for _, r := range table.Applications {
		have[r.Application+" "+r.Flow] = r.Logout.String()
		if r.Logout != nil && (r.Logout.Mend == "") != (len(r.Logout.Told) > 0) {
			t.Errorf("%s: %+v", r.Application, r.Logout)
		}
	}
	want := map[string]string{
		"back refresh_token": "told", "front refresh_token": "told, by a frame", "both refresh_token": "told, by both channels", "neither refresh_token": "not notified",
		"neither authorization": "not notified", "mute refresh_token": "not notified", "mute-framed refresh_token": "told, by a frame", "heard\x1b[2J refresh_token": "not notified",
		"service client_credentials": "–",
	}
	if !maps.Equal(have, want) {
		t.Errorf("have %q\nwant %q", have, want)
	}
	lines := table.Untold()
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "heard\uFFFD[2J, neither: set `backchannel_logout_uri` or `frontchannel_logout_uri` in `clients`") && !strings.HasPrefix(lines[1], "heard\uFFFD[2J, neither: set") ||
		!slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "mute: the backup has no key for the algorithm") }) {
		t.Errorf("%q", lines)
	}
	var out bytes.Buffer
	table.Text(&out)
	if !strings.Contains(out.String(), "LOGOUT") || !strings.Contains(out.String(), "not notified") || strings.Count(out.String(), "Not notified of a logout in an outage") != 2 || strings.ContainsRune(out.String(), 0x1b) {
		t.Errorf("%s", out.String())
	}
	// Configured, and learned again with an algorithm that the backup has.
	see("mute", "refresh_token", nil)
	table = b.Table("staff", nil, nil, explain)
	table.Logouts(func(string, string) []string { return []string{BackChannel} })
	for _, r := range table.Applications {
		if r.Application == "mute" && r.Logout.String() != "told" {
			t.Errorf("mended: %+v", r.Logout)
		}
	}
	for i := range 30 {
		see(fmt.Sprintf("x%02d", i), "refresh_token", nil)
	}
	table = b.Table("staff", nil, nil, explain)
	table.Logouts(func(string, string) []string { return nil })
	if lines := table.Untold(); len(lines) != 1 || !strings.Contains(lines[0], " and 27 more: ") || strings.Count(lines[0], ",") != maxUntold-1 {
		t.Errorf("%q", lines)
	}
}

func TestKeysThatWereNotFetched(t *testing.T) {
	b, c := newBook()
	start := c.at
	seen := Seen{Tenant: "staff", Issuer: "https://i", Client: "web", Flow: "refresh_token", Who: id("s"), Address: "10.0.0.7"}
	b.Add(seen)
	seen.Client, seen.Address = "spa", ""
	b.Add(seen)
	for _, s := range []struct {
		name      string
		published time.Time
		act       func()
		unread    bool
	}{
		{"published before this began: not known", start.Add(-time.Hour), func() {}, false},
		{"published since", start, func() {}, true},
		{"fetched by another", start, func() { b.Fetched("staff", "https://i", "10.0.0.8") }, true},
		{"fetched", start, func() { b.Fetched("staff", "https://i", "10.0.0.7") }, false},
		{"a newer key", start.Add(time.Minute), func() {}, true},
		{"fetched again", start.Add(time.Minute), func() { c.at = start.Add(2 * time.Minute); b.Fetched("staff", "https://i", "10.0.0.7") }, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			s.act()
			table := b.Table("staff", nil, map[string]Key{"https://i": {"bk-1", s.published}}, explain)
			for _, r := range table.Applications {
				if got := len(r.Unread) > 0; got != (s.unread && r.Application == "web") {
					t.Errorf("%s: %v", r.Application, r.Unread)
				}
			}
			var out bytes.Buffer
			table.Text(&out)
			if strings.Contains(out.String(), "keys were not fetched from 10.0.0.7 since `bk-1` was published") != s.unread {
				t.Errorf("%s", out.String())
			}
		})
	}
	for i := range maxFetched + 10 {
		b.Fetched("staff", "https://i", fmt.Sprint(i))
	}
	if len(b.fetched) != maxFetched {
		t.Errorf("%d addresses", len(b.fetched))
	}
	// Of a key of before, it is known after a day.
	other, c := newBook()
	other.Add(Seen{Tenant: "staff", Issuer: "https://i", Client: "web", Flow: "refresh_token", Who: id("s"), Address: "10.0.0.7"})
	c.at = c.at.Add(keeps + time.Minute)
	if r := other.Table("staff", nil, map[string]Key{"https://i": {"bk-1", start.Add(-time.Hour)}}, explain).Applications[0]; len(r.Unread) != 1 {
		t.Errorf("a day later: %v", r.Unread)
	}
}
