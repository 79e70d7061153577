package idp

import (
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pages embed.FS

const cookie = "demo_idp"

// codes are the authorization codes that were not redeemed yet; they live in memory, for a minute.
type codes struct {
	mu sync.Mutex // guards m
	m  map[string]*code
}

type code struct {
	sid, scope, nonce, challenge, redirect string
	until                                  time.Time
	refresh                                string // digest of what it was redeemed for
}

// authorize is the authorization endpoint with its sign-in page (RFC 6749, section 4.1; RFC 7636).
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	q := r.URL.Query()
	if q.Get("client_id") != p.c.ClientID || q.Get("redirect_uri") != p.c.RedirectURI {
		p.page(w, http.StatusBadRequest, pageData{Error: "This application is not known to the demo's identity provider."})
		return
	}
	refuse := func(code string) { p.back(w, r, url.Values{"error": {code}}) }
	switch {
	case q.Get("response_type") != "code":
		refuse("unsupported_response_type")
		return
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		refuse("invalid_request")
		return
	case !slices.Contains(strings.Fields(q.Get("scope")), "openid"):
		refuse("invalid_scope")
		return
	}
	if r.Method == http.MethodPost {
		p.signIn(w, r)
		return
	}
	if sid := p.browser(r); sid != "" && q.Get("prompt") != "login" {
		p.grant(w, r, sid)
		return
	}
	if q.Get("prompt") == "none" {
		refuse("login_required")
		return
	}
	p.page(w, http.StatusOK, pageData{Form: true, Username: "alice", Password: Password})
}

// signIn takes the sign-in page's form.
func (p *Provider) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	name := r.PostFormValue("username")
	if people[name] == "" || r.PostFormValue("password") != Password {
		p.page(w, http.StatusOK, pageData{Form: true, Username: name, Error: "That is not a person of this demo, or not the password “" + Password + "”."})
		return
	}
	sid, value := random(), random()
	err := p.store.change(func(s *state) {
		s.Sessions[sid] = &session{Username: name, AuthTime: p.now().Unix()}
		s.Browsers[digest(value)] = sid
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: value, Path: Base, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	p.grant(w, r, sid)
}

// browser returns the living session of a browser, or "".
func (p *Provider) browser(r *http.Request) (sid string) {
	c, err := r.Cookie(cookie)
	if err != nil {
		return ""
	}
	p.store.look(func(s *state) {
		if id := s.Browsers[digest(c.Value)]; s.Sessions[id] != nil && !s.Sessions[id].Ended {
			sid = id
		}
	})
	return sid
}

// grant sends the browser back with a code.
func (p *Provider) grant(w http.ResponseWriter, r *http.Request, sid string) {
	q := r.URL.Query()
	value := random()
	p.codes.mu.Lock()
	if p.codes.m == nil {
		p.codes.m = map[string]*code{}
	}
	for k, c := range p.codes.m {
		if p.now().After(c.until) {
			delete(p.codes.m, k)
		}
	}
	p.codes.m[value] = &code{
		sid: sid, scope: q.Get("scope"), nonce: q.Get("nonce"), challenge: q.Get("code_challenge"),
		redirect: q.Get("redirect_uri"), until: p.now().Add(time.Minute),
	}
	p.codes.mu.Unlock()
	p.back(w, r, url.Values{"code": {value}})
}

// back redirects to the application.
func (p *Provider) back(w http.ResponseWriter, r *http.Request, v url.Values) {
	v.Set("iss", p.c.Issuer)
	if s := r.URL.Query().Get("state"); s != "" {
		v.Set("state", s)
	}
	to, err := withQuery(p.c.RedirectURI, v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, to, http.StatusSeeOther)
}

type pageData struct {
	Title, Error, Username, Password string
	Form                             bool
}

func (p *Provider) page(w http.ResponseWriter, status int, d pageData) {
	t, err := template.ParseFS(pages, "page.html")
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	t.Execute(w, d)
}

// logout ends the browser's session (OpenID Connect RP-Initiated Logout 1.0).
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	sid := p.browser(r)
	if hint := r.FormValue("id_token_hint"); hint != "" {
		c, _, err := p.open(hint, "JWT")
		if err != nil || c.Audience != p.c.ClientID {
			p.page(w, http.StatusBadRequest, pageData{Error: "The id_token_hint is not one of the demo's."})
			return
		}
		sid = c.SID
	}
	if sid != "" {
		if err := p.end(sid); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Path: Base, MaxAge: -1})
	to := r.FormValue("post_logout_redirect_uri")
	if to == "" || to != p.c.LogoutURI {
		p.page(w, http.StatusOK, pageData{Title: "You are signed out."})
		return
	}
	q := url.Values{}
	if s := r.FormValue("state"); s != "" {
		q.Set("state", s)
	}
	to, err := withQuery(to, q)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (p *Provider) end(sid string) error {
	return p.store.change(func(s *state) {
		if x := s.Sessions[sid]; x != nil {
			x.Ended = true
		}
	})
}
