package page

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHeaders(t *testing.T) {
	p := New(nil)
	always := map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Language": "en", "Cache-Control": "no-store", "X-Frame-Options": "DENY",
		"X-Content-Type-Options": "nosniff", "Vary": "Accept-Language",
	}
	for _, c := range []struct {
		name     string
		page     any
		status   int
		policy   string // after the style's hash
		referrer string
	}{
		{"limited", full(), 503, "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'", "no-referrer"},
		{"signed out", out(), 200, "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; frame-src https://mail.example https://time.example:8443", "no-referrer"},
		{"signed out, nothing in frames", SignedOut{}, 200, "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'", "no-referrer"},
		{"form post", post(), 200, "; frame-ancestors 'none'; base-uri 'none'; script-src " + p.submit.source, "strict-origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draw(t, request("/authorize"), c.page)
			sound(t, d, c.page)
			want := maps.Clone(always)
			want["Content-Security-Policy"] = "default-src 'none'; style-src " + p.style.source + c.policy
			want["Referrer-Policy"] = c.referrer
			for k, v := range want {
				if have := d.Header().Get(k); have != v {
					t.Errorf("%s: %q, want %q", k, have, v)
				}
			}
			if d.Code != c.status {
				t.Errorf("status %d, want %d", d.Code, c.status)
			}
		})
	}
}

func TestContent(t *testing.T) {
	d := draw(t, request("/authorize"), full())
	page := text(d.all("body")[0])
	for _, want := range []string{"Example Corp", "help@example.com", "7f3k-92qd", "Mail mail.example", "wiki.internal:8080", "Desk", "about 30 seconds", "no recent sign-in"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing from %q", want, page)
		}
	}
	var hrefs []string
	for _, a := range d.all("a") {
		hrefs = append(hrefs, attr(a, "href"))
	}
	want := []string{"/authorize?client_id=mail&state=a%2Fb&scope=openid+profile&nonce=%271%27", "https://mail.example/", "https://time.example/app?x=1&y=2", "http://wiki.internal:8080/", "mailto:help@example.com?subject=7f3k-92qd"}
	if !slices.Equal(hrefs, want) {
		t.Errorf("links %q, want %q", hrefs, want)
	}
	if len(d.all("footer")) != 1 {
		t.Error("no footer")
	}

	bare := draw(t, request("/authorize"), Limited{})
	sound(t, bare, Limited{})
	if page := text(bare.all("body")[0]); !strings.Contains(page, "login.example") || !strings.Contains(page, "go back to the application") || len(bare.all("a"))+len(bare.all("section"))+len(bare.all("footer")) > 0 {
		t.Errorf("the page without values: %q", page)
	}

	seen := map[string]Reason{}
	for _, r := range []Reason{NoRecord, Interaction, Ended, Interrupted} {
		l := full()
		l.Reason = r
		s := text(draw(t, request("/"), l).all("main")[0])
		if other, ok := seen[s]; ok {
			t.Errorf("reasons %d and %d read the same", other, r)
		}
		seen[s] = r
	}
}

// TestNothingChangesByThePage is the page's part against CSRF: no form, no script, nothing that loads or reloads.
func TestNothingChangesByThePage(t *testing.T) {
	for _, page := range []any{full(), out()} {
		d := draw(t, request("/authorize"), page)
		for _, name := range []string{"script", "form", "input", "button", "link", "img", "object", "base", "noscript"} {
			if len(d.all(name)) > 0 {
				t.Errorf("%T has an element %s", page, name)
			}
		}
		for _, m := range d.all("meta") {
			if attr(m, "http-equiv") != "" {
				t.Errorf("%T has a meta http-equiv", page)
			}
		}
	}
}

