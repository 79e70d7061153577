package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/gateway"
)

// wire is a primary that keeps every request as the bytes in which it came.
type wire struct {
	ln    net.Listener
	mu    sync.Mutex // guards heads
	heads []string
	reply func(head string, body io.Reader, c net.Conn)
}

func newWire(t *testing.T, reply func(head string, body io.Reader, c net.Conn)) *wire {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, reply: reply}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go w.serve(c)
		}
	}()
	return w
}

func (w *wire) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		head.WriteString(line)
		if line == "\r\n" {
			break
		}
	}
	h := head.String()
	if !strings.Contains(h, "/.well-known/") { // what the gateway asks for by itself
		w.mu.Lock()
		w.heads = append(w.heads, h)
		w.mu.Unlock()
	}
	if w.reply == nil || strings.Contains(h, "/.well-known/") {
		io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	w.reply(h, r, c)
}

func (w *wire) url() string { return "http://" + w.ln.Addr().String() }

func (w *wire) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.heads) == 0 {
		return ""
	}
	return w.heads[len(w.heads)-1]
}

func ok(_ string, _ io.Reader, c net.Conn) {
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// raw sends bytes to the gateway and returns the reply's.
func raw(t *testing.T, r *rig, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, strings.ReplaceAll(request, "HOST", strings.TrimPrefix(r.url, "http://")))
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestTargetsPassByteForByte(t *testing.T) {
	w := newWire(t, ok)
	r := newRig(t, w.url())
	for _, target := range []string{
		"/", "/a//b", "//a/b", "/a/../b", "/a/./b", "/%2e%2e/x", "/a%2Fb", "/a%2fb", "/caf%C3%A9", "/caf%c3%a9", "/a;v=1/b;c",
		"/a?b=1;c=2", "/a?b=%zz&c", "/a?", "/a??b", "/a?b=1&b=2&&=&c", "/a|b", "/a[b]", "/a\"b", "/%00", "/a+b%20c", "/a?x=a+b%20c&y=%2B",
		"/realms/x/protocol/openid-connect/auth?client_id=a&redirect_uri=http%3A%2F%2F127.0.0.1%3A9%2Fcb&scope=openid%20email",
		"/a^b`{c}", "/a\\b", "/*", "/a:b@c", "/a'(b)!$&,=~", "/" + strings.Repeat("long/", 1000),
	} {
		raw(t, r, "GET "+target+" HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
		line, _, _ := strings.Cut(w.last(), "\r\n")
		if line != "GET "+target+" HTTP/1.1" {
			t.Errorf("%q became %q", target, line)
		}
	}
}

// A path that net/http cannot send as it came is refused, and not changed.
func TestATargetThatCannotPassIsRefused(t *testing.T) {
	w := newWire(t, ok)
	r := newRig(t, w.url())
	for _, target := range []string{"//a|b", "//realms/x/{y}", "//a\"b"} {
		got := raw(t, r, "GET "+target+" HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q: %.40q", target, got)
		}
		if line, _, _ := strings.Cut(w.last(), "\r\n"); strings.Contains(line, "//a") || strings.Contains(line, "//realms") {
			t.Errorf("%q passed as %q", target, line)
		}
	}
}

func TestMethodsAndHeadersPass(t *testing.T) {
	w := newWire(t, ok)
	r := newRig(t, w.url())
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT"} {
		raw(t, r, m+" /x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(w.last(), m+" /x ") {
			t.Errorf("%s became %.40q", m, w.last())
		}
	}
	big := strings.Repeat("v", 64<<10)
	raw(t, r, "GET /x HTTP/1.1\r\nHost: HOST\r\nCookie: a=1; __Host-b=2; c=\"q\"; d=\r\nX-Big: "+big+"\r\nAccept: text/html\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"+
		"Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\n\r\n")
	h := w.last()
	host := strings.TrimPrefix(r.url, "http://")
	_, port, _ := net.SplitHostPort(host)
	for _, want := range []string{
		"Host: " + host, `Cookie: a=1; __Host-b=2; c="q"; d=`, "X-Big: " + big, "Accept: text/html",
		"X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n", "X-Forwarded-Host: " + host + "\r\n", "X-Forwarded-Port: " + port + "\r\n",
	} {
		if !strings.Contains(h, want) {
			t.Errorf("missing %.60q", want)
		}
	}
	for _, not := range []string{"evil", "1.2.3.4", "X-Hop", "Keep-Alive", "Accept-Encoding: gzip", "User-Agent"} {
		if strings.Contains(h, not) {
			t.Errorf("%q went out", not)
		}
	}
}

// Peers that are trusted are believed; the client is the first from the right that is not one of them.
func TestForwardedFromTrustedPeers(t *testing.T) {
	w := newWire(t, ok)
	r := newRig(t, w.url(), func(t *gateway.Tenant) { t.Trusted = append(t.Trusted, loopback(), ten()) })
	for in, want := range map[string]string{
		"203.0.113.9":                         "203.0.113.9",
		"6.6.6.6, 203.0.113.9, 10.1.2.3":      "203.0.113.9",
		"6.6.6.6, garbage, 10.1.2.3":          "10.1.2.3",
		"2001:db8::1":                         "2001:db8::1",
		"203.0.113.9, 10.0.0.1, 10.0.0.2":     "203.0.113.9",
		"6.6.6.6,203.0.113.9 , 10.0.0.1":      "203.0.113.9",
		"::ffff:203.0.113.9, ::ffff:10.0.0.1": "::ffff:203.0.113.9",
	} {
		raw(t, r, "GET /x HTTP/1.1\r\nHost: HOST\r\nX-Forwarded-For: "+in+"\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n")
		if !strings.Contains(w.last(), "X-Forwarded-For: "+want+"\r\n") || !strings.Contains(w.last(), "X-Forwarded-Proto: https\r\n") {
			t.Errorf("%q: %q", in, w.last())
		}
	}
}

