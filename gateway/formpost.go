package gateway

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"understudy/flow"
)

func isHTML(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && t == "text/html"
}

// reading is for what a page is read before the browser has it.
type reading int

const (
	unread  reading = iota
	guarded         // for the tokens in it, whoever asked for them: something was ended here of which the primary may not know
	awaited         // as an answer to what the browser asked for too
)

// maxGuarded bounds a page that is read for the tokens in it: whoever asks makes it longer by what the primary repeats of the request.
const maxGuarded = 1 << 20

// reads says for what a page is read that may come in reply to a request. Most go by unread.
func (g *Gateway) reads(v *visit, out *http.Request) reading {
	if g.mayPost(v, out) {
		return awaited
	}
	if untold, err := g.c.Backup.Untold(out.Context(), v.tenant.Name); untold || err != nil {
		return guarded
	}
	return unread
}

// mayPost says whether the reply to a request of a browser's may be a page that posts an authorization response to an application.
func (g *Gateway) mayPost(v *visit, out *http.Request) bool {
	if v.browser != "" && g.browsers.awaitsForm(g.browserID(v)) {
		return true
	}
	if v.endpoint != flow.Authorization || v.begun != nil && v.reference == nil {
		return false
	}
	// What was not understood, or is not here yet, may ask for one.
	if v.navigation == nil {
		return out.Method != http.MethodHead
	}
	f := v.navigation.Form
	return v.navigation.FormErr != nil || f.Has("request") || f.Has("request_uri") ||
		slices.ContainsFunc(f["response_mode"], func(mode string) bool { return strings.Contains(mode, "form_post") })
}

// readable lets a primary compress a page in no way that is not read here.
func readable(h http.Header) {
	encoding := "identity"
	if strings.Contains(strings.Join(h["Accept-Encoding"], ","), "gzip") {
		encoding = "gzip"
	}
	h.Set("Accept-Encoding", encoding)
}

// readPage reads a page before the browser has it; nil where it is larger than maxGuarded, or compressed in another way.
func (g *Gateway) readPage(v *visit, resp *http.Response, reads reading) []byte {
	page, err := io.ReadAll(io.LimitReader(resp.Body, maxGuarded+1))
	resp.Body = &begunBody{Reader: io.MultiReader(bytes.NewReader(page), &rest{resp.Body, err}), Closer: resp.Body}
	if err != nil || len(page) > maxGuarded {
		return nil
	}
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(page))
		if err != nil {
			return nil
		}
		if page, err = io.ReadAll(io.LimitReader(z, maxGuarded+1)); err != nil || len(page) > maxGuarded {
			return nil
		}
	default:
		if reads == awaited {
			g.Counts.Unlearned(v.tenant.Name, "content_encoding")
		}
		return nil
	}
	return page
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
