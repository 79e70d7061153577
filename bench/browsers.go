package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// browsers are people's browsers, each signed in to the application web at the bench's own primary. As sessions, each
// belongs to one connection.
type browsers struct {
	*sessions
	jars []jar
}

// jar is what a browser holds: the gateway's cookie, and the primary's.
type jar struct{ ours, primarys string }

// signInBrowsers makes n of them, and lets every second one in a second time: the primary replaces its cookies then.
func (s *sessions) signInBrowsers(ctx context.Context, n int, pause func() error) (*browsers, error) {
	b := &browsers{&sessions{addr: s.addr, host: s.host, path: s.path, turn: make([]int, len(s.turn))}, make([]jar, n)}
	// Two exchanges are learned of each: the redemption, and the browser.
	return b, inBursts(ctx, b.addr, len(b.turn), n, burst/2, pause,
		pass{"sign in with a browser", 1, func(i int) *call { return b.visit(i, byPrimary, fmt.Sprintf("&login_hint=%d", i)) }},
		pass{"come again with a browser", 2, func(i int) *call { return b.visit(i, byPrimary, "") }})
}

// visit is an authorization request of a browser that is answered at once, and the redemption of its code: confidential client,
// PKCE, state and nonce.
func (b *browsers) visit(i int, want check, more string) *call {
	verifier, state, nonce := rand.Text()+rand.Text(), rand.Text(), rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	target := fmt.Sprintf("%s?client_id=%s&response_type=code&scope=openid+email+profile&redirect_uri=%s&state=%s&nonce=%s&code_challenge=%s&code_challenge_method=S256%s",
		authPath, clientID, url.QueryEscape(redirect), state, nonce, base64.RawURLEncoding.EncodeToString(sum[:]), more)
	code := ""
	return &call{
		request: navigate(b.host, target, b.jars[i]),
		check: func(r *reply) (err error) {
			b.jars[i].take(r.header)
			code, err = codeOf(r, state)
			return err
		},
		then: func() *call {
			form := fmt.Sprintf("grant_type=authorization_code&code=%s&redirect_uri=%s&code_verifier=%s", url.QueryEscape(code), url.QueryEscape(redirect), verifier)
			return &call{request: post(b.host, b.path, basic, "", form), check: func(r *reply) error {
				if err := want.of(b.sessions, r.status, r.body); err != nil {
					return err
				}
				return about(text(r.body, "id_token"), i, nonce)
			}}
		},
	}
}

// load lets the browsers in again, in turn.
func (b *browsers) load(want check) load {
	return inTurn(b.addr, b.turn, len(b.jars), func(i int) *call { return b.visit(i, want, "") })
}

// codeOf is the code of an authorization response.
func codeOf(r *reply, state string) (string, error) {
	back, ok := strings.CutPrefix(r.header.Get("Location"), redirect+"?")
	if !ok || r.status != http.StatusFound {
		return "", fmt.Errorf("status %d and location %q: not back at the application: %.200s", r.status, r.header.Get("Location"), r.body)
	}
	q, err := url.ParseQuery(back)
	if err != nil || q.Get("state") != state || q.Get("code") == "" {
		return "", errors.New("an authorization response without its state or a code")
	}
	return q.Get("code"), nil
}

// about says what is wrong where an ID token is not about a user, or not for a request.
func about(idToken string, user int, nonce string) error {
	_, claims, _ := strings.Cut(idToken, ".")
	claims, _, _ = strings.Cut(claims, ".")
	c, err := base64.RawURLEncoding.DecodeString(claims)
	if err != nil {
		return fmt.Errorf("read the ID token: %w", err)
	}
	if sub, _ := subjectOf(fmt.Sprint(user)); text(c, "sub") != sub || text(c, "nonce") != nonce {
		return errors.New("the ID token is about somebody else, or has another nonce")
	}
	return nil
}

// take keeps the cookies that a reply sets.
func (j *jar) take(h http.Header) {
	for _, c := range (&http.Response{Header: h}).Cookies() {
		switch c.Name {
		case ourCookie:
			j.ours = c.Value
		case sessionCookie:
			j.primarys = c.Value
		}
	}
}

// ourCookie is the name of the gateway's cookie over plain HTTP on loopback.
const ourCookie = "understudy"

// navigate is what a browser sends when a person goes to a page.
func navigate(host, target string, j jar) []byte {
	var cookies []string
	for _, c := range [][2]string{{ourCookie, j.ours}, {sessionCookie, j.primarys}} {
		if c[1] != "" {
			cookies = append(cookies, c[0]+"="+c[1])
		}
	}
	line := ""
	if cookies != nil {
		line = "Cookie: " + strings.Join(cookies, "; ") + "\r\n"
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\n%s\r\n",
		target, host, line)
}
