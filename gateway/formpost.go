package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"mime"
	"net/http"

	"understudy/flow"
	"understudy/flow/oauth"
)

func isHTML(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && t == "text/html"
}

// posted reads a page that may post an authorization response to an application, before the browser has it. It is false where that
// must not go out.
func (g *Gateway) posted(ctx context.Context, v *visit, before, after holding, resp *http.Response) bool {
	page, err := io.ReadAll(io.LimitReader(resp.Body, oauth.MaxFormPage+1))
	resp.Body = &begunBody{Reader: io.MultiReader(bytes.NewReader(page), &rest{resp.Body, err}), Closer: resp.Body}
	if err != nil || len(page) > oauth.MaxFormPage {
		return true // no such page, or none that the browser has whole
	}
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(page))
		if err != nil {
			return true
		}
		if page, err = io.ReadAll(io.LimitReader(z, oauth.MaxFormPage+1)); err != nil {
			return true
		}
	default:
		g.Counts.Unlearned(v.tenant.Name, "content_encoding")
		return true
	}
	x, r := g.browsers.match(g.browserID(v), func(ask *flow.Ask) *oauth.Redirected { return oauth.ReadForm(page, ask) })
	return g.given(ctx, v, x, r, before, after, resp.StatusCode)
}

// begunBody is a body whose beginning was read.
type begunBody struct {
	io.Reader
	io.Closer
}

// rest is what follows of a body whose beginning was read, with the error that this ended with.
type rest struct {
	io.Reader
	err error
}

func (r *rest) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.Reader.Read(p)
}