// payloads try to leave every context that a value may stand in.
func payloads() []string {
	return []string{
		`<script>alert(1)</script>`, `"><script>alert(1)</script>`, `'><img src=x onerror=alert(1)>`, `" onfocus="alert(1)" autofocus x="`,
		`' onmouseover='alert(1)`, `</style><script>alert(1)</script>`, `</title><svg onload=alert(1)>`, `--><script>alert(1)</script><!--`,
		`</script><script>alert(1)</script>`, `]]><script>`, `<!--`, `<iframe srcdoc="<script>alert(1)</script>">`, `<base href=//evil.example>`,
		`<meta http-equiv=refresh content=0;url=//evil.example>`, `<form action=//evil.example><button>`, `<plaintext>`, `<noscript><p title="</noscript><script>">`,
		`<template><script>`, `<math><mtext><table><mglyph><style><img src onerror=alert(1)>`, `{{.ID}}{{template "main"}}`, "a\x00b<b>", "\xff\xfe<b>", "+ADw-script+AD4-",
		"\u202e<b>evil", `&lt;script&gt;&#60;b&#62;`, "`${alert(1)}`", "x\r\nSet-Cookie: a=b\r\n\r\n<script>", `javascript:alert(1)`, "java\tscript:alert(1)", ` javascript:alert(1)`,
		`data:text/html,<script>alert(1)</script>`, `vbscript:x`, `//evil.example`, `/\evil.example`, "/\t/evil.example", `https:evil.example`, `https:///evil.example`,
		`https://login.example@evil.example/`, `https://a"onclick=alert(1)/`, `https://a;script-src *`, `https://a;sandbox/`, `https://a,b/`, `https://*/`, `https://*.com/`,
		`https://a b/`, `https://a' 'unsafe-inline'/`, `https://ok.example/"><script>alert(1)</script>`, `https://ok.example/?'"onclick=alert(1)//<b>`,
		`help@example.com?bcc=evil@example.com&body=<b>`, `"<b>"@example.com`, `/authorize?x="><script>alert(1)</script>`, `/?javascript:alert(1)`,
	}
}

func TestHostileValues(t *testing.T) {
	for field, put := range map[string]func(v string) (*http.Request, any){
		"tenant":           func(v string) (*http.Request, any) { l := full(); l.Tenant = v; return request("/"), l },
		"contact":          func(v string) (*http.Request, any) { l := full(); l.Contact = v; return request("/"), l },
		"application name": func(v string) (*http.Request, any) { l := full(); l.Applications[0].Name = v; return request("/"), l },
		"application URL":  func(v string) (*http.Request, any) { l := full(); l.Applications[0].URL = v; return request("/"), l },
		"name alone":       func(v string) (*http.Request, any) { l := full(); l.Applications[3].Name = v; return request("/"), l },
		"id":               func(v string) (*http.Request, any) { l := full(); l.ID = v; return request("/"), l },
		"again":            func(v string) (*http.Request, any) { l := full(); l.Again = v; return request("/"), l },
		"ui_locales":       func(v string) (*http.Request, any) { l := full(); l.Locales = v; return request("/"), l },
		"Host":             func(v string) (*http.Request, any) { r := request("/"); r.Host = v; return r, Limited{} },
		"Accept-Language": func(v string) (*http.Request, any) {
			r := request("/")
			r.Header.Set("Accept-Language", v)
			return r, full()
		},
		"told":              func(v string) (*http.Request, any) { s := out(); s.Told[1] = v; return request("/"), s },
		"untold":            func(v string) (*http.Request, any) { s := out(); s.Untold[0] = v; return request("/"), s },
		"frame":             func(v string) (*http.Request, any) { s := out(); s.Frames[0] = v; return request("/"), s },
		"back name":         func(v string) (*http.Request, any) { s := out(); s.Back.Name = v; return request("/"), s },
		"back URL":          func(v string) (*http.Request, any) { s := out(); s.Back.URL = v; return request("/"), s },
		"signed-out tenant": func(v string) (*http.Request, any) { s := out(); s.Tenant = v; return request("/"), s },
		"parameter name":    func(v string) (*http.Request, any) { f := post(); f.Parameters[1].Name = v; return request("/"), f },
		"parameter value":   func(v string) (*http.Request, any) { f := post(); f.Parameters[1].Value = v; return request("/"), f },
		"action path": func(v string) (*http.Request, any) {
			f := post()
			f.Action = "https://app.example/" + strings.Map(func(r rune) rune {
				if r <= ' ' || r == '%' {
					return -1
				}
				return r
			}, v)
			return request("/"), f
		},
	} {
		r, plain := put("plain")
		want := draw(t, r, plain).skeleton()
		for _, v := range payloads() {
			r, page := put(v)
			d := draw(t, r, page)
			sound(t, d, page)
			switch field {
			case "contact", "application URL", "again", "frame", "back URL": // these may add or drop a link, which sound has seen
			default:
				if have := d.skeleton(); have != want {
					t.Errorf("%s %q changes the page to\n%s", field, v, have)
				}
			}
			if t.Failed() {
				t.Fatalf("%s: %q", field, v)
			}
		}
	}
}

