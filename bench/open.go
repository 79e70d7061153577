package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// shot is one request of an open loop: it is due at a time, whatever became of the ones before.
type shot struct {
	due     time.Time
	took    time.Duration // from when it was due
	session int
	kid     string // of the ID token
	err     error  // why the reply is not right; nil: it is
}

// open sends refreshes at a fixed rate, each session in its turn, and never repeats one.
type open struct {
	s    *sessions
	rate int // a second
	want check

	mu    sync.Mutex // guards what follows
	idle  []*wire
	shots []shot
	last  time.Time // when the backup answered last
}

// run sends until ctx ends, and waits for the replies.
func (o *open) run(ctx context.Context) {
	var wg sync.WaitGroup
	began := time.Now()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(o.rate))
		select {
		case <-ctx.Done():
			wg.Wait()
			for _, w := range o.idle {
				w.c.Close()
			}
			return
		case <-time.After(time.Until(due)):
		}
		wg.Go(func() { o.shoot(i%len(o.s.tokens), due) })
	}
}

func (o *open) shoot(session int, due time.Time) {
	x := shot{due: due, session: session}
	w, err := o.take()
	if err == nil {
		o.mu.Lock() // the session's refresh token is read, and replaced below
		c := o.s.refresh(session, o.want, "")
		o.mu.Unlock()
		r, e := w.do(c.request)
		err = e
		keep := err == nil
		if keep || errors.Is(err, errClosing) {
			o.mu.Lock()
			err = c.check(r)
			o.mu.Unlock()
			x.kid = keyOf(text(r.body, "id_token"))
		}
		if keep {
			o.give(w)
			w = nil
		}
	}
	if w != nil {
		w.c.Close()
	}
	x.took, x.err = time.Since(due), err
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shots = append(o.shots, x)
	if strings.HasPrefix(x.kid, "bk-") && due.After(o.last) {
		o.last = due
	}
}

func (o *open) take() (*wire, error) {
	o.mu.Lock()
	if n := len(o.idle); n > 0 {
		w := o.idle[n-1]
		o.idle = o.idle[:n-1]
		o.mu.Unlock()
		return w, nil
	}
	o.mu.Unlock()
	return dial(context.Background(), o.s.addr)
}

func (o *open) give(w *wire) {
	o.mu.Lock()
	o.idle = append(o.idle, w)
	o.mu.Unlock()
}

// backupLast is when a request was due that the backup answered last.
func (o *open) backupLast() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// between returns how long the requests took that were due in [from, to).
func (o *open) between(from, to time.Time) (ds []time.Duration) {
	for _, s := range o.shots {
		if !s.due.Before(from) && s.due.Before(to) {
			ds = append(ds, s.took)
		}
	}
	return ds
}
