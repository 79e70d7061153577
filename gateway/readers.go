package gateway

import (
	"sync"

	"understudy/health"
)

// readers bounds the bodies that are being received, which lie in memory: in all, and a quarter of them for one network.
type readers struct {
	max int

	mu   sync.Mutex // guards what follows
	all  int
	from map[string]int
}

func newReaders(n int) *readers { return &readers{max: n, from: map[string]int{}} }

// begin returns nil where there are too many.
func (r *readers) begin(address string) (done func()) {
	network := health.Network(address)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= r.max || r.from[network] >= max(1, r.max/4) {
		return nil
	}
	r.all++
	r.from[network]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.from[network]--; r.from[network] == 0 {
			delete(r.from, network)
		}
	}
}
