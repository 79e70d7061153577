package idptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// FaultKind is what a fault does to an exchange.
type FaultKind string

// The faults. Those that commit let the primary do its work first.
const (
	Pass          FaultKind = ""                 // nothing
	Refuse        FaultKind = "refuse"           // the port is closed, for every path
	ResetBefore   FaultKind = "reset before"     // RST before the request's body is read
	ResetAfter    FaultKind = "reset after"      // RST when the whole request has been read, nothing committed
	BlackHole     FaultKind = "black hole"       // the request is taken and nothing comes back, nothing committed
	SlowFirstByte FaultKind = "slow first byte"  // commit, Delay, then the reply
	SlowBody      FaultKind = "slow body"        // commit, then the header and the body over Delay
	Truncate      FaultKind = "truncate"         // commit, then half of the body
	ServerError   FaultKind = "5xx"              // Status (0: 500) with a text, nothing committed
	HTMLPage      FaultKind = "html"             // 200 with a page, nothing committed
	WrongContent  FaultKind = "wrong content"    // 200 with JSON that is no token response, nothing committed
	Redirect      FaultKind = "redirect"         // 302 to a page, nothing committed
	LoseReply     FaultKind = "lose reply"       // commit, then RST instead of the reply
	CommitError   FaultKind = "commit, then 5xx" // commit, then Status (0: 502) with a text instead of the reply
	LateReply     FaultKind = "late reply"       // commit, then the reply when Release is called
)

// Fault is what to do with matching requests.
type Fault struct {
	Kind FaultKind
	// Match chooses requests; nil: those to a token endpoint (the path ends in "/token").
	Match func(*http.Request) bool
	// Grant chooses those of one grant_type (the gateway's probes have another than clients); "": all.
	Grant  string
	Delay  time.Duration
	Status int
	// Header and Body are more of a reply that replaces the primary's: ServerError, which then is a reply of any kind.
	Header http.Header
	Body   string
	// Times ends the fault after so many requests; 0: never.
	Times int
}

// FaultProxy is a reverse proxy between the gateway and a primary, on loopback, whose faults are switched while it runs.
type FaultProxy struct {
	port      int
	primary   *url.URL
	transport *http.Transport

	mu       sync.Mutex // guards what follows
	fault    Fault
	done     map[FaultKind]int // exchanges that a fault was done to
	passed   map[string]int    // exchanges with a token endpoint that passed whole, by grant_type
	release  chan struct{}     // closed by Release
	server   *http.Server      // nil while the port is closed
	overhear Overhear
}

// StartFaultProxy starts a proxy in front of a primary. It passes everything until Set is called.
func StartFaultProxy(primary string) (*FaultProxy, error) {
	u, err := url.Parse(primary)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	f := &FaultProxy{
		port: port, primary: u, done: map[FaultKind]int{}, passed: map[string]int{}, release: make(chan struct{}),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 2 * time.Second},
	}
	return f, f.listen()
}

// URL is scheme and host at which the proxy listens.
func (f *FaultProxy) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", f.port) }

// Overhear is told of an exchange; it may be called by several goroutines at once and keeps nothing that it does not copy.
type Overhear func(r *http.Request, body []byte, reply http.Header, replyBody []byte)

// Overhear has f told of every exchange that the primary answered, before a fault is done to the reply; nil ends it.
func (f *FaultProxy) Overhear(o Overhear) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.overhear = o
}

// Set changes the fault. Exchanges under way go on as they began, but a black hole lets its requests go with a reset.
func (f *FaultProxy) Set(x Fault) error {
	f.mu.Lock()
	if f.fault.Kind == BlackHole {
		f.releaseLocked()
	}
	f.fault = x
	server := f.server
	if x.Kind == Refuse {
		f.server = nil
	}
	f.mu.Unlock()
	switch {
	case x.Kind == Refuse && server != nil:
		return server.Close()
	case x.Kind != Refuse && server == nil:
		return f.listen()
	}
	return nil
}

// Release lets held replies go.
func (f *FaultProxy) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.releaseLocked()
}

func (f *FaultProxy) releaseLocked() {
	close(f.release)
	f.release = make(chan struct{})
}

// Done is how many exchanges a fault was done to.
func (f *FaultProxy) Done(k FaultKind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done[k]
}

// Passed is how many exchanges of a grant_type with a token endpoint passed whole.
func (f *FaultProxy) Passed(grant string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passed[grant]
}

// Close ends the proxy.
func (f *FaultProxy) Close() error {
	err := f.Set(Fault{Kind: Refuse})
	f.Release()
	f.transport.CloseIdleConnections()
	return err
}

func (f *FaultProxy) listen() error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		return err
	}
	s := &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}
	f.mu.Lock()
	f.server = s
	f.mu.Unlock()
	go s.Serve(l) // ends with Close
	return nil
}

