package browsers

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"understudy/demo/chromium"
	"understudy/demo/firefox"
)

// patience bounds each step of a browser; only a failure reaches it.
const patience = 30 * time.Second

// driver commands one tab.
type driver interface {
	navigate(url string) error
	reload() error // and does not see the page of before any more
	// evaluate runs a script in the page and returns the text that it, or its promise, comes to.
	evaluate(script string) (string, error)
}

// browser is a browser with a profile of its own.
type browser struct {
	s   *stage
	tab func(t *testing.T) driver // opens an empty tab, which is closed when the test ends
}

// chromium starts a Chromium with preferences in its profile. The names of the stage lead to loopback and nothing else leads
// anywhere. Certificates of the tests' own authority are none that it knows: it is told to ignore that.
func (s *stage) chromium(t *testing.T, preferences string) *browser {
	t.Helper()
	rules := []string{fmt.Sprintf("MAP %s 127.0.0.1", idpHost)}
	for host, port := range s.servers {
		rules = append(rules, fmt.Sprintf("MAP %s 127.0.0.1:%d", host, port))
	}
	for _, site := range sites {
		rules = append(rules, fmt.Sprintf("MAP *%s 127.0.0.1:%d", site, s.apps))
	}
	rules = append(rules, "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1")
	first, stop, err := chromium.StartWith(t.Context(), chromium.Options{
		Flags:       []chromedp.ExecAllocatorOption{chromedp.IgnoreCertErrors, chromedp.Flag("host-resolver-rules", strings.Join(rules, ", "))},
		Preferences: preferences,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := chromedp.Do(first); err != nil {
		t.Fatal(err)
	}
	return &browser{s, func(t *testing.T) driver {
		ctx, cancel := chromedp.NewContext(first)
		t.Cleanup(cancel)
		if err := chromedp.Do(ctx); err != nil { // a context with a deadline would take the tab with it
			t.Fatal(err)
		}
		return chromiumTab{ctx}
	}}
}

type chromiumTab struct{ ctx context.Context }

func (c chromiumTab) do(steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

func (c chromiumTab) navigate(url string) error { return c.do(chromedp.Navigate(url)) }

func (c chromiumTab) reload() error { return c.do(chromedp.Reload()) }

func (c chromiumTab) evaluate(script string) (string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
}

// firefox starts a Firefox that trusts the tests' own authority and reaches the stage alone, by its proxy.
func (s *stage) firefox(t *testing.T) *browser {
	t.Helper()
	session, stop, err := firefox.Start(t.Context(), firefox.Options{Authority: s.authority.CAFile, ProxyPort: s.proxy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &browser{s, func(t *testing.T) driver {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		tab, err := session.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := tab.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		return firefoxTab{tab}
	}}
}

type firefoxTab struct{ tab *firefox.Tab }

func (f firefoxTab) navigate(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.tab.Navigate(ctx, url)
}

func (f firefoxTab) reload() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := f.tab.Evaluate(ctx, `window.former = "there"`); err != nil {
		return err
	}
	if err := f.tab.Reload(ctx); err != nil {
		return err
	}
	for {
		former, err := f.tab.Evaluate(ctx, `window.former ?? ""`)
		if err == nil && former == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page does not load again: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond): // while the browser goes from page to page there is nothing
		}
	}
}

func (f firefoxTab) evaluate(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.tab.Evaluate(ctx, script)
}

// address is where a name and port of the stage are; "" where nothing is.
func (s *stage) address(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return ""
	}
	if host == idpHost {
		return net.JoinHostPort("127.0.0.1", port)
	}
	if p := s.servers[host]; p != 0 {
		return fmt.Sprintf("127.0.0.1:%d", p)
	}
	for _, site := range sites {
		if strings.HasSuffix(host, site) {
			return fmt.Sprintf("127.0.0.1:%d", s.apps)
		}
	}
	return ""
}
