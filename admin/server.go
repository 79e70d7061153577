package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/audit"
	"understudy/coverage"
	"understudy/gateway"
	"understudy/keys"
	"understudy/session"
)

// Parts are the parts of a process that operators see. Those that a process does not have, or that did not open, are nil.
type Parts struct {
	Version string
	Role    string
	Started time.Time

	Gateway  func() *gateway.Gateway  // the one in force; nil: this process has none
	Counts   func() map[string]uint64 // see gateway.Counts.Snapshot; nil where Gateway is
	Coverage *coverage.Book           // nil where Gateway is
	Backup   gateway.Backup           // keeps marks
	Seal     *session.Sealer
	Sessions *session.Store
	Keys     *keys.Ring
	Audit    *audit.Log
	AuditDir string

	Problems    func() []Problem
	Connections func() (open int, shed uint64)
	Settings    func() (map[string]any, error)
	// Ready says that the listeners are open and the process is not about to end. It never depends on the primary.
	Ready func() bool

	Log *slog.Logger
	Now func() time.Time
}

// Server is the admin API.
type Server struct {
	p       Parts
	mux     *http.ServeMux
	metrics http.Handler

	mu     sync.Mutex // guards recent
	recent map[string]*Records
}

// New makes the API. It listens nowhere yet.
func New(p Parts) *Server {
	s := &Server{p: p, mux: http.NewServeMux(), recent: map[string]*Records{}}
	s.metrics = s.newMetrics()
	for pattern, h := range map[string]func(*http.Request) (any, error){
		"GET /v1/status":       s.status,
		"POST /v1/revoke":      s.revoke,
		"POST /v1/lift":        s.lift,
		"GET /v1/keys":         s.keyList,
		"POST /v1/keys/rotate": s.keyRotate,
		"POST /v1/keys/remove": s.keyRemove,
		"POST /v1/keys/accept": s.keyAccept,
		"POST /v1/resume":      s.resume,
		"GET /v1/config":       s.config,
	} {
		s.mux.Handle(pattern, s.json(h))
	}
	s.mux.HandleFunc("GET /v1/log", s.log)
	s.mux.Handle("GET /metrics", s.metrics)
	for path := range healthPaths() {
		s.mux.HandleFunc("GET "+path, s.health)
	}
	return s
}

// Handler answers whoever reaches it; the caller guards it.
func (s *Server) Handler() http.Handler { return s.mux }

func healthPaths() map[string]bool {
	return map[string]bool{"/health/started": true, "/health/live": true, "/health/ready": true, "/livez": true, "/readyz": true}
}

// health tells of this process, never of the primary: a restart mends nothing there.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ok := true
	if p := r.URL.Path; p == "/health/ready" || p == "/readyz" {
		ok = s.p.Ready()
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready")
		return
	}
	fmt.Fprintln(w, "ok")
}

// fault is an error with the status that the API gives it.
type fault struct {
	status int
	text   string
}

func (f *fault) Error() string { return f.text }

func bad(format string, a ...any) error {
	return &fault{http.StatusBadRequest, fmt.Sprintf(format, a...)}
}
func absent(format string, a ...any) error {
	return &fault{http.StatusNotFound, fmt.Sprintf(format, a...)}
}
func unavailable(format string, a ...any) error {
	return &fault{http.StatusServiceUnavailable, fmt.Sprintf(format, a...)}
}

// answer is an error's JSON.
type answer struct {
	Error string `json:"error"`
}

func (s *Server) json(h func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := h(r)
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			var f *fault
			if errors.As(err, &f) {
				status = f.status
			}
			v = answer{err.Error()}
		}
		writeJSON(w, status, v)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v) // a client that is gone asks again
}

const maxBody = 64 << 10

// read reads a request's JSON strictly.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bad("the request is not understood: %s", jsonCause(err))
	}
	if d.More() {
		return bad("the request is not understood: something follows the JSON object")
	}
	return nil
}

// jsonCause says what is wrong with JSON without repeating it: it may hold a token.
func jsonCause(err error) string {
	var u *json.UnmarshalTypeError
	if errors.As(err, &u) {
		return fmt.Sprintf("%s is no %s", u.Field, u.Type)
	}
	if s := err.Error(); strings.HasPrefix(s, "json: unknown field ") && len(s) < 80 {
		return s[len("json: "):]
	}
	return "it is no JSON object of the right form"
}

// ServeSocket serves on a unix socket that only the process's own user can open, until ctx ends. The directory must be
// that user's alone. It calls ready once the socket is there.
func (s *Server) ServeSocket(ctx context.Context, path string, ready func()) error {
	ln, free, err := listenSocket(path)
	if err != nil {
		return err
	}
	defer free()
	ready()
	return s.serve(ctx, ln, s.mux)
}

// longest is the longest path of a unix socket everywhere.
const longest = 100

// short returns a path to the same socket that is short enough; free gives it back.
func short(path string) (p string, free func(), err error) {
	if len(path) <= longest {
		return path, func() {}, nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path)), func() { d.Close() }, nil
}

func listenSocket(path string) (net.Listener, func(), error) {
	// Whoever holds the data directory's lock owns the socket: one that is there already was left behind.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("open the admin socket: %w", err)
	}
	p, free, err := short(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open the admin socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
	if err != nil {
		free()
		return nil, nil, fmt.Errorf("open the admin socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		free()
		return nil, nil, fmt.Errorf("guard the admin socket: %w", err)
	}
	return ln, free, nil
}

// ServeTLS serves on a TCP listener under TLS, for those who hold the token, until ctx ends. The health endpoints ask for
// none.
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener, c *tls.Config, token string) error {
	if c == nil || len(token) < minToken {
		ln.Close()
		return fmt.Errorf("an admin listener over TCP needs TLS and a token of %d or more characters", minToken)
	}
	return s.serve(ctx, tls.NewListener(ln, c), s.guard(token))
}

const minToken = 16

// Token reads the token of a TCP listener from its file.
func Token(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if len(t) < minToken || strings.ContainsAny(t, " \t\r\n") {
		return "", fmt.Errorf("the admin token in %s must be one word of %d or more characters: openssl rand -hex 24 > %s", file, minToken, file)
	}
	if st, err := os.Stat(file); err == nil && st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("the admin token %s can be read by others (mode %04o): chmod 600 %s", file, st.Mode().Perm(), file)
	}
	return t, nil
}

func (s *Server) guard(token string) http.Handler {
	want, open := sha256.Sum256([]byte(token)), healthPaths()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && open[r.URL.Path] {
			s.mux.ServeHTTP(w, r)
			return
		}
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(given)) // of one length, so that the comparison tells nothing
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeJSON(w, http.StatusUnauthorized, answer{"the admin API asks for its token: Authorization: Bearer …"})
			return
		}
		s.mux.ServeHTTP(w, r)
	})
}

func (s *Server) serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // what follows the log ends with the process
		ErrorLog:    slog.NewLogLogger(s.p.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the admin API: %w", err)
	case <-ctx.Done():
	}
	c, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := srv.Shutdown(c); err != nil {
		srv.Close()
	}
	<-done
	return nil
}

// config is the configuration in force.
func (s *Server) config(*http.Request) (any, error) {
	if s.p.Settings == nil {
		return nil, absent("this process was started without a configuration")
	}
	return s.p.Settings()
}
