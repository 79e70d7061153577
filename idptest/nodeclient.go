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
	mu   sync.Mutex // one command at a time
	p    *Process
	in   io.WriteCloser
	out  *bufio.Reader
	next int
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
	go func() { <-p.Done(); r.Close() }()
	return &NodeClient{p: p, in: in, out: bufio.NewReader(r)}, nil
}

// NodeError is an error that the client library raised.
type NodeError struct {
	Message string `json:"error"`
	Code    string `json:"code"`
	Cause   string `json:"cause"`
}

func (e *NodeError) Error() string { return fmt.Sprintf("%s: %s %s", e.Code, e.Message, e.Cause) }

// Do runs a command and reads its reply into reply. The process is killed where ctx ends first.
func (c *NodeClient) Do(ctx context.Context, command string, args map[string]any, reply any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	m := map[string]any{"id": c.next, "command": command}
	for k, v := range args {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.p.Kill)
	defer stop()
	if _, err := c.in.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, c.p.Log())
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, c.p.Log())
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

// Close ends the process.
func (c *NodeClient) Close() { c.in.Close(); c.p.Kill() }
