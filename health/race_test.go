package health

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// Everything at once, for the race detector; afterwards the monitor must still come back.
func TestFromAllSidesAtOnce(t *testing.T) {
	with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := range 200 {
					grant, from := fmt.Sprint(w, "/", i%7), fmt.Sprintf("192.0.2.%d", w)
					done := m.Sent(grant, from)
					time.Sleep(time.Duration(i%13) * time.Millisecond)
					switch i % 5 {
					case 0:
						m.FailureBy(grant, from, Doubt)
					case 1:
						m.FailureBy(grant, from, Beyond)
					case 2:
						m.Refused(grant, from)
					default:
						m.Success(grant, done())
						m.Accepted(grant)
					}
					if i%50 == 0 {
						p.set(map[bool]error{true: errAway}[w%2 == 0], false)
						m.Suspect(t.Context())
					}
					done()
					m.Serving(uint32(i))
					m.Elsewhere(grant)
					m.State()
					m.Outage()
					m.Resume()
				}
			})
		}
		wg.Wait()
		p.set(nil, false)
		until(t, m, "closed")
	})
}
