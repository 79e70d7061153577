package idp

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// token is the token endpoint (RFC 6749, sections 4.1.3 and 6).
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "the body is no form")
		return
	}
	grant := r.PostForm.Get("grant_type")
	if grant != "authorization_code" && grant != "refresh_token" {
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "this provider knows authorization_code and refresh_token")
		return
	}
	if !p.client(r) {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "the client is not known, or its secret is wrong")
		return
	}
	if grant == "refresh_token" {
		p.refresh(w, r)
	} else {
		p.redeem(w, r)
	}
}

// client checks client_secret_basic or client_secret_post.
func (p *Provider) client(r *http.Request) bool {
	id, secret, ok := r.BasicAuth()
	if ok {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil || r.PostForm.Has("client_secret") {
			return false
		}
	} else {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	return id == p.c.ClientID && subtle.ConstantTimeCompare([]byte(digest(secret)), []byte(digest(p.c.ClientSecret))) == 1
}

// redeem is the authorization code grant. A code that comes twice ends what it was redeemed for.
func (p *Provider) redeem(w http.ResponseWriter, r *http.Request) {
	f := r.PostForm
	p.codes.mu.Lock()
	defer p.codes.mu.Unlock()
	c := p.codes.m[f.Get("code")]
	switch {
	case c == nil || p.now().After(c.until):
		oauthError(w, http.StatusBadRequest, "invalid_grant", "the code is not known or too old")
		return
	case c.refresh != "":
		if err := p.end(c.sid); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		oauthError(w, http.StatusBadRequest, "invalid_grant", "the code was redeemed before")
		return
	}
	sum := sha256.Sum256([]byte(f.Get("code_verifier")))
	if base64.RawURLEncoding.EncodeToString(sum[:]) != c.challenge || f.Get("redirect_uri") != c.redirect {
		delete(p.codes.m, f.Get("code"))
		oauthError(w, http.StatusBadRequest, "invalid_grant", "the code_verifier or the redirect_uri is not the one of the request")
		return
	}
	token := random()
	c.refresh = digest(token)
	alive := false
	err := p.store.change(func(s *state) {
		if x := s.Sessions[c.sid]; x != nil && !x.Ended {
			alive = true
			s.Refresh[c.refresh] = &refresh{SID: c.sid, Scope: c.scope}
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !alive {
		oauthError(w, http.StatusBadRequest, "invalid_grant", "the session has ended")
		return
	}
	p.issue(w, c.sid, c.scope, c.nonce, token)
}

// refresh is the refresh_token grant. With rotation, a token that comes twice ends the session.
func (p *Provider) refresh(w http.ResponseWriter, r *http.Request) {
	presented, next := r.PostForm.Get("refresh_token"), r.PostForm.Get("refresh_token")
	var sid, scope, no string
	err := p.store.change(func(s *state) {
		t := s.Refresh[digest(presented)]
		if t == nil {
			no = "the refresh token is not known"
			return
		}
		sid, scope = t.SID, t.Scope
		x := s.Sessions[sid]
		switch {
		case x == nil || x.Ended:
			no = "the session has ended"
		case t.Used:
			x.Ended = true
			no = "the refresh token was used before"
		case p.c.Rotate:
			t.Used = true
			next = random()
			s.Refresh[digest(next)] = &refresh{SID: sid, Scope: scope}
		}
	})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case no != "":
		oauthError(w, http.StatusBadRequest, "invalid_grant", no)
		return
	}
	for _, s := range strings.Fields(r.PostForm.Get("scope")) {
		if !slices.Contains(strings.Fields(scope), s) {
			oauthError(w, http.StatusBadRequest, "invalid_scope", "more than was granted")
			return
		}
	}
	p.issue(w, sid, scope, "", next)
}

// issue writes the token response.
func (p *Provider) issue(w http.ResponseWriter, sid, scope, nonce, refreshToken string) {
	var who session
	p.store.look(func(s *state) { who = *s.Sessions[sid] })
	now := p.now()
	base := tokenClaims{
		Issuer: p.c.Issuer, Subject: "demo-" + who.Username, SID: sid, AuthTime: who.AuthTime,
		IssuedAt: now.Unix(), Expiry: now.Add(p.c.Lifetime).Unix(),
	}
	access := base
	access.Audience, access.Client, access.Scope, access.ID = p.c.Issuer, p.c.ClientID, scope, random()
	accessToken, err := p.sign("at+jwt", access)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	half := sha256.Sum256([]byte(accessToken))
	id := base
	id.Audience, id.Nonce, id.AtHash = p.c.ClientID, nonce, base64.RawURLEncoding.EncodeToString(half[:16])
	id.Name, id.Username, id.Email = people[who.Username], who.Username, who.Username+"@demo.example"
	idToken, err := p.sign("JWT", id)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, struct {
		AccessToken  string `json:"access_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int64  `json:"expires_in"`
		RefreshToken string `json:"refresh_token"`
		IDToken      string `json:"id_token"`
		Scope        string `json:"scope"`
	}{accessToken, "Bearer", int64(p.c.Lifetime.Seconds()), refreshToken, idToken, scope})
}

// revoke is RFC 7009: it ends the session of a refresh token. Of a token that is not known it says the same.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "the body is no form")
		return
	}
	if !p.client(r) {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "the client is not known, or its secret is wrong")
		return
	}
	err := p.store.change(func(s *state) {
		if t := s.Refresh[digest(r.PostForm.Get("token"))]; t != nil && s.Sessions[t.SID] != nil {
			s.Sessions[t.SID].Ended = true
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// userinfo is OpenID Connect Core, section 5.3.
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	var c tokenClaims
	if ok {
		var expired bool
		var err error
		c, expired, err = p.open(token, "at+jwt")
		ok = err == nil && !expired && c.Audience == p.c.Issuer
	}
	var who *session
	if ok {
		p.store.look(func(s *state) {
			if x := s.Sessions[c.SID]; x != nil && !x.Ended {
				y := *x
				who = &y
			}
		})
	}
	if who == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="demo-idp", error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Subject  string `json:"sub"`
		Name     string `json:"name"`
		Username string `json:"preferred_username"`
		Email    string `json:"email"`
	}{c.Subject, people[who.Username], who.Username, who.Username + "@demo.example"})
}
