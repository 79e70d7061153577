package serve

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// crowd bounds how many connections of clients are open, so that file handles are left for the primary and the store:
// beyond the bound the connection that has been idle for longest is closed. Nobody who is being answered is cut off.
type crowd struct {
	max int

	mu    sync.Mutex // guards what follows
	count int
	idle  *list.List // of net.Conn, the longest idle first
	where map[net.Conn]*list.Element
	shed  uint64
}

// newCrowd bounds by the process's limit of file handles: every client's request may need one to the primary.
func newCrowd() *crowd {
	limit := 20_000
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err == nil && r.Cur < 1<<30 {
		limit = int(r.Cur)
	}
	return &crowd{max: max(64, limit*6/10), idle: list.New(), where: map[net.Conn]*list.Element{}}
}

// state is for http.Server.ConnState.
func (c *crowd) state(conn net.Conn, s http.ConnState) {
	var victim net.Conn
	c.mu.Lock()
	if e := c.where[conn]; e != nil {
		c.idle.Remove(e)
		delete(c.where, conn)
	}
	switch s {
	case http.StateNew:
		c.count++
		c.where[conn] = c.idle.PushBack(conn) // it has said nothing yet
	case http.StateIdle:
		c.where[conn] = c.idle.PushBack(conn)
	case http.StateHijacked, http.StateClosed:
		c.count--
	}
	if c.count > c.max && s == http.StateNew {
		if e := c.idle.Front(); e != nil {
			victim = e.Value.(net.Conn)
			c.shed++
		}
	}
	c.mu.Unlock()
	if victim != nil {
		victim.Close() // the server notices, and tells of StateClosed
	}
}

// numbers are the open connections and how many were closed because there were too many.
func (c *crowd) numbers() (open int, shed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.shed
}
