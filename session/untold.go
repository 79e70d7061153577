package session

import (
	"context"
	"fmt"
	"sync"
)

// untold remembers at which tenants something was ended for good of which the primary may not know. It is read from the store before the
// first answer, and noted before a mark is written; it never lacks a tenant, and may name one whose marks are over.
type untold struct {
	mu      sync.Mutex
	tenants map[string]bool // false: there was no such mark when it was read
}

func (u *untold) note(tenant string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tenants == nil {
		u.tenants = map[string]bool{}
	}
	u.tenants[tenant] = true
}

// Untold says whether there is, or was since the process began, a final mark at the tenant of which the primary may not know.
func (s *Store) Untold(ctx context.Context, tenant string) (bool, error) {
	s.untold.mu.Lock()
	yes, known := s.untold.tenants[tenant]
	s.untold.mu.Unlock()
	if known {
		return yes, nil
	}
	err := s.Marks(ctx, tenant, func(m Mark) error {
		yes = yes || m.Final && !m.Told
		return nil
	})
	if err != nil {
		return true, fmt.Errorf("read the marks: %w", err)
	}
	s.untold.mu.Lock()
	defer s.untold.mu.Unlock()
	if s.untold.tenants == nil {
		s.untold.tenants = map[string]bool{}
	}
	yes = yes || s.untold.tenants[tenant] // noted meanwhile
	s.untold.tenants[tenant] = yes
	return yes, nil
}
