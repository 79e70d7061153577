package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"golang.org/x/time/rate"

	"understudy/health"
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

// kept returns the derived secret where it was derived before, and under which name it would be.
func (s *secrets) kept(tenant, issuer, client, secret string) (key []byte, name [32]byte) {
	m := hmac.New(sha256.New, s.fast)
	for _, p := range []string{tenant, issuer, client, secret} {
		m.Write([]byte(p))
		m.Write([]byte{0})
	}
	name = [32]byte(m.Sum(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.derived[name], name
}

// key returns the derived secret, or false where too many were tried, or ctx ended first. It is only called for a client
// that presents an artifact of its own, or that the primary approved: who sends names at random gets no work done.
func (s *secrets) key(ctx context.Context, tenant, issuer, client, secret, address string) ([]byte, bool) {
	k, name := s.kept(tenant, issuer, client, secret)
	if k != nil {
		return k, true
	}
	if !s.allow(tenant + "\x00" + client + "\x00" + health.Network(address)) {
		return nil, false
	}
	select {
	case s.work <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	k = s.seal.SecretKey(tenant, issuer, client, secret)
	<-s.work
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.derived) >= maxDerived {
		clear(s.derived)
	}
	s.derived[name] = k
	return k, true
}

// allow says whether one more secret may be tried.
func (s *secrets) allow(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lim := s.attempts[who]
	if lim == nil {
		if len(s.attempts) >= maxAttempts {
			clear(s.attempts)
		}
		lim = rate.NewLimiter(rate.Limit(0.2), 10)
		s.attempts[who] = lim
	}
	return lim.Allow()
}
