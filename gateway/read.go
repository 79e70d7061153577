package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"

	"understudy/flow"
	"understudy/flow/oauth"
)

const maxRequestBody = 64 << 10

// read buffers the body of a request at a protocol endpoint and finds its flow. It is false where it has answered.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, v *visit) bool {
	switch {
	case r.Method == http.MethodOptions, r.Method == http.MethodHead && v.endpoint != flow.EndSession:
		return true
	case r.Method == http.MethodPost, v.endpoint == flow.UserInfo, v.endpoint == flow.EndSession:
	case v.endpoint != flow.Token:
		return true // nothing that the backup could answer, nor anything that may be forbidden
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, maxRequestBody), min(r.ContentLength, maxRequestBody))
	if err != nil {
		var large *http.MaxBytesError
		no := flow.No("body_not_received", http.StatusBadRequest, "invalid_request")
		if errors.As(err, &large) {
			no = flow.No("body_too_large", http.StatusRequestEntityTooLarge, "invalid_request")
		}
		g.note(v, "refused", no.Code, "")
		writeRefusal(w.Header(), w, no, nil)
		return false
	}
	v.id = requestID()
	v.request = &flow.Request{
		HTTP: r, Body: body, Tenant: v.tenant.Name, Issuer: v.issuer.ID, Endpoint: v.endpoint, Address: v.address,
		Certificate: v.certificate.asked(),
	}
	v.readForm()
	if v.charset {
		// Some primaries read the form by it, others do not: what is refused in one spelling must not pass in the other.
		no := flow.No("charset", http.StatusUnsupportedMediaType, "invalid_request")
		g.note(v, "refused", no.Code, "")
		writeRefusal(w.Header(), w, no, nil)
		return false
	}
	r.Trailer = nil
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	for _, f := range g.c.Flows {
		if f.Endpoint() != v.endpoint {
			continue
		}
		if x := f.Match(v.request); x != nil {
			v.flow, v.exchange = f, x
			break
		}
	}
	return true
}

// readForm reads the parameters as leniently as a primary might: what is forbidden must not pass in another spelling.
// Whatever is not the one plain spelling makes the request odd.
func (v *visit) readForm() {
	r := v.request
	types := r.HTTP.Header.Values("Content-Type")
	t := ""
	for _, x := range types {
		v.charset = v.charset || oddCharset(x)
	}
	if len(types) > 0 {
		var err error
		if t, _, err = mime.ParseMediaType(types[0]); err != nil {
			t, _, _ = strings.Cut(strings.ToLower(types[0]), ";")
		}
	}
	if len(types) > 1 {
		v.odd = "content_type"
	}
	switch {
	case r.Endpoint == flow.EndSession && r.HTTP.Method != http.MethodPost:
		r.Form, r.FormErr = url.ParseQuery(r.HTTP.URL.RawQuery) // a logout by link (OpenID Connect RP-Initiated Logout, section 2)
	case len(r.Body) == 0:
		r.Form = url.Values{}
	case t == "multipart/form-data":
		v.odd = "multipart"
		r.Form, r.FormErr = multipartForm(r.Body, types[0])
	case t == "application/json":
		v.odd, v.json = "json", true
		var o map[string]any
		if r.FormErr = json.Unmarshal(r.Body, &o); r.FormErr != nil {
			return
		}
		r.Form = url.Values{}
		for k, x := range o {
			if s, ok := x.(string); ok {
				r.Form.Set(k, s)
			}
		}
	default:
		r.Form, r.FormErr = url.ParseQuery(string(r.Body)) // keeps what it could read
		if r.FormErr != nil {
			v.odd = "form"
		}
	}
	if !oauth.PlainQuery(r.HTTP.URL.RawQuery) {
		v.odd = "query"
	}
}

// oddCharset says whether a Content-Type names, or may name, a character set in which ASCII is not ASCII.
func oddCharset(contentType string) bool {
	_, rest, ok := strings.Cut(strings.ToLower(contentType), "charset")
	if !ok {
		return false
	}
	name := strings.TrimFunc(rest, func(r rune) bool { return strings.ContainsRune(" \t=\"';*", r) })
	name, _, _ = strings.Cut(name, ";")
	switch strings.Trim(name, " \t\"'") {
	case "", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252", "iso-8859-15":
		return false
	}
	return true
}

// maxParts bounds the parts of a multipart form.
const maxParts = 256

// multipartForm reads what a primary might take from a multipart form: no client of OAuth sends one.
func multipartForm(body []byte, contentType string) (url.Values, error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, err
	}
	form := url.Values{}
	m := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for range maxParts {
		p, err := m.NextRawPart()
		if err == io.EOF {
			return form, nil
		}
		if err != nil {
			return form, err
		}
		b, err := io.ReadAll(p) // of a body that is here
		if err != nil {
			return form, err
		}
		form.Add(p.FormName(), string(b))
	}
	return form, fmt.Errorf("more than %d parts", maxParts)
}

// withToken is the body with another refresh token in place of the presented one.
func (v *visit) withToken(token string) ([]byte, error) {
	if v.json {
		var o map[string]json.RawMessage
		if err := json.Unmarshal(v.request.Body, &o); err != nil {
			return nil, err
		}
		b, err := json.Marshal(token)
		if err != nil {
			return nil, err
		}
		o["refresh_token"] = b
		return json.Marshal(o)
	}
	form := maps.Clone(v.request.Form)
	form.Set("refresh_token", token)
	return []byte(form.Encode()), nil
}

// spellings are all the refresh tokens that a request may be taken to present.
func (v *visit) spellings() []string {
	all := append([]string(nil), v.request.Form["refresh_token"]...)
	if v.request.HTTP.URL.RawQuery != "" {
		q, _ := url.ParseQuery(v.request.HTTP.URL.RawQuery)
		all = append(all, q["refresh_token"]...)
	}
	return all
}
