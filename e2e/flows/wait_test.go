package flows

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
)

// waiter is an application that waits for a person elsewhere: device authorization (RFC 8628) or CIBA. One person has answered when
// the primary dies; another answers when it is back.
type waiter struct {
	command   string // "device" or "ciba"
	done, due *app
	due2      string // what the other person is asked with
	forgets   bool   // the primary, of who waits, when it dies
	was       claims
}

// begin asks for a person, and goes on asking.
func (w *waiter) begin(t *testing.T, a *app, user string) (with string) {
	t.Helper()
	var r struct{ URL, Request string }
	p := map[string]any{"scope": "openid profile email"}
	if w.command == "ciba" {
		p["login_hint"] = user
	}
	if err := a.do(t.Context(), w.command, map[string]any{"parameters": p}, &r); err != nil {
		t.Fatal(err)
	}
	return r.URL + r.Request
}

// approve is the person's yes.
func (w *waiter) approve(t *testing.T, a *app, with, user string) {
	t.Helper()
	var err error
	switch {
	case w.command == "device":
		err = atDevicePage(t.Context(), a.s, with, user)
	case a.s.kc != nil:
		err = a.s.kc.phones.approve(t.Context(), a.s, user)
	default:
		err = approveAtProvider(t.Context(), a.s, with)
	}
	if err != nil {
		t.Fatalf("the person's yes: %v", err)
	}
}

func (w *waiter) served(t *testing.T) {
	w.approve(t, w.done, w.begin(t, w.done, "alice"), "alice")
	k, err := w.done.ask(t.Context(), "polled", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.was = read(t, k.ID, false)
	w.due2 = w.begin(t, w.due, "bob")
	w.pending(t)
}

// pending waits until the library has been told to wait, and nothing else.
func (w *waiter) pending(t *testing.T) {
	t.Helper()
	w.told(t)
	var all []string
	for end := time.Now().Add(10 * time.Second); len(all) == 0 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		all = w.told(t)
	}
	if len(all) == 0 || slices.ContainsFunc(all, func(e string) bool { return e != "authorization_pending" }) {
		t.Errorf("who waits is told %q", all)
	}
}

func (w *waiter) told(t *testing.T) []string {
	t.Helper()
	var r struct{ Errors []string }
	if err := w.due.do(t.Context(), "errors", nil, &r); err != nil {
		t.Fatal(err)
	}
	return r.Errors
}

func (w *waiter) dead(t *testing.T) {
	k, err := w.done.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := same(read(t, k.ID, true), w.was); err != nil {
		t.Error(err)
	}
	w.pending(t)
}

func (w *waiter) back(t *testing.T) {
	k, err := w.done.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	read(t, k.ID, false)
	if w.forgets { // what is under way is in Keycloak's memory alone
		if k, err := w.due.ask(t.Context(), "polled", nil); !slices.Contains([]string{"invalid_grant", "expired_token"}, refusedFor(err)) {
			t.Errorf("who waited: %v %v", k, err)
		}
		w.due2 = w.begin(t, w.due, "bob")
	}
	w.approve(t, w.due, w.due2, "bob")
	if k, err = w.due.ask(t.Context(), "polled", nil); err != nil {
		t.Fatalf("who waited: %v", err)
	}
	read(t, k.ID, false)
}

// atDevicePage signs a person in at the page of a device, and says yes.
func atDevicePage(ctx context.Context, s *stage, page, user string) error {
	_, err := s.browser().Visit(ctx, page, "https://never.example/", map[string]string{
		"username": user, "password": "pw-" + user, "login": user, "accept": "Yes",
	})
	if err != nil && !strings.Contains(err.Error(), "without a form") { // the last one
		return err
	}
	return nil
}

// approveAtProvider is what the person's phone tells oidc-provider.
func approveAtProvider(ctx context.Context, s *stage, request string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.p.URL()+"/approve/"+url.PathEscape(request), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return errors.New(resp.Status)
	}
	return nil
}

// refusedFor is the OAuth 2.0 error that the library got, "" where it got none.
func refusedFor(err error) string {
	if e := (*idptest.NodeError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}
