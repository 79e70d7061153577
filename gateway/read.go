package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"understudy/flow"
)

const maxRequestBody = 64 << 10

// read buffers the body of a request at a protocol endpoint and finds its flow. It is false where it has answered.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, v *visit) bool {
	if r.Method != http.MethodPost && v.endpoint != flow.UserInfo {
		return true // nothing that the backup could answer
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
	}
	v.readForm()
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
	case len(r.Body) == 0:
		r.Form = url.Values{}
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
	if q := r.HTTP.URL.RawQuery; q != "" {
		v.odd = "query"
	}
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
	form := url.Values{}
	for k, vs := range v.request.Form {
		form[k] = vs
	}
	form.Set("refresh_token", token)
	return []byte(form.Encode()), nil
}

// spellings are all the refresh tokens that a request may be taken to present, at most four of them.
func (v *visit) spellings() []string {
	all := append([]string(nil), v.request.Form["refresh_token"]...)
	if v.request.HTTP.URL.RawQuery != "" {
		q, _ := url.ParseQuery(v.request.HTTP.URL.RawQuery)
		all = append(all, q["refresh_token"]...)
	}
	return all[:min(len(all), 4)]
}
