package serve

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"understudy/gateway"
)

// front passes each request to the gateway that is in force. A gateway that was replaced goes on with what it has
// begun; late replies of the primary among it.
type front struct {
	cur atomic.Pointer[running]

	mu    sync.Mutex // guards what follows
	gone  map[string]uint64
	older map[*running]struct{} // replaced, not ended yet
	wg    sync.WaitGroup
}

// running is a gateway with its background work.
type running struct {
	g      *gateway.Gateway
	flight atomic.Int64 // requests in it
	end    context.CancelFunc
	done   chan struct{}
	err    error // why the work ended; set before done is closed
}

// lateTime is how long a replaced gateway stays for replies that come late: longer than it waits for one.
const lateTime = 75 * time.Second

// drainTime is how long it stays for requests that do not end.
const drainTime = 10 * time.Minute

func newFront() *front {
	return &front{gone: map[string]uint64{}, older: map[*running]struct{}{}}
}

// use starts a gateway's work, which lives until the gateway is replaced or stop is called, and puts it in force.
func (f *front) use(g *gateway.Gateway) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{g: g, end: cancel, done: make(chan struct{})}
	f.wg.Go(func() {
		r.err = g.Run(ctx)
		close(r.done)
	})
	if old := f.cur.Swap(r); old != nil {
		f.mu.Lock()
		f.older[old] = struct{}{}
		f.mu.Unlock()
		f.wg.Go(func() { f.retire(old) })
	}
	return r
}

func (f *front) retire(r *running) {
	replaced := time.Now()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
wait:
	for {
		select {
		case <-r.done:
			break wait
		case <-tick.C:
		}
		since := time.Since(replaced)
		if since > drainTime || since > lateTime && r.flight.Load() == 0 {
			break
		}
	}
	r.end()
	<-r.done
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.older, r)
	for k, v := range r.g.Counts.Snapshot() {
		f.gone[k] += v
	}
}

// stop ends every gateway's work and waits for it.
func (f *front) stop() {
	f.mu.Lock()
	for r := range f.older {
		r.end()
	}
	f.mu.Unlock()
	f.cur.Load().end()
	f.wg.Wait()
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cur := f.cur.Load()
	cur.flight.Add(1)
	defer cur.flight.Add(-1)
	cur.g.ServeHTTP(w, r)
}

// gateway is the one in force.
func (f *front) gateway() *gateway.Gateway { return f.cur.Load().g }

// counts are the counters of all gateways of this process, those that were replaced too.
func (f *front) counts() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.gateway().Counts.Snapshot()
	for k, v := range f.gone {
		out[k] += v
	}
	for r := range f.older {
		for k, v := range r.g.Counts.Snapshot() {
			out[k] += v
		}
	}
	return out
}
