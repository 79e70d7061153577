package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// taken are lines that take the browser's cookies away.
func taken(names ...string) http.Header {
	h := http.Header{}
	for _, n := range names {
		path := "/realms/norot/"
		if strings.Contains(n, "understudy") {
			path = "/"
		}
		h.Add("Set-Cookie", n+"=; Max-Age=0; Path="+path)
	}
	return h
}

// A reply that takes cookies away ends a session where it is an answer, and where it is a failure it ends nothing.
func TestCookiesOfAFailure(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	web := func(b *idptest.Browser) *tab { return r.tab("norot", "web", "web-secret", b) }
	signedIn := func(t *testing.T) *idptest.Browser { return r.healthy(t, f) }
	down := idptest.Fault{Kind: idptest.ServerError, Status: http.StatusInternalServerError, Match: atPath("/auth")}
	t.Run("a failed reply takes nothing away", func(t *testing.T) {
		b := signedIn(t)
		deletes := down
		deletes.Header = taken("KEYCLOAK_IDENTITY", "KEYCLOAK_SESSION", "AUTH_SESSION_ID", "understudy")
		fault(t, f, deletes)
		held := func() string { return b.Cookie("KEYCLOAK_IDENTITY") + " " + b.Cookie("understudy") }
		before := held()
		// To an application where she never was the reply passes.
		if resp, body := r.tab("norot", "spa", "", b).once(); resp.StatusCode != http.StatusInternalServerError || body != "no" || held() != before {
			t.Errorf("%d %s %v", resp.StatusCode, body, resp.Header)
		}
		if code, _ := web(b).silent(); code == "" || held() != before {
			t.Errorf("not let in, or without cookies: %s", held())
		}
		fault(t, f, idptest.Fault{})
		if code, _ := r.tab("norot", "spa", "", b).silent(); code == "" {
			t.Error("the primary does not know her any more")
		}
	})
	t.Run("the gateway's cookie is not the primary's to take", func(t *testing.T) {
		b := signedIn(t)
		for _, status := range []int{http.StatusOK, http.StatusFound, http.StatusBadRequest} {
			fault(t, f, idptest.Fault{Kind: idptest.ServerError, Status: status, Header: taken("understudy"), Match: atPath("/auth")})
			resp, _ := web(b).once()
			if resp.StatusCode != status || len(resp.Header["Set-Cookie"]) > 0 || b.Cookie("understudy") == "" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
		}
	})
	t.Run("an answer may take the session's away", func(t *testing.T) {
		b := signedIn(t)
		was := b.Clone()
		fault(t, f, idptest.Fault{Kind: idptest.ServerError, Status: http.StatusOK, Header: taken("KEYCLOAK_IDENTITY"), Match: atPath("/auth")})
		if web(b).once(); b.Cookie("KEYCLOAK_IDENTITY") != "" {
			t.Error("it did not")
		}
		fault(t, f, down)
		if resp, _ := web(was).once(); resp.Header.Get("Location") != "" {
			t.Error("her old cookies open it")
		}
	})
}
