package gateway

import (
	"context"
	"net/http"
	"time"

	"understudy/flow"
	"understudy/session"
)

// ending is the way of a request that ends something, or that shows that something must end: a revocation, a logout, a code
// that may be presented again. What becomes of it must be known although its client leaves, and where the primary is silent
// what it asks for is done here.
func (t *trip) ending(ctx context.Context) (*http.Response, error) {
	opened := t.monitor.Opened() // closed already where the breaker is open
	up, cancel := t.g.late.outlive(ctx)
	finish := t.g.late.track()
	done := make(chan result, 1)
	t.sent = t.g.c.Now()
	go func() {
		o, resp := t.send(up, t.v.request.Body)
		done <- result{o, resp}
	}()
	leave := func() {
		rest := *t
		go func() {
			defer cancel()
			defer finish()
			r := <-done
			if resp, err := rest.settle(context.WithoutCancel(ctx), r.o, r.resp); err == nil {
				resp.Body.Close()
			}
		}()
	}
	var timer <-chan time.Time
	if t.ask.Artifact.Kind != session.Code { // which is asked of the primary for as long as its client likes
		tm := time.NewTimer(t.monitor.Deadline())
		defer tm.Stop()
		timer = tm.C
	}
	for {
		select {
		case r := <-done:
			cancel()
			finish()
			return t.settle(ctx, r.o, r.resp)
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		case <-timer:
			timer = nil
		case <-opened:
			opened = nil
			t.codeAgain(ctx)
		}
		if resp := t.endHere(ctx); resp != nil {
			leave()
			return resp, nil
		}
	}
}

// ends says whether a request asks for the end of something.
func (v *visit) ends() bool { return v.endpoint == flow.Revocation || v.endpoint == flow.EndSession }
