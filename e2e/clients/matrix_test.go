package clients

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/idptest"
)

// What a client sees.
const (
	fromBackup = "backup"
	fromCopy   = "last good copy"
	anAnswer   = "429" // the primary's, as it came
	aPage      = "page"
)

// expected is what the design lets a client with a session that the backup knows see (docs/failures.md). A 429 is an answer, and so
// is a page that a person who is signed in gets where one may be asked: it may be the primary's own.
func expected(class, fault string) string {
	switch {
	case class == discovery || class == keySet:
		return fromCopy
	case fault == "429":
		return anAnswer
	case class == authorization && fault == "HTML with 200":
		return aPage
	}
	return fromBackup
}

// asks says whether a library asks a class of endpoints.
func (l library) asks(class string) bool { return class != userInfo || l.userInfo }

// enter opens a library anew and goes through a sign-in that a browser may know already.
func (l *lane) enter(ctx context.Context, r *rider) (string, error) {
	var err error
	if r.c, err = r.open(ctx, l.s, l.u); err != nil {
		return "", err
	}
	to, err := r.c.begin(ctx, "")
	if err != nil {
		return "", err
	}
	back, err := l.browser.Visit(ctx, to, redirect, map[string]string{"username": "alice", "password": "pw-alice"})
	if err != nil {
		return "", err
	}
	return r.c.finish(ctx, back)
}

// again opens the application anew in the browser that is signed in, once, and redeems what comes back.
func (l *lane) again(ctx context.Context, r *rider, prompt string) (string, error) {
	c, err := r.open(ctx, l.s, l.u)
	if err != nil {
		return "", err
	}
	to, err := c.begin(ctx, prompt)
	if err != nil {
		return "", err
	}
	before := l.cookies()
	resp, body, err := l.browser.Get(ctx, to)
	if err != nil {
		return "", err
	}
	if after := l.cookies(); after != before {
		return "", fmt.Errorf("the browser held %s, and holds %s", before, after)
	}
	switch back, err := resp.Location(); {
	case err == nil && strings.HasPrefix(back.String(), redirect+"?"):
		return signer(c.finish(ctx, back))
	case resp.StatusCode == http.StatusTooManyRequests:
		if s := resp.Header.Get("Retry-After"); s != limitedFor {
			return "", fmt.Errorf("Retry-After is %q", s)
		}
		return anAnswer, nil
	case resp.StatusCode == http.StatusOK && strings.Contains(body, "It works."):
		return aPage, nil
	}
	return "", fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
}

// cookies are what the browser holds of the primary's session, and of the gateway.
func (l *lane) cookies() string {
	var out []string
	for _, name := range []string{"KEYCLOAK_IDENTITY", "KEYCLOAK_SESSION", "AUTH_SESSION_ID", "__Host-understudy"} {
		out = append(out, name+"="+l.browser.Cookie(name))
	}
	return strings.Join(out, " ")
}

func signer(token string, err error) (string, error) {
	switch {
	case err != nil:
		return "", err
	case byBackup(token):
		return fromBackup, nil
	}
	return "primary", nil
}

// meet lets a library meet the lane's fault at a class, and says what it saw.
func (l *lane) meet(ctx context.Context, r *rider, class string) (string, error) {
	switch class {
	case discovery, keySet:
		token, err := l.enter(ctx, r)
		if err != nil || byBackup(token) {
			return "", fmt.Errorf("by the backup: %v; %w", byBackup(token), err)
		}
		return fromCopy, nil
	case authorization:
		return l.again(ctx, r, "")
	case silent:
		return l.again(ctx, r, "none")
	case token:
		saw, err := signer(r.c.refresh(ctx))
		return l.limited(ctx, "/protocol/openid-connect/token", saw, err)
	}
	saw, err := r.c.(informed).userInfo(ctx)
	if err == nil && saw == "alice@example.test" {
		saw = fromBackup // the primary does not answer there
	}
	return l.limited(ctx, "/protocol/openid-connect/userinfo", saw, err)
}

