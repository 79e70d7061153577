package serve

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// A body may take as long as it likes while it comes: bodyStart for the first bytes, a second more for every bodyRate
// bytes, and never bodyPause without one.
const (
	bodyStart = 20 * time.Second
	bodyRate  = 500
	bodyPause = 60 * time.Second
)

// bodyDeadlines ends request bodies that trickle in, and no others: an upload of hours is fine.
func bodyDeadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &pacedBody{ReadCloser: r.Body, conn: http.NewResponseController(w), began: time.Now()}
		}
		next.ServeHTTP(w, r)
	})
}

type pacedBody struct {
	io.ReadCloser
	conn  *http.ResponseController
	began time.Time
	n     int64
	ended bool
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.ended {
		return b.ReadCloser.Read(p)
	}
	now := time.Now()
	by := b.began.Add(bodyStart + time.Duration(b.n/bodyRate)*time.Second)
	if pause := now.Add(bodyPause); pause.Before(by) {
		by = pause
	}
	b.conn.SetReadDeadline(by) // where it is not supported there is nothing to hold up
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	// From the end on the server reads to notice a client that leaves: it has cleared the deadline, and it stays so.
	b.ended = errors.Is(err, io.EOF)
	return n, err
}
