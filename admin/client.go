package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// Client speaks to a running process over its unix socket.
type Client struct {
	// Socket is the path of the unix socket.
	Socket string
}

// ErrNotRunning says that nobody listens on the socket.
var ErrNotRunning = errors.New("no understudy is running")

func (c *Client) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			p, free, err := short(c.Socket)
			if err != nil {
				return nil, err
			}
			defer free()
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", p)
		},
	}}
}

// send sends a request and returns a good reply, whose body the caller closes.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://understudy"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http().Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w with this data directory (no socket %s): start it, or give --data-dir or --config", ErrNotRunning, c.Socket)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("the socket %s is not yours: run this command as the user that understudy runs as", c.Socket)
	case err != nil:
		return nil, fmt.Errorf("ask the running understudy: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&a); err != nil || a.Error == "" {
		return nil, fmt.Errorf("the running understudy answered with status %d: is it of another version?", resp.StatusCode)
	}
	return nil, errors.New(a.Error)
}

// Get asks for path and decodes the answer into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// Post sends in to path and decodes the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPost, path, in, out)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the running understudy's answer: %w", err)
	}
	return nil
}

// Log calls out with every line that the filter chooses, until ctx ends where it follows.
func (c *Client) Log(ctx context.Context, f *LogFilter, out func(line []byte) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/log?"+f.Query().Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if err := out(s.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read the sign-in log: %w", err)
	}
	return nil
}
