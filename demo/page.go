package demo

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed page.html
var pageSource string

// page is the demo's page: what the application shows, and the buttons of the stage.
type page struct {
	a    *app
	host string // the only Host that is answered: others are somebody's attempt to reach the buttons
	t    *template.Template
}

const visitorCookie = "understudy_demo"

// servePage serves the page until ctx ends.
func servePage(ctx context.Context, s *stage, ln net.Listener, out io.Writer) error {
	c, err := newClient(ctx, s.gateway, s.primary, s.redirect)
	if err != nil {
		return err
	}
	t, err := template.New("page").Parse(pageSource)
	if err != nil {
		return err
	}
	a := &app{s: s, c: c, visitors: map[string]*visitor{}}
	p := &page{a: a, host: ln.Addr().String(), t: t}
	srv := &http.Server{Handler: p.handler(), ReadHeaderTimeout: 10 * time.Second}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return a.run(ctx) })
	eg.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	eg.Go(func() error {
		select {
		case <-ctx.Done():
			srv.Close()
			return nil
		case <-s.program.Done():
			srv.Close()
			return fmt.Errorf("understudy ended\n%s", s.logs())
		}
	})
	fmt.Fprintf(out, "The demo is at http://%s/ (Ctrl-C ends it).\n", p.host)
	return eg.Wait()
}

