package page

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

func request(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://login.example"+target, nil)
	return r
}

// full is the page with everything on it.
func full() Limited {
	return Limited{
		Tenant: "Example Corp", Contact: "help@example.com", Reason: NoRecord, ID: "7f3k-92qd", Retry: 30 * time.Second,
		Again: "/authorize?client_id=mail&state=a%2Fb&scope=openid+profile&nonce='1'",
		Applications: []Application{
			{"Mail", "https://mail.example/"}, {"Time sheets", "https://time.example/app?x=1&y=2"}, {"", "http://wiki.internal:8080/"}, {"Desk", ""},
		},
	}
}

func out() SignedOut {
	return SignedOut{
		Tenant: "Example Corp", ID: "7f3k-92qd", Told: []string{"Mail", "Time sheets"}, Untold: []string{"Wiki"},
		Frames: []string{"https://mail.example/logout?iss=https%3A%2F%2Flogin.example&sid=1", "https://mail.example/other", "https://time.example:8443/bye"},
		Back:   Application{"Mail", "https://mail.example/signed-out"},
	}
}

func post() FormPost {
	return FormPost{Tenant: "Example Corp", Action: "https://app.example/callback?x=1", Parameters: []Parameter{{"code", "c0de"}, {"state", "a b&c=\"d\"+é"}, {"submit", "1"}, {"code", "again"}}}
}

// drawn is a page as a browser without scripts sees it.
type drawn struct {
	*httptest.ResponseRecorder
	doc *html.Node
}

func draw(t testing.TB, r *http.Request, page any) drawn {
	t.Helper()
	p, w := New(func() float64 { return 0 }), httptest.NewRecorder()
	var err error
	switch v := page.(type) {
	case Limited:
		err = p.Limited(w, r, v)
	case SignedOut:
		err = p.SignedOut(w, r, v)
	case FormPost:
		err = p.FormPost(w, r, v)
	}
	if err != nil {
		t.Fatal(err)
	}
	doc, err := html.ParseWithOptions(strings.NewReader(w.Body.String()), html.ParseOptionEnableScripting(false))
	if err != nil {
		t.Fatal(err)
	}
	return drawn{w, doc}
}

func (d drawn) all(element string) (ns []*html.Node) {
	for n := range d.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == element {
			ns = append(ns, n)
		}
	}
	return ns
}

// skeleton is the page without its values: elements and the names of their attributes.
func (d drawn) skeleton() string {
	var b strings.Builder
	var walk func(*html.Node, int)
	walk = func(n *html.Node, depth int) {
		if n.Type != html.TextNode {
			fmt.Fprintf(&b, "%*s%s", depth, "", n.Data)
			for _, a := range n.Attr {
				fmt.Fprintf(&b, " %s", a.Key)
			}
			b.WriteByte('\n')
		}
		for c := range n.ChildNodes() {
			walk(c, depth+1)
		}
	}
	walk(d.doc, 0)
	return b.String()
}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// elements are all that a page for a person is made of, each with its attributes.
func elements(page any) map[string]string {
	m := map[string]string{
		"html": "lang dir", "head": "", "meta": "charset name content", "title": "", "style": "", "body": "", "header": "", "main": "", "footer": "",
		"section": "aria-labelledby", "h1": "", "h2": "id", "p": "class", "div": "class", "ul": "class", "li": "", "a": "href class",
		"bdi": "", "span": "", "small": "", "dl": "", "dt": "", "dd": "", "code": "",
	}
	switch page.(type) {
	case SignedOut:
		m["iframe"] = "src sandbox title aria-hidden tabindex hidden"
	case FormPost:
		maps.Copy(m, map[string]string{"form": "method action", "input": "type name value", "noscript": "", "button": "class", "script": ""})
	}
	return m
}

// sound is what holds for every page, whatever values it was given.
func sound(t testing.TB, d drawn, page any) {
	t.Helper()
	csp := d.Header().Get("Content-Security-Policy")
	known, ids := elements(page), map[string]bool{}
	for n := range d.doc.Descendants() {
		switch n.Type {
		case html.CommentNode, html.RawNode, html.ErrorNode:
			t.Errorf("a node of type %d: %q", n.Type, n.Data)
		case html.ElementNode:
			allowed, ok := known[n.Data]
			if !ok {
				t.Errorf("element %s does not belong here", n.Data)
			}
			for _, a := range n.Attr {
				if !slices.Contains(strings.Fields(allowed), a.Key) {
					t.Errorf("attribute %s=%q of %s does not belong here", a.Key, a.Val, n.Data)
				}
				switch a.Key {
				case "id":
					if ids[a.Val] {
						t.Errorf("two ids %q", a.Val)
					}
					ids[a.Val] = true
				case "href", "src", "action":
					leads(t, a.Val)
				}
			}
		}
	}
	for _, n := range d.all("section") {
		if !ids[attr(n, "aria-labelledby")] {
			t.Errorf("a section without a name")
		}
	}
	for name, want := range map[string]int{"html": 1, "h1": 1, "main": 1, "header": 1, "title": 1, "style": 1, "body": 1} {
		if have := len(d.all(name)); have != want {
			t.Errorf("%d elements %s, want %d", have, name, want)
		}
	}
	if root := d.all("html"); len(root) == 1 && (attr(root[0], "lang") != d.Header().Get("Content-Language") || attr(root[0], "dir") == "") {
		t.Errorf("lang %q, dir %q, Content-Language %q", attr(root[0], "lang"), attr(root[0], "dir"), d.Header().Get("Content-Language"))
	}
	for _, name := range []string{"style", "script"} {
		for _, n := range d.all(name) {
			sum := sha256.Sum256([]byte(n.FirstChild.Data))
			if want := name + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(csp, want) {
				t.Errorf("%s is not allowed by %s", name, csp)
			}
		}
	}
	for _, d := range strings.Split(csp, "; ") {
		name, _, _ := strings.Cut(d, " ")
		if !slices.Contains([]string{"default-src", "style-src", "frame-ancestors", "base-uri", "form-action", "frame-src", "script-src"}, name) || strings.ContainsAny(d, "*,;") {
			t.Errorf("directive %q", d)
		}
	}
}

// leads fails where a link leads to anything but the web, a mailbox or this origin.
func leads(t testing.TB, link string) {
	t.Helper()
	base, _ := url.Parse("https://login.example/authorize")
	u, err := base.Parse(link)
	switch {
	case err != nil:
		t.Errorf("link %q: %v", link, err)
	case u.Scheme == "mailto", u.Host != "" && (u.Scheme == "https" || u.Scheme == "http") && u.User == nil:
	default:
		t.Errorf("link %q leads to %s", link, u)
	}
	if strings.HasPrefix(link, "/") && (u.Host != base.Host || u.Scheme != base.Scheme) {
		t.Errorf("link %q leaves this origin", link)
	}
}
