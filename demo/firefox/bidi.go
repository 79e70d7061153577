package firefox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/net/websocket"
)

// origin is what the connection says it comes from. The browser refuses pages that would command it.
const origin = "http://127.0.0.1"

// Session commands a browser by WebDriver BiDi (W3C), which Firefox speaks itself.
type Session struct {
	conn *websocket.Conn

	mu      sync.Mutex // guards what follows, and that one command is written at a time
	next    int
	waiting map[int]chan reply // by the command's id
	ended   error              // why nothing is read any more
}

type reply struct {
	ID             int
	Type           string // success, error, event
	Result         json.RawMessage
	Error, Message string
}

// dial connects to a browser and begins a session.
func dial(ctx context.Context, address string) (*Session, error) {
	config, err := websocket.NewConfig(address, origin)
	if err != nil {
		return nil, err
	}
	conn, err := config.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	s := &Session{conn: conn, waiting: map[int]chan reply{}}
	go s.read()
	if err := s.call(ctx, "session.new", map[string]any{"capabilities": map[string]any{}}, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// read hands replies to who waits for them, until the connection ends.
func (s *Session) read() {
	for {
		var r reply
		err := websocket.JSON.Receive(s.conn, &r)
		s.mu.Lock()
		if err != nil {
			s.ended = err
			for _, c := range s.waiting {
				close(c)
			}
			s.waiting = nil
			s.mu.Unlock()
			return
		}
		if c := s.waiting[r.ID]; c != nil && r.Type != "event" {
			c <- r
			delete(s.waiting, r.ID)
		}
		s.mu.Unlock()
	}
}

// call sends a command and waits for its result.
func (s *Session) call(ctx context.Context, method string, params, result any) error {
	c := make(chan reply, 1)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", method, s.ended)
	}
	s.next++
	id := s.next
	s.waiting[id] = c
	err := websocket.JSON.Send(s.conn, map[string]any{"id": id, "method": method, "params": params})
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", method, ctx.Err())
	case r, ok := <-c:
		if !ok {
			return fmt.Errorf("%s: the browser is gone", method)
		}
		if r.Type == "error" {
			return fmt.Errorf("%s: %s: %s", method, r.Error, r.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(r.Result, result)
	}
}

// Tab is a tab of a browser.
type Tab struct {
	s  *Session
	id string
}

// Open opens an empty tab in front of the others.
func (s *Session) Open(ctx context.Context) (*Tab, error) {
	var r struct{ Context string }
	if err := s.call(ctx, "browsingContext.create", map[string]any{"type": "tab"}, &r); err != nil {
		return nil, err
	}
	return &Tab{s, r.Context}, nil
}

// Close closes the tab.
func (t *Tab) Close(ctx context.Context) error {
	return t.s.call(ctx, "browsingContext.close", map[string]any{"context": t.id}, nil)
}

// Navigate leads the tab to a URL. It does not wait for the page.
func (t *Tab) Navigate(ctx context.Context, url string) error {
	return t.s.call(ctx, "browsingContext.navigate", map[string]any{"context": t.id, "url": url, "wait": "none"}, nil)
}

// Reload loads the tab's page again. It does not wait for the page.
func (t *Tab) Reload(ctx context.Context) error {
	return t.s.call(ctx, "browsingContext.reload", map[string]any{"context": t.id, "wait": "none"}, nil)
}

// Evaluate runs a script in the page, as if a person had caused it, and returns the text that it, or its promise, comes to.
func (t *Tab) Evaluate(ctx context.Context, script string) (string, error) {
	var r struct {
		Type             string // success, exception
		Result           struct{ Type, Value string }
		ExceptionDetails struct{ Text string }
	}
	if err := t.s.call(ctx, "script.evaluate", map[string]any{
		"expression": script, "target": map[string]any{"context": t.id}, "awaitPromise": true, "userActivation": true,
	}, &r); err != nil {
		return "", err
	}
	if r.Type != "success" {
		return "", errors.New(r.ExceptionDetails.Text)
	}
	if r.Result.Type != "string" {
		return "", fmt.Errorf("the script comes to a %s", r.Result.Type)
	}
	return r.Result.Value, nil
}
