package gateway_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/idptest"
)

// Strangers, who hold nothing and could be answered nothing, do not take the places in which a client's request objects are fetched.
func TestStrangersDoNotHoldThePlacesOfAClient(t *testing.T) {
	kc := keycloak(t)
	x := newReferrer(t, kc, kc.URL())
	b := &idptest.Browser{}
	x.learns(x.lying(x.tab(b)), "alice")
	slow := x.shelf.put("/objects/", func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-time.After(1500 * time.Millisecond):
		}
	})
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	if code, _ := x.lying(x.tab(b)).silent(); code == "" {
		t.Fatal("alice is not served without strangers")
	}
	waitFor(t, "the breaker is open", func() bool {
		return x.r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "0"
	})
	var wg sync.WaitGroup
	for range 70 {
		wg.Go(func() {
			of := at(x.tab(&idptest.Browser{}), slow)
			of.browser.Get(t.Context(), x.r.realm("rot")+"/protocol/openid-connect/auth?"+of.query.Encode())
		})
	}
	time.Sleep(500 * time.Millisecond)
	resp, _ := x.lying(x.tab(b)).once()
	if !strings.Contains(resp.Header.Get("Location"), "code=") {
		t.Errorf("who is signed in: %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	wg.Wait()
}
