package flows

import (
	"strings"
	"testing"

	"understudy/flow/oauth"
)

// worker is a service that asks for tokens in its own name.
type worker struct {
	a   *app
	was claims
}

func (w *worker) ask(t *testing.T, backups bool) claims {
	t.Helper()
	p := map[string]any{}
	if w.a.s.kc == nil {
		p["resource"], p["scope"] = api, "api"
	}
	k, err := w.a.ask(t.Context(), "service", map[string]any{"parameters": p})
	if err != nil {
		t.Fatal(err)
	}
	return read(t, k.Access, backups)
}

func (w *worker) served(t *testing.T) { w.was = w.ask(t, false) }

func (w *worker) dead(t *testing.T) {
	if err := same(w.ask(t, true), w.was); err != nil {
		t.Error(err)
	}
}

func (w *worker) back(t *testing.T) { w.ask(t, false) }

// isBackups says whether a token is signed by one of the backup's keys.
func isBackups(token string) bool {
	j, err := oauth.ParseJWT(token)
	return err == nil && strings.HasPrefix(j.Header.Text("kid"), "bk-")
}
