package gateway

import (
	"bytes"
	"compress/gzip"
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

// posted lets a page that may post an authorization response to an application be read when the browser has it.
func (g *Gateway) posted(v *visit, before, after holding, resp *http.Response) {
	encoding, status := resp.Header.Get("Content-Encoding"), resp.StatusCode
	resp.Body = &copied{ReadCloser: resp.Body, done: func(page []byte) {
		switch encoding {
		case "", "identity":
		case "gzip":
			z, err := gzip.NewReader(bytes.NewReader(page))
			if err != nil {
				return
			}
			if page, err = io.ReadAll(io.LimitReader(z, oauth.MaxFormPage+1)); err != nil {
				return
			}
		default:
			g.Counts.Unlearned(v.tenant.Name, "content_encoding")
			return
		}
		x, r := g.browsers.match(g.browserID(v), func(ask *flow.Ask) *oauth.Redirected { return oauth.ReadForm(page, ask) })
		g.answered(v, x, r, before, after, status)
	}}
}

// copied keeps what is read of a body, and gives it away at its end; of one that is too large it keeps nothing.
type copied struct {
	io.ReadCloser
	page []byte
	done func(page []byte)
}

func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.done == nil {
		return n, err
	}
	if c.page = append(c.page, p[:n]...); len(c.page) > oauth.MaxFormPage {
		c.page, c.done = nil, nil
		return n, err
	}
	if err == io.EOF {
		done := c.done
		c.done = nil
		done(c.page)
	}
	return n, err
}
