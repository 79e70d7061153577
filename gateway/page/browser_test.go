package page

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"understudy/demo/chromium"
)

// TestInABrowser holds the pages against Chromium: they fit a narrow window and large text in every language, the
// browser's own enforcement of the policy lets the style, the frames and the form through and no script else, and
// nothing frames them.
func TestInABrowser(t *testing.T) {
	if err := chromium.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var framed []string
	posted := make(chan string, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/logout":
			framed = append(framed, r.URL.RawQuery)
		case "/callback":
			b, _ := io.ReadAll(r.Body)
			select {
			case posted <- r.Header.Get("Origin") + " " + string(b):
			default:
			}
			http.Redirect(w, r, "http://127.0.0.1:"+r.Host[strings.LastIndex(r.Host, ":")+1:]+"/home", http.StatusSeeOther) // another origin than localhost
		case "/frames":
			fmt.Fprint(w, `<!doctype html><title>evil</title><iframe src="`+r.URL.Query().Get("of")+`" onload="document.title='loaded'"></iframe>`)
		case "/home":
			fmt.Fprint(w, "<!doctype html><title>home</title>")
		}
	}))
	defer app.Close()
	local := strings.Replace(app.URL, "127.0.0.1", "localhost", 1)

	p := New(nil)
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch r.URL.Path {
		case "/limited":
			l := full()
			l.Applications = append(l.Applications, Application{"Donaudampfschifffahrtsgesellschaftskapitänsanwartschaftsverwaltung", "https://donaudampfschifffahrtsgesellschaft.verwaltung.example/"})
			err = p.Limited(w, r, l)
		case "/signed-out":
			s := out()
			s.Frames = []string{local + "/logout?sid=1", app.URL + "/logout?sid=2"}
			err = p.SignedOut(w, r, s)
		case "/post":
			f := post()
			f.Action = local + "/callback"
			err = p.FormPost(w, r, f)
		default:
			http.NotFound(w, r)
		}
		if err != nil {
			t.Error(err)
		}
	}))
	defer pages.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
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
	ask := func(script string) string {
		t.Helper()
		s, err := chromedp.Run(tab, chromedp.Evaluate[string](script))
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return s
	}

	titled := func(want string) {
		t.Helper()
		for {
			// While the browser goes from page to page there is no title.
			have, err := chromedp.Run(tab, chromedp.Evaluate[string]("document.title"))
			if have == want {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("the page is %q (%v), want %q", have, err, want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}

	for _, l := range p.texts {
		for _, path := range []string{"/limited", "/signed-out"} {
			run("open "+path, chromedp.EmulateViewport(320, 640), chromedp.Navigate(pages.URL+path+"?ui_locales="+l.Tag))
			if have := ask(`document.documentElement.lang + " " + getComputedStyle(document.querySelector("main")).display + " " + getComputedStyle(document.body).display`); have != l.Tag+" block flex" {
				t.Errorf("%s: %q: the style is not applied", path, have)
			}
			for _, size := range []string{"100%", "200%"} { // 200 % of 640 px is 320 px; text alone at 200 % is harder
				if have := ask(`document.documentElement.style.fontSize = "` + size + `"; String(document.documentElement.scrollWidth)`); have != "320" {
					t.Errorf("%s in %s with text at %s is %s px wide in a window of 320", path, l.Tag, size, have)
				}
			}
		}
	}
	mu.Lock()
	for _, sid := range []string{"sid=1", "sid=2"} {
		if !slices.Contains(framed, sid) {
			t.Errorf("the frame with %s was not loaded: %q", sid, framed)
		}
	}
	mu.Unlock()

	run("post", chromedp.Navigate(pages.URL+"/post"))
	select {
	case have := <-posted:
		if want := pages.URL + " code=c0de&state=a+b%26c%3D%22d%22%2B%C3%A9&submit=1&code=again"; have != want {
			t.Errorf("posted %q, want %q", have, want)
		}
	case <-ctx.Done():
		t.Fatal("nothing was posted")
	}
	titled("home")

	run("frame the page", chromedp.Navigate(app.URL+"/frames?of="+pages.URL+"/limited"))
	titled("loaded")
	if have := ask(`document.querySelector("iframe").contentDocument === null ? "barred" : "open"`); have != "barred" {
		t.Error("the frame is ", have)
	}

	for _, s := range []struct{ name, path, scheme string }{
		{"limited-light", "/limited?ui_locales=en", "light"}, {"limited-dark", "/limited?ui_locales=en", "dark"}, {"limited-ja", "/limited?ui_locales=ja", "light"},
		{"signed-out-light", "/signed-out?ui_locales=de", "light"}, {"signed-out-dark", "/signed-out?ui_locales=fr", "dark"},
	} {
		run(s.name, emulate(s.scheme), chromedp.EmulateViewport(900, 900), chromedp.Navigate(pages.URL+s.path))
		shoot(t, tab, s.name)
		if !strings.HasSuffix(s.name, "-ja") {
			continue
		}
		run(s.name, chromedp.EmulateViewport(320, 640))
		shoot(t, tab, s.name+"-narrow")
	}
}

func emulate(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

func shoot(t *testing.T, tab context.Context, name string) {
	t.Helper()
	b, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("UNDERSTUDY_SHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
