package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

const (
	bodyTimeout      = 5 * time.Second
	handshakeTimeout = 3 * time.Second
	maxConnections   = 4096
	maxStreams       = 1000
	maxLearning      = 8 // Learn calls at a time: each may hold learnMessage bytes
)

// method is one row of the server's table: the cap of the body, and what to do with it. A refused body is errMessage.
type method struct {
	limit int64
	serve func(ctx context.Context, svc Backup, body []byte) (answer any, err error)
}

// row makes a method of a function on decoded messages.
func row[In any](c codec, limit int64, f func(ctx context.Context, svc Backup, in *In) (any, error)) method {
	return method{limit, func(ctx context.Context, svc Backup, body []byte) (any, error) {
		in := new(In)
		if err := c.decode(body, in); err != nil {
			return nil, err
		}
		return f(ctx, svc, in)
	}}
}

// methods is everything that a gateway may ask.
func methods(c codec) map[string]method {
	return map[string]method{
		methodPing: row(c, smallMessage, func(context.Context, Backup, *pingMessage) (any, error) { return noAnswer{}, nil }),
		methodPlay: row(c, playMessage, func(ctx context.Context, svc Backup, in *flow.Play) (any, error) {
			reply, no, err := svc.Play(ctx, in)
			if err != nil {
				return nil, err
			}
			return playAnswer{reply, no}, nil
		}),
		methodOpens: row(c, playMessage, func(ctx context.Context, svc Backup, in *opensMessage) (any, error) {
			if len(in.Plays) > session.MaxOpened {
				return nil, errMessage
			}
			ps := make([]*flow.Play, len(in.Plays))
			for i := range in.Plays {
				ps[i] = &in.Plays[i]
			}
			opens, err := svc.Opens(ctx, ps)
			return opensAnswer{opens}, err
		}),
		methodUntold: row(c, smallMessage, func(ctx context.Context, svc Backup, in *untoldMessage) (any, error) {
			yes, err := svc.Untold(ctx, in.Tenant)
			return boolAnswer{yes}, err
		}),
		methodLearn: row(c, learnMessage, func(ctx context.Context, svc Backup, in *learnMessageBody) (any, error) {
			if len(in.Learned) > maxLearned {
				return nil, errMessage
			}
			ls := make([]*backup.Learned, len(in.Learned))
			for i := range in.Learned {
				ls[i] = &in.Learned[i]
			}
			outs, err := svc.Learn(ctx, ls)
			if err != nil {
				return nil, err
			}
			a := learnAnswer{Outcomes: make([]outcomeMessage, len(outs))}
			for i, o := range outs {
				a.Outcomes[i] = outcomeMessage{o.Unlearned, o.Alarm}
			}
			return a, nil
		}),
		methodStanding: row(c, smallMessage, func(ctx context.Context, svc Backup, in *standingMessage) (any, error) {
			st, err := svc.Standing(ctx, in.Tenant, in.Lookup)
			return st, err
		}),
		methodHeld: row(c, smallMessage, func(ctx context.Context, svc Backup, in *standingMessage) (any, error) {
			h, err := svc.Held(ctx, in.Tenant, in.Lookup)
			return h, err
		}),
		methodBarred: row(c, smallMessage, func(ctx context.Context, svc Backup, in *backup.SignIn) (any, error) {
			barred, err := svc.Barred(ctx, in)
			return boolAnswer{barred}, err
		}),
		methodRefused: row(c, smallMessage, func(ctx context.Context, svc Backup, in *backup.Refused) (any, error) {
			return noAnswer{}, svc.Refused(ctx, in)
		}),
		methodStep: row(c, playMessage, func(ctx context.Context, svc Backup, in *stepMessage) (any, error) {
			return noAnswer{}, svc.Step(ctx, in.Tenant, in.Lookup, in.At, in.Successor)
		}),
		methodMarkGrant: row(c, smallMessage, func(ctx context.Context, svc Backup, in *backup.GrantMark) (any, error) {
			known, err := svc.MarkGrant(ctx, in)
			return boolAnswer{known}, err
		}),
		methodSignedOut: row(c, playMessage, func(ctx context.Context, svc Backup, in *backup.SignOut) (any, error) {
			p, err := svc.SignedOut(ctx, in)
			return p, err
		}),
		methodMark: row(c, markMessage, func(ctx context.Context, svc Backup, in *markMessageBody) (any, error) {
			if len(in.Marks) > maxMarks {
				return nil, errMessage
			}
			return noAnswer{}, svc.Mark(ctx, in.Tenant, in.Marks...)
		}),
		methodKeys: row(c, smallMessage, func(ctx context.Context, svc Backup, in *keysMessage) (any, error) {
			ks, err := svc.PublicKeys(ctx, in.Tenant, in.Issuer, in.Algs)
			if err != nil {
				return nil, err
			}
			var a keysAnswer
			for _, k := range ks {
				if !k.IsPublic() {
					return nil, errors.New("a key to be published is not public")
				}
				b, err := k.MarshalJSON()
				if err != nil {
					return nil, err
				}
				a.Keys = append(a.Keys, b)
			}
			return a, nil
		}),
	}
}

