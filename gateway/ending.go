package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"time"

	"understudy/flow"
	"understudy/session"
)

// endDeadline is how long the primary has for a revocation or a logout before it is done here: it may have to tell others.
const endDeadline = 5 * time.Second

// ending is the way of a request that ends something, or that shows that something must end: a revocation, a logout, a code
// that may be presented again. What becomes of it must be known although its client leaves, and where the primary is silent
// what it asks for is done here.
func (t *trip) ending(ctx context.Context) (*http.Response, error) {
	isCode := t.ask.Artifact.Kind == session.Code
	if isCode {
		if resp := t.g.late.unseen(ctx, t); resp != nil {
			return resp, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err // nothing is sent for who has left
		}
	}
	opened := t.monitor.Opened() // closed already where the breaker is open
	up, cancel := t.g.late.outlive(ctx)
	finish := t.g.late.track()
	done := make(chan result, 1)
	t.sent, t.flying = t.g.c.Now(), true
	go func() {
		o, resp := t.send(up, t.v.request.Body)
		done <- result{o, resp}
	}()
	leave := func(keep *unseen) {
		rest := *t
		left := t.v.tenant.leave(cancel)
		go func() {
			defer cancel()
			defer finish()
			defer left()
			r := <-done
			resp, err := rest.settle(context.WithoutCancel(ctx), r.o, r.resp)
			if e := rest.v.tenant.undelivered.landed(rest.owed, rest.heard); e != nil {
				rest.g.c.Log.Error("what the primary has heard cannot be removed", "tenant", rest.v.tenant.Name, "error", e)
			}
			if keep != nil {
				keep.take(resp)
			}
			if err == nil {
				resp.Body.Close()
			}
		}()
	}
	var timer <-chan time.Time
	if !isCode { // which is asked of the primary for as long as its client likes
		tm := time.NewTimer(endDeadline)
		defer tm.Stop()
		timer = tm.C
	}
	for {
		select {
		case r := <-done:
			cancel()
			finish()
			t.flying = false
			return t.settle(ctx, r.o, r.resp)
		case <-ctx.Done():
			var keep *unseen
			if isCode {
				keep = t.g.late.leave(t)
			}
			leave(keep)
			return nil, ctx.Err()
		case <-timer:
			timer = nil
		case <-opened:
			opened = nil
			t.codeAgain(ctx)
		}
		if resp := t.endHere(ctx); resp != nil {
			leave(nil)
			return resp, nil
		}
	}
}

// ends says whether a request asks for the end of something.
func (v *visit) ends() bool { return v.endpoint == flow.Revocation || v.endpoint == flow.EndSession }

// unseen is the primary's reply to a code whose client left before it came. It is kept in memory for a minute, for whoever
// repeats the very request (design, law 11: a code is not sent twice); who was answered and comes again is the primary's to
// judge.
type unseen struct {
	request [sha256.Size]byte
	address string        // of the client
	sent    time.Time     // when the code was
	came    chan struct{} // closed when the reply is here
	status  int           // 0: there was none
	header  http.Header
	body    []byte
}

const (
	unseenFor = time.Minute
	maxUnseen = 1000
	// maxUnseenOf bounds those of one address: nobody takes the places of others.
	maxUnseenOf = 100
)

// leave notes that the client of a code's exchange has left; nil where too many have.
func (l *late) leave(t *trip) *unseen {
	u := &unseen{request: t.fingerprint(), address: t.v.address, sent: t.sent, came: make(chan struct{})}
	id := t.lookup
	l.mu.Lock()
	defer l.mu.Unlock()
	theirs := 0
	for _, x := range l.codes {
		if x.address == u.address {
			theirs++
		}
	}
	if len(l.codes) >= maxUnseen || theirs >= maxUnseenOf {
		return nil
	}
	l.codes[id] = u
	time.AfterFunc(unseenFor, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.codes[id] == u {
			delete(l.codes, id)
		}
	})
	return u
}

// take keeps the reply.
func (u *unseen) take(resp *http.Response) {
	defer close(u.came)
	if resp == nil {
		return
	}
	body, err := io.ReadAll(resp.Body) // from memory
	if err != nil {
		return
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	u.status, u.header, u.body = resp.StatusCode, resp.Header.Clone(), body
}

// unseen waits for the reply that the same request did not see, and gives it out once; nil where there is none.
func (l *late) unseen(ctx context.Context, t *trip) *http.Response {
	l.mu.Lock()
	u := l.codes[t.lookup]
	l.mu.Unlock()
	if u == nil || u.request != t.fingerprint() {
		return nil
	}
	select {
	case <-u.came:
	case <-ctx.Done():
		return nil
	}
	l.mu.Lock()
	first := l.codes[t.lookup] == u
	if first {
		delete(l.codes, t.lookup)
	}
	l.mu.Unlock()
	if !first || u.status == 0 {
		return nil
	}
	// What ended while it waited is not given out.
	o := &outcome{endpoint: t.v.endpoint, status: u.status, header: u.header, body: u.body, sent: true}
	classify(t.g.rules, o)
	t.sent = u.sent
	if u.status == http.StatusOK && t.barred(ctx, o) {
		t.g.note(t.v, "refused", "revoked", "revoked_here")
		return t.refuse(flow.No("revoked", http.StatusBadRequest, "invalid_grant"))
	}
	return t.reply(u.status, u.header.Clone(), u.body)
}
