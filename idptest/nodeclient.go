package idptest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// NodeClient is an unmodified client library in a Node.js process of its own, which keeps its tokens, driven with one
// JSON object a line.
type NodeClient struct {
	p *Process

	mu      sync.Mutex // guards what follows
	in      io.WriteCloser
	next    int
	waiting map[int]chan []byte // for the reply to a command; nil when no reply comes any more
}

// StartNodeClient starts a script of idptest/node ("msal.js", "openid-client.js"). caFile holds the certificate
// authorities that it trusts beside its own.
func StartNodeClient(script, caFile, logFile string) (*NodeClient, error) {
	cmd := exec.Command("node", filepath.Join(nodeDir(), script))
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+caFile)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	p, err := Start(logFile, cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	c := &NodeClient{p: p, in: in, waiting: map[int]chan []byte{}}
	go c.read(r) // ends with the process
	return c, nil
}

// read hands replies to those who wait for them.
func (c *NodeClient) read(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var to struct {
			ID int `json:"id"`
		}
		if json.Unmarshal(line, &to) != nil {
			continue // what a library prints
		}
		c.mu.Lock()
		if w := c.waiting[to.ID]; w != nil {
			w <- line
			delete(c.waiting, to.ID)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiting {
		close(w)
	}
	c.waiting = nil
}

// NodeError is an error that the client library raised.
type NodeError struct {
	Message string `json:"error"`
	Code    string `json:"code"`
	Cause   string `json:"cause"`
}

func (e *NodeError) Error() string { return fmt.Sprintf("%s: %s %s", e.Code, e.Message, e.Cause) }

// Do runs a command and reads its reply into reply; several may run at once. With "client" in args it is one of several clients in
// the process, each with its own tokens. The process is killed where ctx ends first.
func (c *NodeClient) Do(ctx context.Context, command string, args map[string]any, reply any) error {
	m := map[string]any{"command": command}
	for k, v := range args {
		m[k] = v
	}
	w := make(chan []byte, 1)
	if err := c.send(m, w); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, c.p.Log())
	}
	stop := context.AfterFunc(ctx, c.p.Kill)
	defer stop()
	line, ok := <-w
	if !ok {
		return fmt.Errorf("%s: the process has ended\n%s", command, c.p.Log())
	}
	var e NodeError
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if e.Message != "" {
		return fmt.Errorf("%s: %w", command, &e)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(line, reply)
}

// send writes a command, whose reply goes to w.
func (c *NodeClient) send(m map[string]any, w chan []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return io.ErrClosedPipe
	}
	c.next++
	m["id"] = c.next
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	c.waiting[c.next] = w
	_, err = c.in.Write(append(b, '\n'))
	return err
}

// Close ends the process.
func (c *NodeClient) Close() { c.in.Close(); c.p.Kill() }