type handler struct {
	svc      Backup
	log      *slog.Logger
	codec    codec
	methods  map[string]method
	learning chan struct{}
}

// NewHandler is the server side without its connection: it serves svc to peers whose certificate the TLS layer has
// verified, and refuses everybody else, other protocols than HTTP/2, and messages beyond the methods' caps.
func NewHandler(svc Backup, log *slog.Logger) http.Handler {
	c := newCodec()
	return &handler{svc: svc, log: log, codec: c, methods: methods(c), learning: make(chan struct{}, maxLearning)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || r.ProtoMajor != 2 {
		h.refuse(w, http.StatusForbidden, CodeNotAllowed)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	m, known := h.methods[name]
	switch {
	case !ok || !known:
		h.refuse(w, http.StatusNotFound, CodeUnknownMethod)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		h.refuse(w, http.StatusMethodNotAllowed, CodeBadMessage)
		return
	case r.Header.Get("Content-Type") != contentType:
		h.refuse(w, http.StatusUnsupportedMediaType, CodeBadMessage)
		return
	case r.ContentLength > m.limit:
		h.refuse(w, http.StatusRequestEntityTooLarge, CodeTooLarge)
		return
	}
	if name == methodLearn {
		select {
		case h.learning <- struct{}{}:
			defer func() { <-h.learning }()
		case <-r.Context().Done():
			return
		}
	}
	// A peer that sends slowly holds a stream, and a place among those that learn, no longer than this.
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		h.refuse(w, http.StatusInternalServerError, CodeFailed)
		return
	}
	body, err := readAll(r.Body, m.limit, r.ContentLength)
	switch {
	case errors.Is(err, errTooLarge):
		h.refuse(w, http.StatusRequestEntityTooLarge, CodeTooLarge)
		return
	case err != nil:
		h.refuse(w, http.StatusRequestTimeout, CodeNotReceived)
		return
	}
	answer, err := m.serve(r.Context(), h.svc, body)
	switch {
	case errors.Is(err, errMessage):
		h.log.Warn("a gateway sent what is no message", "method", name, "bytes", len(body), "peer", r.RemoteAddr)
		h.refuse(w, http.StatusBadRequest, CodeBadMessage)
		return
	case err != nil:
		if r.Context().Err() == nil {
			h.log.Error("a gateway's message could not be served", "method", name, "error", err)
		}
		h.refuse(w, http.StatusInternalServerError, CodeFailed)
		return
	}
	h.write(w, http.StatusOK, answer)
}

func (h *handler) refuse(w http.ResponseWriter, status int, code string) {
	h.write(w, status, errorAnswer{code})
}

func (h *handler) write(w http.ResponseWriter, status int, v any) {
	b, err := h.codec.encode(v)
	if err != nil {
		h.log.Error("an answer cannot be encoded", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(b) // a peer that is gone asks again
}

// Serve serves h on ln under mutual TLS until ctx ends, and then lets what is under way end for five seconds. A peer's
// certificate is checked at the handshake, and again where the authority's file has changed or the certificate has ended
// on a connection that lives on.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, id *Identity, log *slog.Logger) error {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	srv := &http.Server{
		Handler: id.recheck(h), TLSConfig: id.serverTLS(), Protocols: &protocols, ConnContext: id.connContext,
		ReadHeaderTimeout: handshakeTimeout, ReadTimeout: 2 * bodyTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 8 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 512 << 10,
			SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 10 * time.Second,
		},
		// Strangers' failed handshakes end up here: they must not fill the log.
		ErrorLog: slog.NewLogLogger(&sparse{Handler: log.Handler(), limit: rate.NewLimiter(rate.Every(time.Second), 10)}, slog.LevelWarn),
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		if err := srv.ServeTLS(netutil.LimitListener(ln, maxConnections), "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve gateways: %w", err)
		}
		return nil
	})
	eg.Go(func() error {
		<-ctx.Done()
		c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(c); err != nil {
			return srv.Close()
		}
		return nil
	})
	return eg.Wait()
}

// sparse lets through a bounded number of lines.
type sparse struct {
	slog.Handler
	limit *rate.Limiter
}

func (s *sparse) Handle(ctx context.Context, r slog.Record) error {
	if !s.limit.Allow() {
		return nil
	}
	return s.Handler.Handle(ctx, r)
}

func drainAndClose(b io.ReadCloser) {
	io.Copy(io.Discard, io.LimitReader(b, 4<<10))
	b.Close()
}