func (p *page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show)
	mux.HandleFunc("GET /login", p.login)
	mux.HandleFunc("GET /cb", p.callback)
	mux.HandleFunc("POST /logout", p.logout)
	mux.Handle("GET /bye", http.RedirectHandler("/", http.StatusSeeOther))
	mux.HandleFunc("POST /kill", p.do(func(_ context.Context, v *visitor) {
		if pid, err := p.a.s.kill(); err != nil {
			p.a.tell("", "The identity provider was not killed: %v.", err)
		} else if pid != 0 {
			p.a.tell("", "SIGKILL: the identity provider's process %d is gone.", pid)
		}
	}))
	mux.HandleFunc("POST /freeze", p.do(func(ctx context.Context, v *visitor) {
		if c, _ := p.a.s.state(); c != serving {
			return
		}
		if pid, err := p.a.s.freeze(ctx); err != nil {
			p.a.tell("", "The identity provider was not stopped: %v.", err)
		} else {
			p.a.tell("", "SIGSTOP: process %d takes requests and answers none.", pid)
		}
	}))
	mux.HandleFunc("POST /back", p.do(func(ctx context.Context, v *visitor) {
		if c, _ := p.a.s.state(); c != killed && c != frozen {
			return
		}
		if err := p.a.s.bringBack(context.WithoutCancel(ctx)); err != nil {
			p.a.tell("", "The identity provider did not come back: %v.", err)
		} else {
			p.a.tell("", "The identity provider is back.")
		}
	}))
	mux.HandleFunc("POST /revoke", p.do(p.revoke))
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != p.host {
			http.Error(w, "This is the demo's page; it is at http://"+p.host+"/.", http.StatusMisdirectedRequest)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// visitor finds the browser by its cookie, or gives it one.
func (p *page) visitor(w http.ResponseWriter, r *http.Request) *visitor {
	id := ""
	if c, err := r.Cookie(visitorCookie); err == nil {
		id = c.Value
	}
	v, isNew := p.a.visitor(id)
	if isNew {
		http.SetCookie(w, &http.Cookie{Name: visitorCookie, Value: v.id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
	return v
}

// do is a button: it acts and goes back to the page.
func (p *page) do(f func(context.Context, *visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := p.visitor(w, r)
		f(r.Context(), v)
		p.a.soon(v)
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func (p *page) login(w http.ResponseWriter, r *http.Request) {
	v := p.visitor(w, r)
	s := newSignIn()
	p.a.mu.Lock()
	v.signIn = &s
	p.a.mu.Unlock()
	http.Redirect(w, r, p.a.c.startURL(s), http.StatusSeeOther)
}

func (p *page) callback(w http.ResponseWriter, r *http.Request) {
	v := p.visitor(w, r)
	p.a.mu.Lock()
	s := v.signIn
	v.signIn = nil // once
	p.a.mu.Unlock()
	if s == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if t, err := p.a.c.finish(r.Context(), *s, r.URL.Query()); err != nil {
		p.a.tell(v.id, "The sign-in did not end well: %v.", err)
	} else {
		p.a.hold(v, t)
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// logout forgets the session here and, where the primary serves, ends it there (RP-Initiated Logout 1.0).
func (p *page) logout(w http.ResponseWriter, r *http.Request) {
	v := p.visitor(w, r)
	p.a.mu.Lock()
	t := v.tokens
	v.tokens, v.ended = nil, ""
	if t != nil {
		p.a.note(v.id, "%s signed out.", t.person())
	}
	p.a.mu.Unlock()
	to := "/"
	if c, _ := p.a.s.state(); t != nil && c == serving && p.a.c.logoutAt != "" {
		to = p.a.c.logoutAt + "?" + url.Values{
			"id_token_hint": {t.rawID}, "post_logout_redirect_uri": {afterLogout(p.a.s.redirect)},
		}.Encode()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// revoke ends every sign-in of the person.
func (p *page) revoke(ctx context.Context, v *visitor) {
	p.a.mu.Lock()
	t := v.tokens
	p.a.mu.Unlock()
	if t == nil {
		return
	}
	// Here first: that is durable, and holds whatever becomes of the primary.
	if err := p.a.s.revoke(ctx, t.id.Subject); err != nil {
		p.a.tell(v.id, "The revocation is not in force: %v.", err)
		return
	}
	where := "here; the identity provider is not there to be told"
	if c, _ := p.a.s.state(); c == serving && p.a.c.revoke(ctx, t.refresh) == nil {
		where = "here and at the identity provider"
	}
	p.a.tell(v.id, "%s's sign-ins were revoked, %s.", t.person(), where)
}

// view is what the page shows.
type view struct {
	Nonce, PrimaryName string
	Condition          condition
	PID                int

	SignedIn                       bool
	Name, Email, Initial, Ended    string
	Since                          string
	Backup                         bool // who issued the last token
	KID                            string
	Issued, Valid, Lifetime, Next  int // seconds
	ByPrimary, ByBackup, Failed    int
	Slowest                        int64 // milliseconds
	Way, Status, StatusKind, Title string
	Notes                          []line
}

type line struct{ At, Text string }

func (p *page) show(w http.ResponseWriter, r *http.Request) {
	v := p.visitor(w, r)
	d := p.view(v)
	var b bytes.Buffer
	if err := p.t.Execute(&b, d); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-"+d.Nonce+"'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(b.Bytes())
}

func (p *page) view(v *visitor) *view {
	a := p.a
	c, pid := a.s.state()
	d := &view{Nonce: randomText(), PrimaryName: a.s.primary.name, Condition: c, PID: pid}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := v.tokens; t != nil {
		now := time.Now()
		d.SignedIn, d.Name, d.Email, d.Backup = true, t.person(), t.claims.Email, t.byBackup()
		d.Initial = strings.ToUpper(string([]rune(d.Name)[:1]))
		d.KID = t.kid
		d.Since = v.since.Format("15:04:05")
		d.Issued, d.Valid = int(now.Sub(t.received).Seconds()), max(0, int(t.expires.Sub(now).Seconds()))
		d.Lifetime = max(1, int(t.expires.Sub(t.received).Round(time.Second).Seconds()))
		d.Next = max(0, int(v.next.Sub(now).Round(time.Second).Seconds()))
		d.ByPrimary, d.ByBackup, d.Failed, d.Slowest = v.primary, v.backup, v.failed, v.slowest.Milliseconds()
		d.Way = "primary"
		if d.Backup {
			d.Way = "backup"
		}
	}
	d.Ended = v.ended
	d.Status, d.StatusKind = status(c, d.Way)
	for i := len(a.notes) - 1; i >= 0 && len(d.Notes) < shownNotes; i-- {
		if n := a.notes[i]; n.visitor == "" || n.visitor == v.id {
			d.Notes = append(d.Notes, line{n.at.Format("15:04:05"), n.text})
		}
	}
	return d
}

// status is one sentence about what is going on, and its kind: "well", "away" or "held" (away, and nobody notices).
func status(c condition, way string) (sentence, kind string) {
	switch {
	case c == killed && way == "backup":
		return "The identity provider is dead. The backup answers in its place, and nobody was signed out.", "held"
	case c == frozen && way == "backup":
		return "The identity provider takes requests and answers none. The backup answers in its place.", "held"
	case c == starting:
		return "The identity provider is starting.", "away"
	case c == killed:
		return "The identity provider is dead.", "away"
	case c == frozen:
		return "The identity provider takes requests and answers none.", "away"
	case way == "backup":
		return "The identity provider is back. Traffic returns to it step by step.", "held"
	case way == "":
		return "The identity provider answers. Sign in to begin.", "well"
	}
	return "The identity provider answers. Understudy watches and learns the part.", "well"
}
