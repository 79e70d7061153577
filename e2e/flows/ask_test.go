package flows

import (
	"testing"

	"understudy/idptest"
)

// asker is an application that asks about its person's token (UserInfo), or has a resource server that does (introspection).
type asker struct {
	a, server *app // no server: it asks UserInfo itself
	browser   *idptest.Browser
	sub       string
	tokens    *tokens // the primary's
	later     *tokens // the backup's
	was       claims
}

// by is who asks.
func (q *asker) by() *app {
	if q.server != nil {
		return q.server
	}
	return q.a
}

func (q *asker) ask(t *testing.T, what string, k *tokens) claims {
	t.Helper()
	command := "userinfo"
	if q.server != nil {
		command = "introspect"
	}
	c, err := q.by().about(t.Context(), command, map[string]any{"token": k.Access, "subject": q.sub})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if q.server != nil && string(c["active"]) != "true" {
		t.Fatalf("%s: %s", what, c["active"])
	}
	return c
}

func (q *asker) served(t *testing.T) {
	q.browser = q.a.s.browser()
	var err error
	if q.tokens, err = q.a.signIn(t.Context(), q.browser, "alice"); err != nil {
		t.Fatal(err)
	}
	q.sub = read(t, q.tokens.ID, false).text("sub")
	q.was = q.ask(t, "the primary's token", q.tokens)
}

func (q *asker) dead(t *testing.T) {
	if q.by().jwtInfo {
		if err := q.by().restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := same(q.ask(t, "the primary's token", q.tokens), q.was); err != nil {
		t.Errorf("the primary's token: %v", err)
	}
	var err error
	if q.later, err = q.a.ask(t.Context(), "refresh", nil); err != nil {
		t.Fatal(err)
	}
	read(t, q.later.ID, true)
	if err := same(q.ask(t, "the backup's token", q.later), q.was); err != nil {
		t.Errorf("the backup's token: %v", err)
	}
}

func (q *asker) back(t *testing.T) {
	q.ask(t, "the backup's token", q.later)
	k, err := q.a.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	read(t, k.ID, false)
	q.ask(t, "the primary's new token", k)
}

// revoker is an application that ends what it holds (RFC 7009) while the primary is dead: that holds when it is back.
type revoker struct {
	a       *app
	browser *idptest.Browser
}

func (r *revoker) served(t *testing.T) {
	r.browser = r.a.s.browser()
	if _, err := r.a.signIn(t.Context(), r.browser, "bob"); err != nil {
		t.Fatal(err)
	}
}

func (r *revoker) dead(t *testing.T) {
	k, err := r.a.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.a.do(t.Context(), "revoke", map[string]any{"token": k.Refresh}, nil); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	r.over(t)
}

func (r *revoker) back(t *testing.T) { r.over(t) }

func (r *revoker) over(t *testing.T) {
	t.Helper()
	if k, err := r.a.ask(t.Context(), "refresh", nil); refusedFor(err) != "invalid_grant" {
		t.Errorf("a revoked token: %v %v", k, err)
	}
}
