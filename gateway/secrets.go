package gateway

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"golang.org/x/time/rate"

	"understudy/session"
)

// secrets remembers, in this process only, what the slow derivation made of client secrets, and bounds how much of it
// runs: work in all, and attempts with unknown secrets per client and address.
type secrets struct {
	seal *session.Sealer
	fast []byte        // key of the map: the secrets themselves are not kept
	work chan struct{} // derivations at a time

	mu       sync.Mutex // guards what follows
	derived  map[[32]byte][]byte
	attempts map[string]*rate.Limiter
}

const (
	maxDerived  = 10_000
	maxAttempts = 10_000
)

func newSecrets(s *session.Sealer) *secrets {
	fast := make([]byte, 32)
	rand.Read(fast)
	return &secrets{seal: s, fast: fast, work: make(chan struct{}, 1), derived: map[[32]byte][]byte{}, attempts: map[string]*rate.Limiter{}}
}

// key returns the derived secret, or false where too many were tried.
func (s *secrets) key(tenant, issuer, client, secret, address string) ([]byte, bool) {
	m := hmac.New(sha256.New, s.fast)
	for _, p := range []string{tenant, issuer, client, secret} {
		m.Write([]byte(p))
		m.Write([]byte{0})
	}
	id := [32]byte(m.Sum(nil))
	s.mu.Lock()
	if k, ok := s.derived[id]; ok {
		s.mu.Unlock()
		return k, true
	}
	who := tenant + "\x00" + client + "\x00" + address
	lim := s.attempts[who]
	if lim == nil {
		if len(s.attempts) >= maxAttempts {
			clear(s.attempts)
		}
		lim = rate.NewLimiter(rate.Limit(0.2), 10)
		s.attempts[who] = lim
	}
	ok := lim.Allow()
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	s.work <- struct{}{}
	k := s.seal.SecretKey(tenant, issuer, client, secret)
	<-s.work
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.derived) >= maxDerived {
		clear(s.derived)
	}
	s.derived[id] = k
	return k, true
}
