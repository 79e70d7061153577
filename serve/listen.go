package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// Listener is one address for sign-in traffic; without a certificate it speaks plain HTTP.
type Listener struct {
	Address           string
	CertFile, KeyFile string
	AskCertificate    bool // clients are asked for theirs; who looks at it verifies it
}

const (
	headerTime   = 10 * time.Second // for a request's header, once its first byte has come
	idleTime     = 2 * time.Minute
	maxHeader    = 128 << 10 // fields of 64 KB pass
	shutdownTime = 5 * time.Second
)

// listeners are the open addresses. They change together: where one cannot be opened all stay as they are.
type listeners struct {
	handler http.Handler
	crowd   *crowd
	log     *slog.Logger
	// inherited are sockets that the service manager passed, by address.
	inherited map[string]net.Listener

	mu   sync.Mutex // guards what follows
	open map[string]*listening
	errs chan error // of servers that ended by themselves
	wg   sync.WaitGroup
}

type listening struct {
	l    Listener
	ln   net.Listener
	srv  *http.Server
	cert *certificate // nil: plain
}

func newListeners(h http.Handler, c *crowd, log *slog.Logger) *listeners {
	return &listeners{handler: h, crowd: c, log: log, inherited: map[string]net.Listener{}, open: map[string]*listening{}, errs: make(chan error, 1)}
}

// apply opens what is new, closes what is gone, and keeps what stays.
func (ls *listeners) apply(want []Listener) (err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	next := map[string]*listening{}
	var fresh []*listening
	var change []func() error
	defer func() {
		if err != nil {
			for _, l := range fresh {
				l.ln.Close()
			}
		}
	}()
	for _, w := range want {
		old := ls.open[w.Address]
		switch {
		case old == nil:
			l, err := ls.listen(w)
			if err != nil {
				return err
			}
			fresh, next[w.Address] = append(fresh, l), l
		case (old.cert == nil) != (w.CertFile == ""):
			return fmt.Errorf("listener %s changes between plain HTTP and TLS: that needs a restart", w.Address)
		case old.l.AskCertificate != w.AskCertificate:
			return fmt.Errorf("listener %s changes whether it asks for client certificates: that needs a restart", w.Address)
		default:
			next[w.Address] = old
			if old.cert != nil {
				if _, err := tls.LoadX509KeyPair(w.CertFile, w.KeyFile); err != nil {
					return fmt.Errorf("listener %s: load the certificate %s with the key %s: %w", w.Address, w.CertFile, w.KeyFile, err)
				}
				change = append(change, func() error { return old.cert.use(w.CertFile, w.KeyFile) })
			}
		}
	}
	for _, f := range change {
		if err := f(); err != nil {
			return err
		}
	}
	for a, l := range ls.open {
		if next[a] == nil {
			ls.wg.Go(func() { ls.close(l) })
		}
	}
	for _, l := range fresh {
		ls.wg.Go(func() { ls.serve(l) })
	}
	ls.open = next
	return nil
}

func (ls *listeners) listen(w Listener) (*listening, error) {
	l := &listening{l: w}
	var err error
	if w.CertFile != "" {
		if l.cert, err = newCertificate(w.CertFile, w.KeyFile, ls.log); err != nil {
			return nil, fmt.Errorf("listener %s: %w", w.Address, err)
		}
	}
	if l.ln = ls.inherited[everywhere(w.Address)]; l.ln != nil {
		delete(ls.inherited, everywhere(w.Address))
	} else if l.ln, err = net.Listen("tcp", w.Address); err != nil {
		return nil, fmt.Errorf("listen for sign-ins: %w", err)
	}
	l.srv = &http.Server{
		Handler: bodyDeadlines(ls.handler), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ConnState: ls.crowd.state,
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 250, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		// Strangers' broken handshakes and requests end up here.
		ErrorLog: slog.NewLogLogger(ls.log.Handler(), slog.LevelDebug),
	}
	return l, nil
}

// everywhere writes every way to say "all addresses" in the same way.
func everywhere(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		host = ""
	}
	return net.JoinHostPort(host, port)
}

// inherit takes the sockets that the service manager passed (sd_listen_fds); those of no listener are closed.
func (ls *listeners) inherit() error {
	passed, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("take the service manager's sockets: %w", err)
	}
	for _, ln := range passed {
		if ln != nil {
			ls.inherited[everywhere(ln.Addr().String())] = ln
		}
	}
	return nil
}

// disinherit closes the sockets that no listener took.
func (ls *listeners) disinherit() {
	for a, ln := range ls.inherited {
		ls.log.Warn("the service manager passed a socket of which the configuration says nothing", "address", a)
		ln.Close()
		delete(ls.inherited, a)
	}
}

func (ls *listeners) serve(l *listening) {
	var err error
	if l.cert != nil {
		l.srv.TLSConfig = l.cert.config()
		if l.l.AskCertificate {
			l.srv.TLSConfig.ClientAuth = tls.RequestClientCert // each tenant has authorities of its own
		}
		err = l.srv.ServeTLS(l.ln, "", "")
	} else {
		err = l.srv.Serve(l.ln)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		select {
		case ls.errs <- fmt.Errorf("listener %s: %w", l.l.Address, err):
		default:
		}
	}
}

// close lets what is under way end, for a while.
func (ls *listeners) close(l *listening) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := l.srv.Shutdown(ctx); err != nil {
		l.srv.Close()
	}
}

// run ends with ctx, having closed every listener, or when one fails by itself.
func (ls *listeners) run(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-ls.errs:
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.open {
		ls.wg.Go(func() { ls.close(l) })
	}
	ls.wg.Wait()
	return err
}

// addresses are those that are listened on, as the system names them.
func (ls *listeners) addresses() []string {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var out []string
	for _, l := range ls.open {
		out = append(out, l.ln.Addr().String())
	}
	return out
}
