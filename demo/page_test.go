package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"understudy/demo/chromium"
)

// startPage sets the stage and serves the page in this process.
func startPage(t *testing.T) (s *stage, url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err = newStage(ctx, &Command{Primary: "own", Break: "none", Listen: ln.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- servePage(ctx, s, ln, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.logs())
		}
		s.close()
	})
	return s, "http://" + ln.Addr().String() + "/"
}

// TestPageThroughKillAndReturn looks at the page in a browser: somebody is signed in before, during and after.
func TestPageThroughKillAndReturn(t *testing.T) {
	if err := chromium.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, page := startPage(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tab, stop, err := chromium.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	run := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(tab, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	see := func(what string, texts ...string) {
		t.Helper()
		run(what, says(texts...))
	}
	press := func(id string) {
		t.Helper()
		run("press "+id, chromedp.Click(chromedp.CSS("#"+id+":enabled")))
	}

	run("open", chromedp.Navigate(page))
	see("at first", "Not signed in", "The identity provider answers.")
	run("sign in", chromedp.Click(chromedp.CSS(`a[href="/login"]`)), chromedp.WaitVisible(chromedp.CSS("#username")))
	see("the provider's page", "the demo's own identity provider")
	run("submit", chromedp.Click(chromedp.CSS("form button")))
	see("signed in", "Alice Archer", "Issued by the primary", "Understudy watches and learns")
	run("a refresh by the primary", atLeast("by-primary", 1))

	press("kill")
	see("killed", "Alice Archer", "Issued by the backup", "killed: no such process", "nobody was signed out")
	if c, pid := s.state(); c != killed || pid != 0 {
		t.Errorf("the page says killed, the stage says %s, process %d", c, pid)
	}
	run("reload", chromedp.Reload())
	see("reloaded in the outage", "Alice Archer", "Issued by the backup", "nobody was signed out")
	run("three refreshes by the backup", atLeast("by-backup", 3))
	see("still", "Alice Archer", "Issued by the backup", "nobody was signed out")
	for _, scheme := range []string{"light", "dark"} {
		shoot(t, tab, scheme)
	}

	press("back")
	see("back", "Alice Archer", "Issued by the primary", "Understudy watches and learns", "From now on the primary answers")
	press("freeze")
	see("black-holed", "Alice Archer", "Issued by the backup", "takes requests and answers none")
	press("back")
	see("back again", "Alice Archer", "Issued by the primary")

	failed, err := chromedp.Run(tab, chromedp.TextContent(chromedp.CSS("#failed")))
	if err != nil {
		t.Fatal(err)
	}
	if failed != "0" {
		t.Errorf("failed refreshes: %s", failed)
	}
	press("revoke")
	see("revoked", "Not signed in", "The session was revoked", "revoked, here and at the identity provider")

	run("sign in again", chromedp.Click(chromedp.CSS(`a[href="/login"]`)), chromedp.WaitVisible(chromedp.CSS("#username")), chromedp.Click(chromedp.CSS("form button")))
	see("signed in again", "Alice Archer", "Issued by the primary")
	press("kill")
	see("killed again", "Alice Archer", "Issued by the backup")
	press("revoke")
	see("revoked in the outage", "Not signed in", "The session was revoked", "revoked, here; the identity provider is not there to be told")
}

// says waits until the page's text holds all of these, white space aside.
func says(texts ...string) chromedp.Action[chromedp.Void] {
	return until(fmt.Sprintf("all of %q", texts), "document.querySelector('main').textContent", func(have string) bool {
		return holds(have, texts)
	})
}

// atLeast waits until the page counts that far.
func atLeast(id string, n int) chromedp.Action[chromedp.Void] {
	return until(fmt.Sprintf("%d at #%s", n, id), "document.getElementById('"+id+"').textContent", func(have string) bool {
		i, err := strconv.Atoi(have)
		return err == nil && i >= n
	})
}

// until evaluates a script again and again until what it returns is good.
func until(what, script string, good func(string) bool) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		var have string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			// While the browser goes from page to page there is nothing.
			if s, err := chromedp.Evaluate[string](script)(ctx, tab); err == nil {
				have = strings.Join(strings.Fields(s), " ")
			}
			if good(have) {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
		return fmt.Errorf("the page does not say %s; it says %q", what, have)
	})
}

func holds(page string, texts []string) bool {
	for _, s := range texts {
		if !strings.Contains(page, s) {
			return false
		}
	}
	return true
}

// shoot takes a picture, and keeps it where the flag asks for it.
func shoot(t *testing.T, tab context.Context, scheme string) {
	t.Helper()
	png, err := chromedp.Run(tab, func(ctx context.Context, tab *chromedp.Target) ([]byte, error) {
		if _, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}); err != nil {
			return nil, err
		}
		return chromedp.FullScreenshot(100)(ctx, tab)
	})
	if err != nil {
		t.Fatal(err)
	}
	if *screenshot == "" {
		return
	}
	name := *screenshot
	if scheme == "dark" {
		name = strings.TrimSuffix(name, ".png") + "-dark.png"
	}
	if err := os.WriteFile(name, png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPageRefusesStrangers: the buttons kill processes, so no other site and no other name may press them.
func TestPageRefusesStrangers(t *testing.T) {
	s, page := startPage(t)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"another site's form", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		{"another origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
		{"another name for this address", func(r *http.Request) { r.Host = "evil.example" }, http.StatusMisdirectedRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, page+"kill", strings.NewReader(url.Values{}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		c.change(req)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", c.name, resp.StatusCode, c.status)
		}
		if got, _ := s.state(); got != serving {
			t.Fatalf("%s: the identity provider is %s", c.name, got)
		}
	}
}