func TestRepliesPass(t *testing.T) {
	w := newWire(t, func(_ string, _ io.Reader, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: /a//b?x=%2f\r\nSet-Cookie: __Host-a=1; Path=/; Secure; HttpOnly=1\r\nSet-Cookie: b=2; domain=.example.test\r\n"+
			"X-Odd: \xff\xfe\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\nabc")
	})
	r := newRig(t, w.url())
	got := raw(t, r, "GET /x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"302 Found", "Location: /a//b?x=%2f\r\n", "Set-Cookie: __Host-a=1; Path=/; Secure; HttpOnly=1\r\n", "Set-Cookie: b=2; domain=.example.test\r\n", "X-Odd: \xff\xfe\r\n", "\r\n\r\nabc"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in %q", want, got)
		}
	}
	if strings.Contains(got, "X-Hop") {
		t.Error("a hop-by-hop header passed")
	}
}

// One request in, at most one out (design, law 11): also where the connection breaks behind the request, and where the
// method or a header would let the transport repeat it.
func TestNothingIsRepeated(t *testing.T) {
	var n atomic.Int32
	w := newWire(t, nil)
	first := make(chan struct{}, 100)
	w.reply = func(_ string, _ io.Reader, c net.Conn) {
		if n.Add(1)%2 == 1 { // an ordinary reply on a connection that stays open, once; then none
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					n.Add(1)
					first <- struct{}{}
					return // closed behind the second request
				}
			}
		}
	}
	r := newRig(t, w.url())
	for _, extra := range []string{"", "Idempotency-Key: 1\r\n"} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"} {
			n.Store(0)
			raw(t, r, method+" /a HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
			raw(t, r, method+" /b HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"+extra+"\r\n")
			time.Sleep(50 * time.Millisecond)
			if got := n.Load(); got != 2 {
				t.Errorf("%s %q: two requests in, %d out", method, extra, got)
			}
		}
	}
}

func TestLargeBodiesStream(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/.well-known") {
			http.NotFound(w, r)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	}))
	defer up.Close()
	r := newRig(t, up.URL)
	body := make([]byte, 100<<20)
	rand.Read(body[:1<<20])
	resp, err := http.Post(r.url+"/import", "application/octet-stream", struct{ io.Reader }{bytes.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
	n, err := io.Copy(&comparing{t: t, want: body}, resp.Body)
	if err != nil || n != int64(len(body)) {
		t.Fatalf("%d of %d bytes: %v", n, len(body), err)
	}
}

type comparing struct {
	t    *testing.T
	want []byte
}

func (c *comparing) Write(b []byte) (int, error) {
	if len(b) > len(c.want) || !bytes.Equal(b, c.want[:len(b)]) {
		return 0, fmt.Errorf("other bytes")
	}
	c.want = c.want[len(b):]
	return len(b), nil
}

func TestEventsStreamAtOnce(t *testing.T) {
	next := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	}))
	defer up.Close()
	defer close(next)
	r := newRig(t, up.URL)
	resp, err := http.Get(r.url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := br.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		br.ReadString('\n')
		next <- struct{}{}
	}
}

func TestUpgradesPass(t *testing.T) {
	w := newWire(t, func(head string, body io.Reader, c net.Conn) {
		if !strings.Contains(head, "Upgrade: websocket") {
			ok(head, body, c)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(c, body)
	})
	r := newRig(t, w.url())
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", strings.TrimPrefix(r.url, "http://"))
	br := bufio.NewReader(c)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	for _, msg := range []string{"one", "two"} {
		io.WriteString(c, msg)
		b := make([]byte, len(msg))
		if _, err := io.ReadFull(br, b); err != nil || string(b) != msg {
			t.Fatalf("%q %v", b, err)
		}
	}
}

// What cannot be one request for both sides is none.
func TestSmuggling(t *testing.T) {
	w := newWire(t, ok)
	r := newRig(t, w.url())
	for name, req := range map[string]string{
		"two lengths":                "POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 40\r\nConnection: close\r\n\r\nabcGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"length and chunks":          "POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"odd transfer coding":        "POST /x HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
		"two hosts":                  "GET /x HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
		"line folding":               "GET /x HTTP/1.1\r\nHost: HOST\r\nX-A: b\r\n GET /smuggled HTTP/1.1\r\nConnection: close\r\n\r\n",
		"absolute target, other one": "GET http://evil.example/x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
		"another host":               "GET /x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			raw(t, r, req)
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, h := range w.heads {
				if strings.HasPrefix(h, "GET /smuggled") || strings.Contains(h, "evil.example") {
					t.Errorf("went out: %q", h)
				}
			}
		})
	}
}

func TestHealthForBalancers(t *testing.T) {
	r := newRig(t, "http://127.0.0.1:1")
	for _, req := range []string{
		"GET /.understudy/health HTTP/1.0\r\n\r\n",
		"GET /.understudy/health HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n",
	} {
		if got := raw(t, r, req); !strings.Contains(got, " 200 OK") {
			t.Errorf("%q: %q", req, got)
		}
	}
}