// limited says that a library's error came of a 429 with its Retry-After, where it did: libraries show that each in its own way.
func (l *lane) limited(ctx context.Context, path, saw string, err error) (string, error) {
	if err == nil || l.f.name != "429" {
		return saw, err
	}
	req, e := http.NewRequestWithContext(ctx, http.MethodPost, issuer(l.u)+path, strings.NewReader("grant_type=refresh_token&refresh_token=x&client_id=spa"))
	if e != nil {
		return "", e
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, e := l.u.Client().Do(req)
	if e != nil {
		return "", e
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != limitedFor {
		return "", fmt.Errorf("%d %v; %w", resp.StatusCode, resp.Header, err)
	}
	return anAnswer, nil
}

// patience is after how long a cell that did not end is ended.
const patience = 20 * time.Second

// set begins the lane's fault at a class. What must be seen by the gateway's own probe too before the backup answers, it sees.
func (l *lane) set(c class) error {
	f := l.f.Fault
	f.Match = c.match
	if l.f.name == "408" || l.f.name == "425" {
		probe := at("/token")
		f.Match = func(r *http.Request) bool { return c.match(r) || probe(r) }
	}
	return l.proxy.Set(f)
}

// cells lets each library meet the lane's fault at a class, and then waits until the primary serves.
func (l *lane) cells(ctx context.Context, b *book, c class) error {
	before := l.proxy.Done(l.f.Kind)
	if err := l.set(c); err != nil {
		return err
	}
	for _, r := range l.riders {
		if !r.asks(c.name) {
			continue
		}
		end := time.AfterFunc(patience, func() { l.proxy.Set(idptest.Fault{}) })
		saw, err := l.meet(ctx, r, c.name)
		if !end.Stop() {
			err = errors.Join(err, errors.New("it did not end"))
		}
		b.note(cell{r.name, c.name, l.f.name}, saw, err)
		if c.name == silent {
			saw, err := l.strange(ctx, r)
			b.noteNone(cell{r.name, c.name, l.f.name}, saw, err)
		}
	}
	if l.proxy.Done(l.f.Kind) == before {
		return errors.New("the fault was never met")
	}
	return l.home(ctx)
}

// back waits until each library has new tokens of the primary's, with the session that it had.
func (l *lane) back(ctx context.Context) error {
	for _, r := range l.riders {
		if err := eventually(r.name+" is not back", func() error {
			saw, err := signer(r.c.refresh(ctx))
			if err == nil && saw != "primary" {
				err = errors.New("by the " + saw)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// TestClients: every library, at every class of endpoints, meets every fault, with a session that the backup knows, and without.
func TestClients(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	of := map[string]class{}
	for _, c := range classes() {
		of[c.name] = c
	}
	b := &book{saw: map[cell]string{}, err: map[cell]error{}, without: map[cell]string{}, reactions: map[cell]reaction{}, errNone: map[cell]error{}}
	lanes, published := s.start(t, append(faults(), replies()...), append(faults(), faults()...))
	matrix := lanes[:len(faults())]
	run := func(lanes []*lane, atOnce int, what string, f func(l *lane) error) {
		began := time.Now()
		each(lanes, atOnce, func(l *lane) {
			if err := f(l); err != nil {
				t.Errorf("%s: %s: %v", l.f.name, what, err)
			}
		})
		t.Logf("%s: %s", what, time.Since(began).Round(100*time.Millisecond))
	}
	run(published, 8, "somebody signs in", func(l *lane) error {
		_, err := l.enter(ctx, l.riders[0])
		return err
	})
	// The gateway asks for metadata once a minute: what comes then must not replace what it has.
	for i, l := range published {
		l.class = of[discovery]
		if i >= len(faults()) {
			l.class = of[keySet]
		}
		f := l.f.Fault
		f.Match = l.class.match
		if err := l.proxy.Set(f); err != nil {
			t.Fatal(err)
		}
	}
	run(matrix, 6, "the matrix", func(l *lane) error { return l.ride(ctx, b, of) })
	run(lanes[len(faults()):], 4, "more sign-ins", func(l *lane) error { return l.signIn(ctx) })
	run(matrix, 4, "back", func(l *lane) error { return l.back(ctx) })
	s.anew(t, lanes)
	var both sync.WaitGroup
	both.Go(func() {
		run(lanes, len(lanes), "nobody is known", func(l *lane) error {
			if err := l.uninformed(ctx, b, of[userInfo]); err != nil {
				return err
			}
			return l.react(ctx, b, of[token])
		})
	})
	both.Go(func() {
		run(published, len(published), "metadata is asked for", func(l *lane) error {
			return eventually("never", func() error {
				if l.proxy.Done(l.f.Kind) == 0 {
					return errors.New("the fault was never met")
				}
				return nil
			})
		})
		run(published, 4, "published", func(l *lane) error {
			for _, r := range l.riders {
				saw, err := l.meet(ctx, r, l.class.name)
				b.note(cell{r.name, l.class.name, l.f.name}, saw, err)
			}
			return nil
		})
	})
	both.Wait()
	b.judge(t)
	b.compare(t)
}

// ride takes a lane through its fault at each class. A browser that was let in in doubt is so no second time while others are
// served (design, law 1), so somebody signs in with another one before that.
func (l *lane) ride(ctx context.Context, b *book, of map[string]class) error {
	for _, name := range []string{userInfo, authorization, silent, token} {
		if name == userInfo || name == silent {
			if err := l.signIn(ctx); err != nil {
				return err
			}
		}
		if err := l.cells(ctx, b, of[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return l.back(ctx)
}
