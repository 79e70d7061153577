package session

import "sync"

// kept keeps decoded values of a few keys that are asked for with every request and seldom change: reading them from the
// store would merge all their versions each time. All writes of such a key pass through put, before they are applied, so
// that the newest is known here first; should its batch fail, the store has failed.
type kept[T any] struct {
	mu sync.RWMutex // guards m
	m  map[string]versioned[T]
}

type versioned[T any] struct {
	version int64
	value   T
}

// maxKept bounds what is kept of what was read; what was written here is always kept.
const maxKept = 65536

func (c *kept[T]) get(key []byte) (v T, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.m[string(key)]
	return e.value, ok
}

// read keeps what the store held, unless something newer was put meanwhile.
func (c *kept[T]) read(key []byte, version int64, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.m[string(key)]; !there && len(c.m) < maxKept {
		c.set(key, version, v)
	}
}

// put keeps what is about to be written; of two the newer stays.
func (c *kept[T]) put(key []byte, version int64, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, there := c.m[string(key)]; !there || e.version <= version {
		c.set(key, version, v)
	}
}

func (c *kept[T]) set(key []byte, version int64, v T) {
	if c.m == nil {
		c.m = map[string]versioned[T]{}
	}
	c.m[string(key)] = versioned[T]{version, v}
}
