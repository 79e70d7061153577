package flows

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// postman is a browser's way to the network. Forms that are posted to the application arrive here, and lead on to it.
type postman struct {
	http.RoundTripper
	body string // of the last one
}

func (p *postman) RoundTrip(r *http.Request) (*http.Response, error) {
	at := r.URL.String()
	if r.Method != http.MethodPost || at != (&app{}).redirect() && at != (&app{response: "id_token"}).redirect() {
		return p.RoundTripper.RoundTrip(r)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p.body = string(b)
	return &http.Response{
		StatusCode: http.StatusSeeOther, Header: http.Header{"Location": {at}}, Body: http.NoBody, Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// posted takes a response that the page posts to the application by itself.
func (a *app) posted(ctx context.Context, page string) (*tokens, error) {
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		return nil, err
	}
	to, form := "", url.Values{}
	for n := range doc.Descendants() {
		attributes := map[string]string{}
		for _, at := range n.Attr {
			attributes[at.Key] = at.Val
		}
		switch {
		case n.Data == "form":
			to = attributes["action"]
		case n.Data == "input" && strings.EqualFold(attributes["type"], "hidden"):
			form.Add(attributes["name"], attributes["value"])
		}
	}
	if to != a.redirect() {
		return nil, fmt.Errorf("the page posts to %q: %.300s", to, page)
	}
	t, err := a.ask(ctx, "finish", map[string]any{"url": to, "posted": form.Encode()})
	if err != nil {
		return nil, fmt.Errorf("finish: %w", err)
	}
	return t, nil
}
