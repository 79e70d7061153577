package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"understudy/flow/proof"
)

const (
	keysEvery    = time.Hour        // how often a client's keys are fetched
	keysAgain    = 30 * time.Second // how soon after one fetch an unknown key, which anybody can name, may bring about the next
	keysDeadline = 2 * time.Second
)

// fetchedKeys are the keys that a client has at its jwks_uri (RFC 7591, section 2). The last good answer is on disk: in an
// outage the client's host may be away too.
type fetchedKeys struct {
	uri, file string
	now       func() time.Time
	log       *slog.Logger
	http      *http.Client

	fetching sync.Mutex // one fetch at a time
	mu       sync.Mutex // guards what follows
	keys     *proof.ClientKeys
	asked    time.Time
}

// CheckKeyURI says what is wrong with a jwks_uri: keys that anybody between could replace prove nothing.
func CheckKeyURI(s string) error { return checkClientURL(s, "keys are") }

// checkClientURL says what is wrong with a URL at a client's host from which something is fetched.
func checkClientURL(s, what string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("%.64q is no URL from which %s fetched", s, what)
	}
	a, err := netip.ParseAddr(u.Hostname())
	if u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
		return fmt.Errorf("%s fetched by https, or by http on loopback: whoever is between could replace them", what)
	}
	return nil
}

// clientFetcher fetches from a client's host: it goes where it is sent and no further, and not for long. idle is how long a connection
// is kept for the next; 0: not at all.
func clientFetcher(idle time.Duration) *http.Client {
	return &http.Client{
		Timeout:       keysDeadline,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: keysDeadline}).DialContext, DisableKeepAlives: idle == 0, IdleConnTimeout: idle, MaxResponseHeaderBytes: 16 << 10,
		},
	}
}

// openFetchedKeys reads what is on disk of each client's keys.
func openFetchedKeys(dir string, uris map[string]string, c Config) (map[string]*fetchedKeys, error) {
	out := map[string]*fetchedKeys{}
	for client, uri := range uris {
		if err := CheckKeyURI(uri); err != nil {
			return nil, fmt.Errorf("client %s: %w", client, err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		f := &fetchedKeys{
			// Another URI is another set.
			uri: uri, file: filepath.Join(dir, fmt.Sprintf("%x.json", sha256.Sum256([]byte(client+"\x00"+uri)))), now: c.Now, log: c.Log.With("client", client),
			http: clientFetcher(0),
		}
		switch b, err := os.ReadFile(f.file); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("the keys of client %s: %w", client, err)
		default:
			if f.keys, err = proof.ParseClientKeys(b); err != nil {
				f.log.Warn("a client's kept keys cannot be read; they are fetched anew", "error", err)
			}
		}
		out[client] = f
	}
	return out, nil
}

// run fetches the keys now and then until ctx ends.
func (f *fetchedKeys) run(ctx context.Context) error {
	for {
		f.fetch(ctx)
		wait := keysEvery
		if f.held() == nil {
			wait = keysAgain
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (f *fetchedKeys) held() *proof.ClientKeys {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys
}

// fetch gets the keys, unless that was done just now; it says whether they are new.
func (f *fetchedKeys) fetch(ctx context.Context) bool {
	before := f.now()
	f.fetching.Lock()
	defer f.fetching.Unlock()
	f.mu.Lock()
	last := f.asked
	if !last.IsZero() && before.Sub(last) < keysAgain {
		f.mu.Unlock()
		return last.After(before) // somebody else has just done it
	}
	f.asked = f.now()
	f.mu.Unlock()
	b, keys, err := f.get(ctx)
	if err != nil {
		f.log.Warn("a client's keys cannot be fetched; those of the last time hold", "error", err)
		return false
	}
	if err := renameio.WriteFile(f.file, b, 0o600); err != nil {
		f.log.Error("a client's keys are not kept", "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = keys
	return true
}

func (f *fetchedKeys) get(ctx context.Context) ([]byte, *proof.ClientKeys, error) {
	ctx, cancel := context.WithTimeout(ctx, keysDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.uri, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, proof.MaxClientKeys+1))
	if err != nil {
		return nil, nil, err
	}
	keys, err := proof.ParseClientKeys(b)
	return b, keys, err
}

// keysOf are the keys that a client registered; nil: none are known.
func (t *Tenant) keysOf(client string) *proof.ClientKeys {
	if f := t.fetched[client]; f != nil {
		return f.held()
	}
	return t.ClientKeys[client]
}

// fetchKeys fetches a client's keys anew, because one is used that is not among them; it says whether there are others now.
func (t *Tenant) fetchKeys(ctx context.Context, client string) bool {
	f := t.fetched[client]
	return f != nil && f.fetch(ctx)
}
