package page

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestLanguage(t *testing.T) {
	for _, c := range []struct{ name, locales, accept, want string }{
		{"nothing asked for", "", "", "en"},
		{"each of ours: de", "", "de", "de"}, {"fr", "", "fr", "fr"}, {"es", "", "es", "es"}, {"ja", "", "ja", "ja"}, {"it", "", "it", "it"}, {"nl", "", "nl", "nl"}, {"pt-BR", "", "pt-BR", "pt-BR"},
		{"a region of ours", "", "de-CH,de;q=0.9,en;q=0.8", "de"}, {"es-419", "", "es-419", "es"}, {"pt", "", "pt", "pt-BR"}, {"pt-PT", "", "pt-PT,pt;q=0.9", "pt-BR"},
		{"the greater weight, not the first", "", "en;q=0.5, fr;q=0.9", "fr"},
		{"weight zero is no wish", "", "fr;q=0, ja;q=0.1", "ja"},
		{"the next where the first is none of ours", "", "fi, ja;q=0.8", "ja"},
		{"none of ours", "", "fi, ko", "en"}, {"a star", "", "*", "en"},
		{"ui_locales goes first", "ja", "de", "ja"}, {"ui_locales in its order", "fr de", "ja", "fr"}, {"ui_locales, the first of ours", "fi de-AT fr", "ja", "de"},
		{"ui_locales without ours", "fi ko", "de", "de"}, {"ui_locales with rubbish", "<b> !! de", "ja", "de"}, {"ui_locales rubbish only", "-- \x00", "ja", "ja"},
		{"case", "PT-br", "", "pt-BR"}, {"one unreadable entry", "", "!!, en-!, fr;q=x, ja;q=0.1", "ja"},
		{"a list without end", "", strings.Repeat("fi,", 100_000) + "ja", "en"}, {"a tag without end", strings.Repeat("a-", 100_000), "ja", "ja"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request("/")
			r.Header.Set("Accept-Language", c.accept)
			for _, page := range []any{Limited{Locales: c.locales}, SignedOut{Locales: c.locales}, FormPost{Action: "https://a.example/", Locales: c.locales}} {
				if have := draw(t, r, page).Header().Get("Content-Language"); have != c.want {
					t.Errorf("%T in %s, want %s", page, have, c.want)
				}
			}
		})
	}
	if have := draw(t, request("/authorize?ui_locales=fr+de"), Limited{}).Header().Get("Content-Language"); have != "fr" {
		t.Errorf("ui_locales of the query: %s", have)
	}
}

// TestEveryLanguageHasEveryText looks for what was forgotten: an empty text, another's, a value without its place.
func TestEveryLanguageHasEveryText(t *testing.T) {
	verb := regexp.MustCompile(`%.`)
	all := translations()
	english := reflect.ValueOf(all[0])
	same := []string{"Dir", "Contact", "Minutes"} // may be the same word in two languages
	for _, l := range all {
		v := reflect.ValueOf(l)
		for i := range v.NumField() {
			name, s, en := v.Type().Field(i).Name, v.Field(i).String(), english.Field(i).String()
			if s == "" || s != strings.TrimSpace(s) {
				t.Errorf("%s: %s is %q", l.Tag, name, s)
			}
			if !slices.Equal(verb.FindAllString(s, -1), verb.FindAllString(en, -1)) {
				t.Errorf("%s: %s has not the places of %q: %q", l.Tag, name, en, s)
			}
			if l.Tag != "en" && s == en && !slices.Contains(same, name) {
				t.Errorf("%s: %s is the English text", l.Tag, name)
			}
		}
	}
	var tags []string
	for _, l := range all {
		tags = append(tags, l.Tag)
		for _, page := range []any{full(), out(), post()} {
			r := request("/")
			r.Header.Set("Accept-Language", l.Tag)
			d := draw(t, r, page)
			sound(t, d, page)
			if body := d.Body.String(); strings.Contains(body, "%!") || strings.Contains(body, "ZgotmplZ") {
				t.Errorf("%s: %T holds what was not filled in", l.Tag, page)
			}
		}
	}
	for _, tag := range []string{"en", "de", "fr", "es", "ja"} {
		if !slices.Contains(tags, tag) {
			t.Errorf("%s is missing", tag)
		}
	}
}

func TestAbout(t *testing.T) {
	en := translations()[0]
	for s, want := range map[int]string{1: "5 seconds", 30: "30 seconds", 31: "35 seconds", 90: "90 seconds", 91: "2 minutes", 121: "3 minutes", 3600: "60 minutes"} {
		if have := en.about(s); have != want {
			t.Errorf("%d: %s, want %s", s, have, want)
		}
	}
}

// TestContrast computes WCAG 2.2's contrast of the style sheet's colours: 4.5 for text (1.4.3), 3 for what marks a
// button or the focus (1.4.11).
func TestContrast(t *testing.T) {
	b, err := files.ReadFile("style.css")
	if err != nil {
		t.Fatal(err)
	}
	css := string(b)
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(css, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of colours, want light and dark", len(blocks))
	}
	pairs := []struct {
		fore, back string
		least      float64
	}{
		{"ink", "ground", 7}, {"ink", "notice", 7}, {"soft", "ground", 4.5}, {"accent", "ground", 4.5}, {"on-accent", "accent", 4.5}, {"edge", "ground", 3}, {"edge", "notice", 3},
	}
	decoration := []string{"line"} // a rule between two lines of a list carries no meaning
	rest := css
	for i, scheme := range []string{"light", "dark"} {
		rest = strings.Replace(rest, blocks[i][0], "", 1)
		colours := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(blocks[i][1], -1) {
			colours[m[1]] = m[2]
		}
		for name := range colours {
			if !slices.Contains(decoration, name) && !slices.ContainsFunc(pairs, func(p struct {
				fore, back string
				least      float64
			}) bool {
				return p.fore == name || p.back == name
			}) {
				t.Errorf("%s: nothing checks the colour %s", scheme, name)
			}
		}
		for _, p := range pairs {
			if have := contrast(t, colours[p.fore], colours[p.back]); have < p.least {
				t.Errorf("%s: %s on %s is %.2f, want %.1f", scheme, p.fore, p.back, have, p.least)
			}
		}
	}
	if m := regexp.MustCompile(`#[0-9a-fA-F]{3,8}\b|rgb|hsl|opacity|url\(|@import`).FindString(rest); m != "" {
		t.Errorf("%q outside the blocks of colours", m)
	}
	if !strings.Contains(css, ":focus-visible { outline: 3px solid var(--accent)") || regexp.MustCompile(`outline:\s*(0|none)`).MatchString(css) {
		t.Error("the focus has no mark")
	}
	if have := fmt.Sprintf("%.2f %.2f", contrast(t, "#000000", "#ffffff"), contrast(t, "#777777", "#ffffff")); have != "21.00 4.48" {
		t.Errorf("the measure itself: %s", have)
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(s string) float64 {
		if len(s) != 7 {
			t.Fatalf("colour %q", s)
		}
		sum := 0.0
		for i, weight := range []float64{.2126, .7152, .0722} {
			n, err := strconv.ParseUint(s[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(n) / 255
			if c <= .04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + .05) / (min(x, y) + .05)
}
