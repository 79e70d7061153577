package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"understudy/flow"
	"understudy/session"
)

// references are the places where one client has its request objects (RFC 9101, section 5.2). Nothing is fetched from any other:
// anybody can name a URL. The primary fetches for itself, and may have read another object there than this gateway; see
// [tied.read] for what is learned all the same.
type references struct {
	uris   []string
	http   *http.Client
	places chan struct{} // objects that are being fetched
	// strangers are those that are fetched for browsers that show no session: nothing can be answered to them, and they take no more of
	// the places.
	strangers chan struct{}

	mu   sync.Mutex        // guards kept
	kept map[string]string // objects by URI, where that ends in their hash (OpenID Connect Core, section 6.2)
}

const (
	maxReferences = 64 // objects of one client that are fetched at once
	maxStrangers  = 16 // of them
	maxKept       = 64
	hashLength    = 43 // of a SHA-256 in base64url
)

// objectName is what the * of a registered URI stands for.
var objectName = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}$`)

// CheckRequestURI says what is wrong with a registered request_uri (OpenID Connect Dynamic Client Registration, section 2). One whose
// path ends in /* stands for whatever name is there, without a slash or a query.
func CheckRequestURI(s string) error {
	if err := checkClientURL(s, "request objects are"); err != nil {
		return err
	}
	if u, err := url.Parse(s); err != nil || strings.Contains(strings.TrimSuffix(s, "*"), "*") || strings.HasSuffix(s, "*") && !strings.HasSuffix(u.Path, "/*") {
		return fmt.Errorf("%.64q has a * that is not the last part of its path", s)
	}
	return nil
}

func newReferences(uris map[string][]string) (map[string]*references, error) {
	out := map[string]*references{}
	for client, us := range uris {
		for _, u := range us {
			if err := CheckRequestURI(u); err != nil {
				return nil, fmt.Errorf("client %s: %w", client, err)
			}
		}
		out[client] = &references{uris: us, http: clientFetcher(time.Minute), kept: map[string]string{},
			places: make(chan struct{}, maxReferences), strangers: make(chan struct{}, maxStrangers)}
	}
	return out, nil
}

// registered says whether an object lies at a place of the client's, letter by letter, whatever fragment is behind it.
func (f *references) registered(uri string) bool {
	at, _, _ := strings.Cut(uri, "#")
	for _, u := range f.uris {
		if begin, any := strings.CutSuffix(u, "*"); any {
			if name, ok := strings.CutPrefix(at, begin); ok && objectName.MatchString(name) {
				return true
			}
		} else if at == u {
			return true
		}
	}
	return false
}

// get fetches a request object, or fails within [keysDeadline]. What is not there as the URI's fragment says is not there.
func (f *references) get(ctx context.Context, uri string) (string, error) {
	f.mu.Lock()
	object, ok := f.kept[uri]
	f.mu.Unlock()
	if ok {
		return object, nil
	}
	at, hash, _ := strings.Cut(uri, "#")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/oauth-authz-req+jwt, */*")
	resp, err := f.http.Do(req)
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return "", u.Err // without the URL
	} else if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBegunQuery+1))
	switch sum := sha256.Sum256(b); {
	case err != nil:
		return "", err
	case len(b) > maxBegunQuery:
		return "", fmt.Errorf("over %d bytes", maxBegunQuery)
	case len(hash) != hashLength:
		return string(b), nil
	case hash != base64.RawURLEncoding.EncodeToString(sum[:]):
		return "", errors.New("another object than the URI names")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.kept) >= maxKept {
		clear(f.kept)
	}
	f.kept[uri] = string(b)
	return string(b), nil
}

// reference is an authorization request at a URL, which is fetched while the primary is asked.
type reference struct {
	from  *references
	uri   string
	leave func()        // gives back its place
	here  chan struct{} // closed when it was fetched, or could not be
	// what follows is set then
	request  *flow.Request
	exchange flow.Exchange // nil: there is no object that its client signed for now
}

// refer finds where a request lies. nil: nowhere, at no place of its client's, or too many are fetched from there.
func (g *Gateway) refer(v *visit, r *flow.Request) *reference {
	from, uri := v.tenant.references[r.Form.Get("client_id")], r.Form["request_uri"]
	if r.Pushed || from == nil || len(uri) != 1 || r.Form.Has("request") || !from.registered(uri[0]) ||
		string(v.issuer.object.Get("request_uri_parameter_supported")) == "false" {
		return nil
	}
	stranger := v.named || v.browser == "" || v.tenant.holds(r.HTTP).text(v.tenant.SessionCookies) == ""
	leave := from.enter(stranger)
	if leave == nil {
		return nil
	}
	return &reference{from: from, uri: uri[0], leave: leave, here: make(chan struct{})}
}

// enter takes a place to fetch an object, or is nil where all are taken. leave gives it back.
func (f *references) enter(stranger bool) (leave func()) {
	places := []chan struct{}{f.places}
	if stranger {
		places = append(places, f.strangers)
	}
	for i, p := range places {
		select {
		case p <- struct{}{}:
		default:
			for _, taken := range places[:i] {
				<-taken
			}
			return nil
		}
	}
	return func() {
		for _, p := range places {
			<-p
		}
	}
}

// dereference fetches a request object, and notes what its client asks for there.
func (g *Gateway) dereference(v *visit, ref *reference) {
	defer g.late.wg.Done()
	defer close(ref.here)
	defer ref.leave()
	ctx, cancel := g.late.outlive(context.Background())
	defer cancel()
	r := *v.navigation
	client, beside := r.Form.Get("client_id"), maps.Clone(r.Form)
	delete(beside, "request_uri")
	ask := v.exchange.Ask()
	object, err := ref.from.get(ctx, ref.uri)
	if err == nil {
		r.Form, err = g.signedForm(v, client, object, beside)
	}
	if err != nil {
		g.c.Log.Debug("a request object is not taken", "tenant", v.tenant.Name, "client", client, "error", err)
	} else {
		r.Signed, r.Referenced = true, true
		_, ref.exchange = g.navigation(&r)
		ref.request, ask = &r, ref.exchange.Ask()
	}
	g.puzzled(v, ask)
	switch kept := *ask; {
	case v.begun == nil:
	case ask.Door == nil:
		g.browsers.dropped(g.browserID(v), v.begun)
	default:
		g.browsers.asks(g.browserID(v), v.begun, &kept)
	}
}

// awaited says whether what a request asks for is still to come. Of nil, which lies nowhere, it is not.
func (ref *reference) awaited() bool {
	if ref == nil {
		return false
	}
	select {
	case <-ref.here:
		return false
	default:
		return true
	}
}

// dereference waits until it is known what the request asks for.
func (t *trip) dereference(ctx context.Context) {
	ref := t.v.reference
	if ref == nil {
		return
	}
	select {
	case <-ref.here:
	case <-ctx.Done():
		return
	}
	if t.v.reference = nil; ref.exchange != nil {
		t.v.navigation, t.v.exchange, t.ask = ref.request, ref.exchange, ref.exchange.Ask()
	}
}

// read says whether the primary's answer shows that it read the request object that was read here, and what scope it gave for it;
// unlearned says why not. Who has the object lie at a URL can give one to the primary and another to this gateway, but its client
// signed both. An honest one never gives two requests the same state and nonce, and of a dishonest one nothing counts but what the
// primary itself says.
func (x *tied) read(rec *session.Record) (scope []string, unlearned string) {
	tokens := []*session.Token{rec.IDToken}
	given := rec.AccessToken != nil || rec.Opaque != nil
	said := cmp.Or(rec.Response.Text("scope"), x.answer.Params.Text("scope"))
	if t := rec.AccessToken; t != nil {
		said = cmp.Or(said, t.Claims.Text("scope"))
	}
	if f := rec.Front; f != nil {
		tokens = append(tokens, f.IDToken)
	}
	for _, t := range tokens {
		if t != nil && t.Claims.Text("nonce") != x.ask.Params["nonce"] {
			return nil, "request_object_unproven"
		}
	}
	if x.ask.Params["state"] == "" || given && said == "" {
		return nil, "request_object_unproven"
	}
	return strings.Fields(said), ""
}
