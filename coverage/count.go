package coverage

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"understudy/session"
)

// sketch counts distinct things: exactly while they are few, and beyond that with an error of some 7 % in 256 bytes
// (HyperLogLog: Flajolet and others, 2007).
type sketch struct {
	few  []uint64 // as long as there are no more than fewest
	many *[registers]uint8
}

const (
	fewest    = 64
	registers = 256
)

func (s *sketch) add(x uint64) {
	if s.many == nil {
		if slices.Contains(s.few, x) {
			return
		}
		if len(s.few) < fewest {
			s.few = append(s.few, x)
			return
		}
		s.spread()
	}
	s.put(x)
}

func (s *sketch) spread() {
	s.many = &[registers]uint8{}
	for _, x := range s.few {
		s.put(x)
	}
	s.few = nil
}

func (s *sketch) put(x uint64) {
	i := x % registers
	rank := uint8(bits.LeadingZeros64(x|registers-1)) + 1
	s.many[i] = max(s.many[i], rank)
}

func (s *sketch) count() int {
	if s.many == nil {
		return len(s.few)
	}
	sum, zeros := 0.0, 0
	for _, r := range s.many {
		if r == 0 {
			zeros++
		}
		sum += math.Exp2(-float64(r))
	}
	const m = float64(registers)
	n := 0.7213 / (1 + 1.079/m) * m * m / sum
	if n <= 2.5*m && zeros > 0 {
		n = m * math.Log(m/float64(zeros))
	}
	return int(math.Round(n))
}

// with counts what is in either.
func (s *sketch) with(o *sketch) int {
	all := sketch{few: slices.Clone(s.few)}
	if s.many != nil {
		many := *s.many
		all.many = &many
	}
	for _, x := range o.few {
		all.add(x)
	}
	if o.many != nil {
		if all.many == nil {
			all.spread()
		}
		for i, r := range o.many {
			all.many[i] = max(all.many[i], r)
		}
	}
	return all.count()
}

// variety tells who asks for the same again from who asks for something else each time.
type variety struct {
	held       map[uint64]struct{}
	fresh, all uint64
}

const (
	maxHeld = 64
	// many is how many different things an application must have asked for before that is held against it.
	many = 4
)

// count counts one that is known to differ, or not to.
func (v *variety) count(fresh bool) {
	if v.all++; fresh {
		v.fresh++
	}
}

func (v *variety) add(x uint64) {
	_, again := v.held[x]
	if v.count(!again); again {
		return
	}
	if v.held == nil {
		v.held = map[uint64]struct{}{}
	}
	if len(v.held) < maxHeld {
		v.held[x] = struct{}{}
	}
}

// part is how many of n will ask for what was not approved before.
func (v *variety) part(n int) int {
	if v.fresh < many || v.fresh*2 <= v.all {
		return 0
	}
	return int(math.Round(float64(n) * float64(v.fresh) / float64(v.all)))
}

func hash(parts []string) uint64 {
	h := sha256.Sum256([]byte(session.Joined(parts...)))
	return binary.BigEndian.Uint64(h[:])
}
