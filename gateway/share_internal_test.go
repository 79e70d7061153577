package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// asked is a backup that is only asked what is known: what else were asked of it would be a fault.
type asked struct {
	Backup
	standing backup.Standing
	err      error
	order    []string // what was done with it
}

func (b *asked) Standing(context.Context, string, session.ID) (backup.Standing, error) {
	return b.standing, b.err
}

func (b *asked) Held(context.Context, string, session.ID) (backup.Held, error) {
	b.order = append(b.order, "held")
	return backup.Held{}, nil
}

func (b *asked) Learn(_ context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	b.order = append(b.order, "learn")
	return make([]backup.Outcome, len(ls)), nil
}

// asking is a gateway in front of nobody.
func asking(t *testing.T, b Backup, now func() time.Time) *Gateway {
	t.Helper()
	seal, err := session.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{c: Config{Backup: b, Seal: seal, Log: slog.New(slog.DiscardHandler), Now: now}, Counts: newCounts(), late: newLate(now), browsers: newBrowsers(now)}
	g.learner = newLearner(g)
	return g
}

// The answer to a grant in doubt is given again for the request that is equal byte by byte in body and proof, while that is under way,
// for seconds, and not once the grant is over, or it cannot be known whether it is.
func TestWhatIsAnsweredAgain(t *testing.T) {
	const body = "grant_type=refresh_token&refresh_token=rt&client_id=spa"
	one, two := &x509.Certificate{Raw: []byte("one")}, &x509.Certificate{Raw: []byte("two")}
	for name, c := range map[string]struct {
		again func(r *flow.Request)
		then  func(b *asked)
		over  bool // the exchange
		after time.Duration
		want  bool
	}{
		"the very request":      {want: true},
		"another User-Agent":    {again: func(r *flow.Request) { r.HTTP.Header.Set("User-Agent", "b") }, want: true},
		"a moment later":        {after: shareFor, want: true},
		"too late":              {after: shareFor + 1},
		"another byte":          {again: func(r *flow.Request) { r.Body = []byte(body[:len(body)-1] + "b") }},
		"a byte less":           {again: func(r *flow.Request) { r.Body = r.Body[:len(body)-1] }},
		"a byte more":           {again: func(r *flow.Request) { r.Body = []byte(body + "&") }},
		"another secret":        {again: func(r *flow.Request) { r.HTTP.Header.Set("Authorization", "Basic Yg==") }},
		"no secret":             {again: func(r *flow.Request) { r.HTTP.Header.Del("Authorization") }},
		"another proof":         {again: func(r *flow.Request) { r.HTTP.Header.Set("Dpop", "y") }},
		"a proof more":          {again: func(r *flow.Request) { r.HTTP.Header.Add("Dpop", "x") }},
		"another content type":  {again: func(r *flow.Request) { r.HTTP.Header.Set("Content-Type", "application/json") }},
		"another origin":        {again: func(r *flow.Request) { r.HTTP.Header.Set("Origin", "https://evil.example") }},
		"another certificate":   {again: func(r *flow.Request) { r.HTTP.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{two}} }},
		"no certificate":        {again: func(r *flow.Request) { r.HTTP.TLS = nil }},
		"another of a proxy's":  {again: func(r *flow.Request) { r.Certificate.Thumbprint = "other" }},
		"revoked meanwhile":     {then: func(b *asked) { b.standing.Revoked = true }},
		"ended at the primary":  {then: func(b *asked) { b.standing.Told = true }},
		"refused meanwhile":     {then: func(b *asked) { b.standing.Doubted = true }},
		"nobody knows":          {then: func(b *asked) { b.err = errors.New("the disk is gone") }},
		"the exchange is over":  {over: true},
		"known, and not marked": {then: func(b *asked) { b.standing.Known = true }, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			b := &asked{}
			g := asking(t, b, func() time.Time { return now })
			trip := func(change func(*flow.Request)) *trip {
				r := &flow.Request{HTTP: httptest.NewRequest(http.MethodPost, "/token", nil), Body: []byte(body)}
				r.HTTP.Header = http.Header{"Authorization": {"Basic YQ=="}, "Dpop": {"x"}, "Content-Type": {"application/x-www-form-urlencoded"}, "User-Agent": {"a"}}
				r.HTTP.TLS, r.Certificate.Thumbprint = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{one}}, "seen"
				if change != nil {
					change(r)
				}
				return &trip{g: g, v: &visit{tenant: &Tenant{Name: "t"}, endpoint: flow.Token, request: r}, place: session.ID{1}}
			}
			finish := g.late.begin(session.ID{1})
			defer finish()
			first := trip(nil)
			first.share(played{resp: first.reply(http.StatusOK, http.Header{}, []byte("tokens"))})
			if c.then != nil {
				c.then(b)
			}
			if c.over {
				finish()
			}
			now = now.Add(c.after)
			resp := trip(c.again).repeated(t.Context())
			if (resp != nil) != c.want {
				t.Fatalf("answered %v", resp != nil)
			}
			if resp != nil {
				if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "tokens" {
					t.Errorf("%s %v", got, err)
				}
			}
		})
	}
}
