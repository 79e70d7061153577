package health

import (
	"math/bits"
	"time"
)

const (
	latencySpan  = 30 * time.Second // the window slides in steps of this
	latencyFew   = 5                // fewer answers say nothing
	latencyUnset = time.Second / 3  // what is taken for few answers
	latencyTop   = 96               // buckets: 4 for each doubling of a millisecond, up to over a day
)

// latencies are the primary's recent answers by how long they took: of the last whole span, and of the one under way.
type latencies struct {
	now, before counts
	began       time.Time
}

type counts struct {
	n       uint64
	buckets [latencyTop]uint64
}

func (l *latencies) add(now time.Time, d time.Duration) {
	switch age := now.Sub(l.began); {
	case age >= 2*latencySpan || l.now.n == 0 && l.before.n == 0:
		// After a long silence the old pace is the best that is known: it stays as the former span.
		if l.now.n > 0 {
			l.before = l.now
		}
		l.now, l.began = counts{}, now
	case age >= latencySpan:
		l.before, l.now, l.began = l.now, counts{}, now
	}
	l.now.n++
	l.now.buckets[bucket(d)]++
}

// high is the time within which 99 of 100 answers came, rounded up by at most a quarter.
func (l *latencies) high() time.Duration { return l.within(100) }

// middle is the time within which half of the answers came, rounded up likewise. A primary that was slow for a while, or has
// just started, moves it little.
func (l *latencies) middle() time.Duration { return l.within(2) }

// within is the time within which all answers came but one in so many.
func (l *latencies) within(one uint64) time.Duration {
	n := l.now.n + l.before.n
	if n < latencyFew {
		return latencyUnset
	}
	above := n / one // answers that may lie higher
	for i := latencyTop - 1; i > 0; i-- {
		in := l.now.buckets[i] + l.before.buckets[i]
		if in > above {
			return upper(i)
		}
		above -= in
	}
	return upper(0)
}

// bucket is where a duration counts: below 1 ms in 0, and then in quarters of each doubling.
func bucket(d time.Duration) int {
	ms4 := uint64(max(d, 0)) * 4 / uint64(time.Millisecond)
	if ms4 < 4 {
		return 0
	}
	exp := bits.Len64(ms4) - 3 // ms4>>exp is 4, 5, 6 or 7
	return min(1+exp*4+int(ms4>>exp)-4, latencyTop-1)
}

// upper is the upper end of a bucket.
func upper(i int) time.Duration {
	if i == 0 {
		return time.Millisecond
	}
	exp, quarter := (i-1)/4, (i-1)%4
	return time.Duration(quarter+5) << exp * time.Millisecond / 4
}
