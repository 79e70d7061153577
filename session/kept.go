package session

import (
	"cmp"
	"sync"
)

// kept keeps decoded values of keys that are asked for again and again: reading one from the store walks all its levels
// and merges its versions. All writes of such a key pass through put, before they are applied, so that the newest is known
// here first; should its batch fail, the store has failed.
//
// It forgets in two generations. What was forgotten may have been newer than what is read or written late, so nothing
// comes in that is not newer than everything forgotten.
type kept[T any] struct {
	limit      int
	mu         sync.RWMutex // guards what follows
	young, old map[string]versioned[T]
	newest     int64 // the greatest version in young
	oldNewest  int64 // the greatest version in old
	forgotten  int64 // no key that is not here was ever put with a greater version
}

type versioned[T any] struct {
	version int64
	value   T
}

// maxKept bounds each of the two generations where limit is 0.
const maxKept = 16384

func (c *kept[T]) get(key []byte) (v T, ok bool) {
	c.mu.RLock()
	e, ok := c.young[string(key)]
	if ok {
		c.mu.RUnlock()
		return e.value, true
	}
	_, ok = c.old[string(key)]
	c.mu.RUnlock()
	if !ok {
		return v, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok = c.find(key); ok {
		c.set(key, e)
	}
	return e.value, ok
}

// put keeps what is about to be written; of two the newer stays. Of two that are equally new the store chooses, and says
// which when it is asked.
func (c *kept[T]) put(key []byte, version int64, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, there := c.find(key)
	switch {
	case there && version == e.version:
		c.drop(key, version)
	case there && version > e.version, !there && version > c.forgotten:
		c.set(key, versioned[T]{version, v})
	}
}

// forget forgets a key unless it was put with a greater version.
func (c *kept[T]) forget(key []byte, version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, there := c.find(key); there && e.version <= version {
		c.drop(key, version)
	}
}

// read keeps what the store held, unless something newer was put meanwhile.
func (c *kept[T]) read(key []byte, version int64, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.find(key); !there && version > c.forgotten {
		c.set(key, versioned[T]{version, v})
	}
}

func (c *kept[T]) find(key []byte) (versioned[T], bool) {
	if e, ok := c.young[string(key)]; ok {
		return e, true
	}
	e, ok := c.old[string(key)]
	return e, ok
}

func (c *kept[T]) drop(key []byte, version int64) {
	delete(c.young, string(key))
	delete(c.old, string(key))
	c.forgotten = max(c.forgotten, version)
}

func (c *kept[T]) set(key []byte, e versioned[T]) {
	if _, ok := c.young[string(key)]; !ok && len(c.young) >= cmp.Or(c.limit, maxKept) {
		c.forgotten = max(c.forgotten, c.oldNewest)
		c.old, c.oldNewest = c.young, c.newest
		c.young, c.newest = nil, 0
	}
	if c.young == nil {
		c.young = make(map[string]versioned[T])
	}
	c.young[string(key)] = e
	c.newest = max(c.newest, e.version)
}
