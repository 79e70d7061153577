package idptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// Browser is a person at a sign-in page: it keeps cookies, follows redirects and fills in forms. Unlike net/http's jar
// it sends Secure cookies over plain HTTP to loopback, as browsers do.
type Browser struct {
	Transport http.RoundTripper // nil: http.DefaultTransport
	Header    http.Header       // beside its own, of each request
	cookies   map[string]string // host NUL path NUL name → value
}

// Visit opens a URL and goes on until a redirect leads to a URL that begins with until; it returns that URL. fill are
// the values for the forms on the way, by field name.
func (b *Browser) Visit(ctx context.Context, start, until string, fill map[string]string) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return nil, err
	}
	for range 20 {
		resp, body, err := b.do(req)
		if err != nil {
			return nil, err
		}
		if loc := resp.Header.Get("Location"); loc != "" && resp.StatusCode/100 == 3 {
			u, err := req.URL.Parse(loc)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(u.String(), until) {
				return u, nil
			}
			if req, err = http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil); err != nil {
				return nil, err
			}
			continue
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s %s: status %d: %.300s", req.Method, req.URL, resp.StatusCode, body)
		}
		if req, err = b.submit(ctx, req.URL, body, fill); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("no end after 20 pages")
}

func (b *Browser) do(req *http.Request) (*http.Response, string, error) {
	t := b.Transport
	if t == nil {
		t = http.DefaultTransport
	}
	var cs []string
	for k, v := range b.cookies {
		p := strings.Split(k, "\x00")
		if p[0] == req.URL.Host && strings.HasPrefix(req.URL.Path, p[1]) {
			cs = append(cs, p[2]+"="+v)
		}
	}
	if len(cs) > 0 {
		req.Header.Set("Cookie", strings.Join(cs, "; "))
	}
	maps.Copy(req.Header, b.Header)
	req.Header.Set("Accept", "text/html")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, "", err
	}
	if b.cookies == nil {
		b.cookies = map[string]string{}
	}
	for _, c := range resp.Cookies() {
		path := c.Path
		if path == "" {
			path = "/"
		}
		k := req.URL.Host + "\x00" + path + "\x00" + c.Name
		if c.MaxAge < 0 || c.Value == "" {
			delete(b.cookies, k)
		} else {
			b.cookies[k] = c.Value
		}
	}
	return resp, string(body), nil
}

// Get opens a URL and follows nothing.
func (b *Browser) Get(ctx context.Context, at string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, "", err
	}
	return b.do(req)
}

// Cookie is the value of a cookie, "" where there is none.
func (b *Browser) Cookie(name string) string {
	for k, v := range b.cookies {
		if strings.HasSuffix(k, "\x00"+name) {
			return v
		}
	}
	return ""
}

// Take takes a cookie over from another browser; the other's lack of it too.
func (b *Browser) Take(name string, from *Browser) {
	maps.DeleteFunc(b.cookies, func(k, _ string) bool { return strings.HasSuffix(k, "\x00"+name) })
	for k, v := range from.cookies {
		if strings.HasSuffix(k, "\x00"+name) {
			if b.cookies == nil {
				b.cookies = map[string]string{}
			}
			b.cookies[k] = v
		}
	}
}

// Clone is the same browser with cookies of its own from here on.
func (b *Browser) Clone() *Browser {
	return &Browser{Transport: b.Transport, Header: b.Header.Clone(), cookies: maps.Clone(b.cookies)}
}

// submit fills in the first form of a page.
func (b *Browser) submit(ctx context.Context, base *url.URL, page string, fill map[string]string) (*http.Request, error) {
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		return nil, err
	}
	var action string
	values := url.Values{}
	found := false
	attr := func(n *html.Node, name string) string {
		for _, a := range n.Attr {
			if a.Key == name {
				return a.Val
			}
		}
		return ""
	}
	var walk func(n *html.Node, in bool)
	walk = func(n *html.Node, in bool) {
		if n.Type == html.ElementNode {
			switch n.Data {
			case "form":
				if !found {
					found, in, action = true, true, attr(n, "action")
				}
			case "input":
				name := attr(n, "name")
				if in && name != "" {
					v, ok := fill[name]
					if !ok {
						v = attr(n, "value")
					}
					values.Set(name, v)
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c, in)
		}
	}
	walk(doc, false)
	if !found {
		return nil, fmt.Errorf("%s: a page without a form: %.300s", base, page)
	}
	u, err := base.Parse(action)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}
