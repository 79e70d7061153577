package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"understudy/flow/oauth"
	"understudy/session"
)

// shared is the backup's reply to a request whose exchange with the primary is still under way. It is kept in memory, for as
// long as that lasts, so that a grant is answered for once however often its request is repeated (design, law 1).
type shared struct {
	request [sha256.Size]byte
	status  int
	header  http.Header
	body    []byte
	at      time.Time
}

// shareFor is how long an answer may be repeated: the time in which a client may try again for the same.
const shareFor = 5 * time.Second

// fingerprint is the same for requests that are equal in body and in the client's proof (design, section 4).
func (t *trip) fingerprint() [sha256.Size]byte {
	r := t.v.request
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(r.HTTP.Header)) {
		if oauth.Proves(name) || name == "Content-Type" || name == "Origin" {
			io.WriteString(h, session.Joined(append([]string{name}, r.HTTP.Header[name]...)...)+"\n")
		}
	}
	if r.HTTP.TLS != nil {
		for _, c := range r.HTTP.TLS.PeerCertificates {
			h.Write(c.Raw)
		}
	}
	io.WriteString(h, r.Certificate.Thumbprint)
	h.Write([]byte{0})
	h.Write(r.Body)
	return [sha256.Size]byte(h.Sum(nil))
}

// share keeps an answer of the backup's for whoever repeats the request.
func (t *trip) share(p played) {
	if p.no != nil {
		return
	}
	body, err := io.ReadAll(p.resp.Body) // from memory
	if err != nil {
		return
	}
	p.resp.Body = io.NopCloser(bytes.NewReader(body))
	t.g.late.mu.Lock()
	defer t.g.late.mu.Unlock()
	if f := t.g.late.flying[t.place]; f != nil {
		f.shared = &shared{t.fingerprint(), p.resp.StatusCode, p.resp.Header.Clone(), body, t.g.c.Now()}
	}
}

// repeated is the answer that the same request got before, or nil.
func (t *trip) repeated(ctx context.Context) *http.Response {
	t.g.late.mu.Lock()
	f := t.g.late.flying[t.place]
	var s *shared
	if f != nil {
		s = f.shared
	}
	t.g.late.mu.Unlock()
	if s == nil || t.g.c.Now().Sub(s.at) > shareFor || s.request != t.fingerprint() {
		return nil
	}
	// What ended while it waited is not given out again.
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place)
	if err != nil || st.Revoked || st.Told || st.Doubted || t.g.note(t.v, "issued", "repeated", "in_flight") != nil {
		return nil
	}
	return t.reply(s.status, s.header.Clone(), s.body)
}
