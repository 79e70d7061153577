package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// wire is one HTTP/1.1 connection without anything that could repeat a request.
type wire struct {
	c net.Conn
	r *bufio.Reader
}

func dial(ctx context.Context, addr string) (*wire, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{c, bufio.NewReaderSize(c, 16<<10)}, nil
}

var asPost = &http.Request{Method: http.MethodPost}

// reply is a whole reply.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request as it is and reads the whole reply, within a minute.
func (w *wire) do(request []byte) (*reply, error) {
	w.c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := w.c.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(w.r, asPost)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := &reply{status: resp.StatusCode, header: resp.Header}
	if n := resp.ContentLength; n >= 0 && n < 1<<20 {
		out.body = make([]byte, n)
		_, err = io.ReadFull(resp.Body, out.body)
	} else {
		out.body, err = io.ReadAll(resp.Body)
	}
	if err == nil && resp.Close {
		err = errClosing
	}
	return out, err
}

var errClosing = errors.New("the server closes the connection")

// call is one request, and what must be true of its reply.
type call struct {
	request []byte
	check   func(*reply) error
	// then is called when the reply has been checked, for the request that belongs to this one: both are one for who counts.
	// nil, and a nil call: none does.
	then func() *call
}

// load is a closed loop: each connection sends its next request when the reply to the one before has been checked.
type load struct {
	addr  string
	conns int
	// next returns a connection's next call, nil at the end.
	next func(conn int) *call
	// most bounds the requests of one run; 0: no bound.
	most int64
}

// run loads for d, or to the end of all calls where d is 0. It ends at the first reply that is not right.
func (l load) run(ctx context.Context, d time.Duration) (done int, took []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards done, took and err
	end := time.Now().Add(d)
	var sent atomic.Int64
	for i := range l.conns {
		wg.Go(func() {
			ds, e := l.worker(ctx, i, &sent, d, end)
			mu.Lock()
			defer mu.Unlock()
			done += len(ds)
			took = append(took, ds...)
			if e != nil && err == nil {
				err = e
				cancel()
			}
		})
	}
	wg.Wait()
	return done, took, errors.Join(err, ctx.Err())
}

func (l load) worker(ctx context.Context, i int, sent *atomic.Int64, d time.Duration, end time.Time) (took []time.Duration, err error) {
	w, err := dial(ctx, l.addr)
	if err != nil {
		return nil, err
	}
	defer w.c.Close()
	for ctx.Err() == nil && (d == 0 || time.Now().Before(end)) {
		if l.most > 0 && sent.Add(1) > l.most {
			break
		}
		c := l.next(i)
		if c == nil {
			break
		}
		var all time.Duration
		for c != nil {
			began := time.Now()
			r, err := w.do(c.request)
			if err == nil {
				all += time.Since(began)
				err = c.check(r)
			}
			if err != nil {
				return took, fmt.Errorf("request %d of connection %d: %w", len(took), i, err)
			}
			if c.then == nil {
				break
			}
			c = c.then()
		}
		took = append(took, all)
	}
	return took, nil
}

// text is the value of a member of a compact JSON object, where it is a string without escapes.
func text(body []byte, name string) string {
	_, rest, ok := bytes.Cut(body, []byte(`"`+name+`":"`))
	if !ok {
		return ""
	}
	v, _, _ := bytes.Cut(rest, []byte{'"'})
	return string(v)
}

// keyOf is the kid in the header of a JWT, "" where there is none.
func keyOf(jwt string) string {
	head, _, _ := strings.Cut(jwt, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return ""
	}
	return text(bytes.ReplaceAll(b, []byte(`" : "`), []byte(`":"`)), "kid")
}

func post(host, path, auth, headers, form string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: application/x-www-form-urlencoded\r\n%sContent-Length: %d\r\n\r\n%s",
		path, host, auth, headers, len(form), form)
}

func get(host, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n\r\n", path, host)
}

func decode(b []byte, v any) error { return json.Unmarshal(b, v) }