func isTokenEndpoint(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/token")
}

// take returns the fault for a request whose body has been read, or is still to be read.
func (f *FaultProxy) take(r *http.Request, body []byte, read bool) (Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if read == (f.fault.Kind == ResetBefore) {
		return Fault{}, f.release
	}
	if f.fault.Grant != "" {
		if form, err := url.ParseQuery(string(body)); err != nil || form.Get("grant_type") != f.fault.Grant {
			return Fault{}, f.release
		}
	}
	match := f.fault.Match
	if match == nil {
		match = isTokenEndpoint
	}
	if f.fault.Kind == Pass || f.fault.Kind == Refuse || !match(r) {
		return Fault{}, f.release
	}
	x := f.fault
	if x.Times > 0 {
		if f.fault.Times--; f.fault.Times == 0 {
			f.fault = Fault{}
		}
	}
	return x, f.release
}

func (f *FaultProxy) count(k FaultKind) {
	f.mu.Lock()
	f.done[k]++
	f.mu.Unlock()
}

func (f *FaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if x, _ := f.take(r, nil, false); x.Kind == ResetBefore {
		f.count(x.Kind)
		reset(w)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	x, release := f.take(r, body, true)
	header := w.Header()
	switch x.Kind {
	case ResetAfter:
		f.count(x.Kind)
		reset(w)
		return
	case BlackHole:
		f.count(x.Kind)
		<-release
		reset(w)
		return
	case ServerError:
		f.count(x.Kind)
		if x.Status == 0 {
			x.Status = http.StatusInternalServerError
		}
		header.Set("Content-Type", "text/plain; charset=utf-8")
		for k, v := range x.Header {
			header[k] = v
		}
		w.WriteHeader(x.Status)
		io.WriteString(w, or(x.Body, "no"))
		return
	case HTMLPage:
		f.count(x.Kind)
		header.Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<!DOCTYPE html><title>Welcome</title><p>It works.</p>")
		return
	case WrongContent:
		f.count(x.Kind)
		header.Set("Content-Type", "application/json")
		io.WriteString(w, `{"status":"ok"}`)
		return
	case Redirect:
		f.count(x.Kind)
		http.Redirect(w, r, "/maintenance", http.StatusFound)
		return
	}
	// The exchange with the primary does not end with the client's patience: it is to be committed.
	resp, reply, err := f.forward(context.WithoutCancel(r.Context()), r, body)
	if err != nil {
		reset(w)
		return
	}
	f.mu.Lock()
	overhear := f.overhear
	f.mu.Unlock()
	if overhear != nil {
		overhear(r, body, resp.Header, reply)
	}
	for k, v := range resp.Header {
		header[k] = v
	}
	switch x.Kind {
	case LoseReply:
		f.count(x.Kind)
		reset(w)
		return
	case CommitError:
		f.count(x.Kind)
		if x.Status == 0 {
			x.Status = http.StatusBadGateway
		}
		clear(header) // none of the primary's reply comes through
		http.Error(w, "no", x.Status)
		return
	case LateReply:
		f.count(x.Kind)
		<-release
	case SlowFirstByte:
		f.count(x.Kind)
		time.Sleep(x.Delay)
	case SlowBody:
		f.count(x.Kind)
		w.WriteHeader(resp.StatusCode)
		half := len(reply) / 2
		w.Write(reply[:half])
		http.NewResponseController(w).Flush()
		time.Sleep(x.Delay)
		w.Write(reply[half:])
		return
	case Truncate:
		f.count(x.Kind)
		header.Set("Content-Length", fmt.Sprint(len(reply)))
		w.WriteHeader(resp.StatusCode)
		w.Write(reply[:len(reply)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(resp.StatusCode)
	w.Write(reply)
	if x.Kind == Pass && isTokenEndpoint(r) {
		if form, err := url.ParseQuery(string(body)); err == nil {
			f.mu.Lock()
			f.passed[form.Get("grant_type")]++
			f.mu.Unlock()
		}
	}
}

func (f *FaultProxy) forward(ctx context.Context, r *http.Request, body []byte) (*http.Response, []byte, error) {
	out, err := http.NewRequestWithContext(ctx, r.Method, f.primary.Scheme+"://"+f.primary.Host+r.RequestURI, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	out.GetBody = nil // never twice
	out.Header, out.Host = r.Header.Clone(), r.Host
	out.Header.Del("Connection")
	resp, err := f.transport.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	for _, h := range []string{"Connection", "Keep-Alive", "Transfer-Encoding"} {
		resp.Header.Del(h)
	}
	return resp, reply, err
}

// reset ends the connection with a RST.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if t, ok := conn.(*net.TCPConn); ok {
		err = t.SetLinger(0)
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		panic(http.ErrAbortHandler)
	}
}
