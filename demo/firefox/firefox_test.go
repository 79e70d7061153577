package firefox

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
)

// TestSession: a browser sends everything to its proxy, and says what a script in a page comes to, or why not.
func TestSession(t *testing.T) {
	if err := Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	authority, err := idptest.NewAuthority(filepath.Join(t.TempDir(), "authority"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<title>" + r.Host + "</title>"))
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, stop, err := Start(ctx, Options{authority.CAFile, port})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	tab, err := s.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := tab.Navigate(ctx, "http://somewhere.test/"); err != nil {
		t.Fatal(err)
	}
	for title := ""; title != "somewhere.test"; title, _ = tab.Evaluate(ctx, "document.title") {
		if ctx.Err() != nil {
			t.Fatalf("the title is %q", title)
		}
	}
	if got, err := tab.Evaluate(ctx, `new Promise((done) => setTimeout(() => done("later"), 1))`); got != "later" || err != nil {
		t.Errorf("a promise: %q, %v", got, err)
	}
	if _, err := tab.Evaluate(ctx, `throw new Error("out")`); err == nil || !strings.Contains(err.Error(), "out") {
		t.Errorf("an exception: %v", err)
	}
	if _, err := tab.Evaluate(ctx, `1`); err == nil {
		t.Error("a number is taken for text")
	}
	if err := tab.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := tab.Navigate(ctx, "http://somewhere.test/"); err == nil {
		t.Error("a closed tab goes somewhere")
	}
}
