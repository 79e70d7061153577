package browsers

import (
	"bytes"
	"context"
	"flag"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"understudy/idptest"
)

var update = flag.Bool("update", false, "write the pictures of the limited-service page to docs/ (a Japanese font must be there)")

// pictures looks at the limited-service page in light, dark and Japanese, as somebody who is signed in to other applications.
func (b *browser) pictures(t *testing.T) {
	for _, c := range []struct{ name, scheme, language, text string }{
		{"limited", "light", "en", "Sign-in is limited right now"},
		{"limited-dark", "dark", "en", "Sign-in is limited right now"},
		{"limited-ja", "light", "ja", "現在、サインインが制限されています"},
	} {
		w := b.open(t, "about:blank")
		chrome := w.driver.(chromiumTab)
		if err := chrome.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: c.scheme}},
			})
			if err != nil {
				return err
			}
			agent, err := chromedp.Evaluate[string]("navigator.userAgent")(ctx, tab)
			if err != nil {
				return err
			}
			_, err = cdp.Call(ctx, tab, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: c.language})
			return err
		}), chromedp.EmulateViewport(900, 900), chromedp.Navigate(neverURL+"/")); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		p := w.await("no page", func(p *page) bool {
			return strings.HasPrefix(p.URL, "https://"+idpHost) && p.Title != "" && p.Text != ""
		})
		if p.Lang != c.language || !strings.Contains(p.Text, c.text) || !strings.Contains(p.Text, displayName) || !strings.Contains(p.Text, "Payroll") {
			t.Errorf("%s: %+v", c.name, p)
		}
		picture, err := chromedp.Run(chrome.ctx, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(picture))
		if err != nil {
			t.Fatal(err)
		}
		if ground, ink := tones(img); (c.scheme == "dark") != (ground < 0x4000) || (c.scheme == "light") != (ground > 0xc000) || ink < 0x4000 {
			t.Errorf("%s: in %s colours the ground is %#x, and the furthest from it by %#x", c.name, c.scheme, ground, ink)
		}
		if !*update {
			continue
		}
		if err := os.WriteFile(filepath.Join(idptest.Root(), "docs", c.name+".png"), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tones returns how light a picture's ground is (its corner; 0 to 0xffff), and how far the pixel that differs most is from it.
func tones(img image.Image) (ground, ink int) {
	at := func(x, y int) int { return int(color.Gray16Model.Convert(img.At(x, y)).(color.Gray16).Y) }
	r := img.Bounds()
	ground = at(r.Min.X, r.Min.Y)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			ink = max(ink, at(x, y)-ground, ground-at(x, y))
		}
	}
	return ground, ink
}
