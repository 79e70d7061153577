package flows

import (
	"testing"

	"understudy/idptest"
)

// delegate is a service that asks on behalf of people whose tokens it is given: by token exchange (RFC 8693), or by the token as an
// assertion (RFC 7523, as Entra ID has it).
type delegate struct {
	a, service *app
	grant      string
	browser    *idptest.Browser
	tokens     *tokens
	was        claims
}

func (d *delegate) exchange(t *testing.T, subject string, backups bool) claims {
	t.Helper()
	p := map[string]any{"subject_token": subject, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}
	if d.grant == bearer {
		p = map[string]any{"assertion": subject, "requested_token_use": "on_behalf_of", "scope": "openid profile email"}
	}
	k, err := d.service.ask(t.Context(), "grant", map[string]any{"type": d.grant, "parameters": p})
	if err != nil {
		t.Fatal(err)
	}
	return read(t, k.Access, backups)
}

func (d *delegate) served(t *testing.T) {
	d.browser = d.a.s.browser()
	var err error
	if d.tokens, err = d.a.signIn(t.Context(), d.browser, "alice"); err != nil {
		t.Fatal(err)
	}
	d.was = d.exchange(t, d.tokens.Access, false)
}

func (d *delegate) dead(t *testing.T) {
	if err := same(d.exchange(t, d.tokens.Access, true), d.was); err != nil {
		t.Errorf("the primary's token: %v", err)
	}
	k, err := d.a.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	read(t, k.Access, true)
	if err := same(d.exchange(t, k.Access, true), d.was); err != nil {
		t.Errorf("the backup's token: %v", err)
	}
}

func (d *delegate) back(t *testing.T) {
	k, err := d.a.ask(t.Context(), "refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	d.exchange(t, k.Access, false)
}