func TestApplicationLinks(t *testing.T) {
	for u, want := range map[string]string{
		"https://a.example/x?y=1#z":          "https://a.example/x?y=1#z",
		"http://a.example":                   "http://a.example",
		"HTTPS://A.example/":                 "https://a.example/",
		"https://[::1]:8443/":                "https://[::1]:8443/",
		"https://bücher.example/":            "https://xn--bcher-kva.example/",
		"https://my_app.internal/":           "https://my_app.internal/",
		"":                                   "",
		"/local":                             "",
		"//a.example/":                       "",
		"a.example":                          "",
		"https:a.example":                    "",
		"https://":                           "",
		"https://user@a.example/":            "",
		"https://a.example@evil.example/":    "",
		"javascript://a.example/%0aalert(1)": "",
		"data:text/html,x":                   "",
		"ftp://a.example/":                   "",
		"com.example.app://callback":         "",
		"file:///etc/passwd":                 "",
		"https://a.example:x/":               "",
		"https://a;b.example/":               "",
		"https://*.example/":                 "",
		"https://a.example/" + strings.Repeat("a", maxURL): "",
	} {
		ls := links([]Application{{"A", u}})
		if len(ls) != 1 || ls[0].URL != want || ls[0].Name != "A" {
			t.Errorf("%.80q: %q, want %q", u, ls, want)
		}
		if ls := links([]Application{{"", u}}); (len(ls) == 1) != (want != "") {
			t.Errorf("%.80q without a name: %q", u, ls)
		}
	}
	if ls := links([]Application{{"a.example", "https://a.example/"}}); ls[0].Host != "" {
		t.Errorf("the host stands there twice: %q", ls)
	}
	if n := len(links(slices.Repeat([]Application{{"A", "https://a.example/"}}, 1000))); n != maxLinks {
		t.Errorf("%d links", n)
	}
}

// TestAgainStaysHere is the rule against an open redirect.
func TestAgainStaysHere(t *testing.T) {
	for s, ok := range map[string]bool{
		"/": true, "/authorize?client_id=a&redirect_uri=https://a.example/&state=%2F%2F": true, "/realms/a/auth?x=//y": true, "/a?b=1&b=2;c": true,
		"": false, "authorize": false, "//evil.example": false, "///evil.example": false, `/\evil.example`: false, `\/evil.example`: false, "/\t/evil.example": false,
		"/\n/evil.example": false, "\t//evil.example": false, " /x": false, "/a b": false, "/é": false, "/x#y": false, "/.//evil.example": false, "/a//b": false,
		"https://login.example/": false, "javascript:alert(1)": false, "/%zz": false, "/\x7f": false, "/x?" + strings.Repeat("a", maxURL): false,
	} {
		if have := again(s); (have == s && s != "") != ok || !ok && have != "" {
			t.Errorf("%.60q: %q", s, have)
		}
	}
}

func TestContact(t *testing.T) {
	for s, want := range map[string]string{
		"help@example.com": "mailto:help@example.com?subject=a%201", "https://help.example/": "https://help.example/",
		"Room 3, or +49 30 1234": "", "Help <help@example.com>": "", "help@example.com?cc=a@b.example": "", "a@b.example, c@d.example": "", "javascript:x@y.example": "", "": "",
	} {
		if l := contact(s, "a 1"); l.URL != want || l.Name != s {
			t.Errorf("%q: %+v, want %q", s, l, want)
		}
	}
}

func TestFrames(t *testing.T) {
	for s, want := range map[string]string{
		"https://A.example/x": "https://a.example", "https://a.example:8443/x": "https://a.example:8443", "http://127.0.0.1:9/x": "http://127.0.0.1:9", "http://localhost/x": "http://localhost",
		"http://a.example/": "", "http://127.0.0.1.evil.example/": "", "http://localhost.evil.example/": "", "https://[::1]/": "", "https://*/": "", "https://a;script-src x/": "",
		"https://'self'/": "", "javascript:alert(1)": "", "data:text/html,x": "", "//a.example/": "", "https://u@a.example/": "", "blob:https://a.example/x": "",
	} {
		_, origin, ok := frame(s)
		if origin != want || ok != (want != "") || Frameable(s) != ok {
			t.Errorf("%q: %q %v, want %q", s, origin, ok, want)
		}
	}
	d := draw(t, request("/"), out())
	if n := len(d.all("iframe")); n != 3 {
		t.Errorf("%d frames", n)
	}
}

