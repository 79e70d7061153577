package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/renameio/v2"

	"understudy/flow"
)

// origins remembers what the primary lets browser applications do (the Fetch standard's CORS protocol): its replies to their
// preflights, for origins that it was seen to answer with success. While it is away their preflights get the same reply.
// What is remembered is public and bounded, and lies on disk, so that a start in an outage has it.
type origins struct {
	file    string
	changed chan struct{} // holds one: something is to be written

	mu       sync.Mutex // guards what follows; never held during a call to the disk
	approved map[string]bool
	replies  map[string]map[string]string // header fields of a preflight's reply
}

// maxOrigins bounds the origins of a tenant, over all issuers and endpoints.
const maxOrigins = 1000

// corsFields are the header fields of a preflight's reply.
func corsFields() []string {
	return []string{
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
		"Access-Control-Max-Age",
	}
}

type savedOrigins struct {
	Approved []string                     `json:"approved"`
	Replies  map[string]map[string]string `json:"replies"`
}

// openOrigins reads what is remembered; what does not read is begun anew.
func openOrigins(file string) (*origins, error) {
	o := &origins{file: file, changed: make(chan struct{}, 1), approved: map[string]bool{}, replies: map[string]map[string]string{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the origins of browser applications: %w", err)
	}
	var s savedOrigins
	if json.Unmarshal(b, &s) != nil {
		return o, nil
	}
	for _, k := range s.Approved {
		o.approved[k] = true
	}
	if s.Replies != nil {
		o.replies = s.Replies
	}
	return o, nil
}

// originKey is the place of an origin at an issuer's endpoint, or "" where the origin is none that may be remembered: a
// serialised one of scheme and host, not "null".
func originKey(v *visit, origin string) string {
	u, err := url.Parse(origin)
	if err != nil || v.issuer == nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" ||
		len(origin) > 512 || u.Scheme+"://"+u.Host != origin {
		return ""
	}
	return v.issuer.ID + " " + string(v.endpoint) + " " + origin
}

// allows says whether a reply lets an origin, and not just anybody with its cookies, read it.
func allows(h http.Header, origin string) bool {
	all := h.Values("Access-Control-Allow-Origin")
	if len(all) != 1 {
		return false
	}
	return all[0] == origin || all[0] == "*" && h.Get("Access-Control-Allow-Credentials") == ""
}

// approve notes that the primary answered an origin's request with success.
func (o *origins) approve(v *visit, origin string, status int, h http.Header) {
	k := originKey(v, origin)
	if k == "" || status/100 != 2 || !allows(h, origin) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.approved[k] || len(o.approved) >= maxOrigins {
		return
	}
	o.approved[k] = true
	o.nudge()
}

// knows says whether an origin was approved at the token endpoint or UserInfo of the issuer.
func (o *origins) knows(v *visit, origin string) bool {
	for _, e := range []flow.Endpoint{flow.Token, flow.UserInfo} {
		there := *v
		there.endpoint = e
		o.mu.Lock()
		ok := o.approved[originKey(&there, origin)]
		o.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// preflight notes the primary's reply to a preflight.
func (o *origins) preflight(v *visit, origin string, status int, h http.Header) {
	k := originKey(v, origin)
	if k == "" || status/100 != 2 || !allows(h, origin) || h.Get("Access-Control-Allow-Methods") == "" {
		return
	}
	reply := map[string]string{}
	for _, name := range corsFields() {
		if x := h.Get(name); x != "" && len(x) <= 1024 {
			reply[name] = x
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	was, known := o.replies[k]
	if known && len(was) == len(reply) && !slices.ContainsFunc(corsFields(), func(n string) bool { return was[n] != reply[n] }) {
		return
	}
	if !known && len(o.replies) >= maxOrigins && !o.evict() {
		return
	}
	o.replies[k] = reply
	if o.approved[k] {
		o.nudge() // anybody's preflight may be answered: that alone is not worth a write
	}
}

// evict makes room by a reply to an origin that was never approved; o.mu is held.
func (o *origins) evict() bool {
	for k := range o.replies {
		if !o.approved[k] {
			delete(o.replies, k)
			return true
		}
	}
	return false
}

func (o *origins) nudge() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// run writes what changed, behind the requests, until ctx ends; then once more what is left.
func (o *origins) run(ctx context.Context, log *slog.Logger) error {
	for {
		done := false
		select {
		case <-o.changed:
		case <-ctx.Done():
			done = true
			select {
			case <-o.changed:
			default:
				return nil
			}
		}
		if err := o.save(); err != nil {
			log.Error("what browser applications may do is not kept", "error", err)
		}
		if done {
			return nil
		}
	}
}

// save writes the file: what was approved, and the replies to it.
func (o *origins) save() error {
	o.mu.Lock()
	s := savedOrigins{Replies: map[string]map[string]string{}}
	for k := range o.approved {
		s.Approved = append(s.Approved, k)
		if r, ok := o.replies[k]; ok {
			s.Replies[k] = r // which is replaced and not changed
		}
	}
	o.mu.Unlock()
	slices.Sort(s.Approved)
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.file), 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(o.file, b, 0o600); err != nil {
		return fmt.Errorf("keep the origins of browser applications: %w", err)
	}
	return nil
}

// answer answers a preflight in the primary's place. It is false where the origin was never approved there.
func (o *origins) answer(w http.ResponseWriter, r *http.Request, v *visit) bool {
	if !isPreflight(r) {
		return false
	}
	k := originKey(v, r.Header.Get("Origin"))
	o.mu.Lock()
	reply, ok := o.replies[k]
	ok = ok && o.approved[k]
	o.mu.Unlock()
	if !ok {
		return false
	}
	for name, x := range reply {
		w.Header().Set(name, x)
	}
	w.Header().Add("Vary", "Origin")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header.Values("Origin")) == 1 && r.Header.Get("Access-Control-Request-Method") != ""
}

// crossed learns from a reply of the primary at a protocol endpoint what a browser application may do.
func (g *Gateway) crossed(v *visit, r *http.Request, status int, h http.Header) {
	origin := r.Header.Get("Origin")
	if origin == "" || v.endpoint == flow.Other {
		return
	}
	switch {
	case isPreflight(r):
		v.tenant.origins.preflight(v, origin, status, h)
	case r.Method != http.MethodOptions && v.endpoint != flow.Revocation:
		v.tenant.origins.approve(v, origin, status, h)
	case r.Method != http.MethodOptions && v.tenant.origins.knows(v, origin):
		// A revocation succeeds for anybody (RFC 7009, section 2.2): only an origin that was approved elsewhere is one.
		v.tenant.origins.approve(v, origin, status, h)
	}
}