func TestFormPost(t *testing.T) {
	want := post()
	d := draw(t, request("/authorize"), want)
	sound(t, d, want)
	form := d.all("form")
	if len(form) != 1 || attr(form[0], "action") != want.Action || attr(form[0], "method") != "post" {
		t.Fatalf("form %v", form)
	}
	var have []Parameter
	for _, n := range d.all("input") {
		have = append(have, Parameter{attr(n, "name"), attr(n, "value")})
	}
	if !slices.Equal(have, want.Parameters) {
		t.Errorf("parameters %q, want %q", have, want.Parameters)
	}
	if len(d.all("button")) != 1 || attr(d.all("button")[0], "name") != "" || d.all("button")[0].Parent.Parent.Data != "noscript" {
		t.Error("no plain button for a browser without scripts")
	}
	for _, action := range []string{"", "javascript:alert(1)", "com.example.app:/callback", "//app.example/", "https://app.example@evil.example/", "data:text/html,x"} {
		w := httptest.NewRecorder()
		if err := New(nil).FormPost(w, request("/"), FormPost{Action: action}); !errors.Is(err, ErrAction) || w.Body.Len() > 0 || len(w.Header()) > 0 {
			t.Errorf("%q: %v, %d bytes, %v", action, err, w.Body.Len(), w.Header())
		}
	}
}

func TestWaitIsSpread(t *testing.T) {
	const most = 1 - 1.0/(1<<53)
	for _, c := range []struct {
		base   time.Duration
		random float64
		want   int
	}{
		{30 * time.Second, 0, 30}, {30 * time.Second, .5, 38}, {30 * time.Second, most, 45},
		{0, 0, 30}, {-time.Second, most, 45}, {time.Millisecond, 0, 1}, {24 * time.Hour, 0, 3600}, {math.MaxInt64, most, 5400},
		{30 * time.Second, 1, 30}, {30 * time.Second, -1, 30}, {30 * time.Second, math.NaN(), 30}, {30 * time.Second, math.Inf(1), 30},
	} {
		if have := wait(c.base, c.random); have != c.want {
			t.Errorf("%v, %v: %d, want %d", c.base, c.random, have, c.want)
		}
	}
	p, seen := New(nil), map[string]bool{}
	for range 200 {
		w := httptest.NewRecorder()
		if err := p.Limited(w, request("/"), Limited{Retry: 100 * time.Second}); err != nil {
			t.Fatal(err)
		}
		seen[w.Header().Get("Retry-After")] = true
	}
	if len(seen) < 20 {
		t.Errorf("%d different times in 200 answers", len(seen))
	}
}

func TestClean(t *testing.T) {
	for s, want := range map[string]string{
		" a \t\r\n b ": "a b", "a\x00b\x7fc\u0085d": "a b c d", "\u202eevil\u2066x\u200f": "evilx", "a\u2028b": "a b", "\xffa\xc3": "a", "日本": "日本", "12345678901": "123456789…",
		"👩‍👩‍👧": "👩‍👩‍👧", strings.Repeat("é", 1000): "ééééééééé…",
	} {
		if have := clean(s, 10); have != want {
			t.Errorf("%q: %q, want %q", s, have, want)
		}
	}
}

func FuzzPages(f *testing.F) {
	for i, v := range payloads() {
		f.Add(v, payloads()[(i+7)%len(payloads())], "/authorize?x=1", "de fr", "ja;q=0.5, *")
	}
	f.Add("a", "https://a.example/", "//evil.example", "xx-", "en-US-u-ca-buddhist;q=1e9,,;")
	f.Fuzz(func(t *testing.T, a, b, c, locales, accept string) {
		r := request("/")
		r.Host = a
		r.Header.Set("Accept-Language", accept)
		for _, page := range []any{
			Limited{Tenant: a, Contact: b, Reason: Reason(len(a)), Applications: []Application{{a, b}, {b, c}}, ID: c, Again: c, Locales: locales, Retry: time.Duration(len(b)) << 30},
			Limited{Contact: a, Again: b},
			SignedOut{Tenant: b, Told: []string{a, b}, Untold: []string{c}, Frames: []string{a, b, c}, Back: Application{a, b}, ID: a, Locales: locales},
			FormPost{Tenant: a, Action: "https://app.example/callback", Parameters: []Parameter{{a, b}, {b, c}}, Locales: locales},
		} {
			sound(t, draw(t, r, page), page)
		}
		if u, ok := web(b); ok {
			page := FormPost{Action: b}
			d := draw(t, r, page)
			sound(t, d, page)
			if have, ok := web(attr(d.all("form")[0], "action")); !ok || have.Host != u.Host || have.Scheme != u.Scheme {
				t.Errorf("action %q became %v", b, have)
			}
		}
	})
}
