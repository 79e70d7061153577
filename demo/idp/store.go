package idp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/google/renameio/v2"
)

const sha256Hash = crypto.SHA256

// store is the provider's memory: a file that is replaced as a whole, and synced, before anybody is told.
type store struct {
	path string
	mu   sync.Mutex // guards s
	s    state
}

// state is what the file holds.
type state struct {
	Key      []byte              `json:"key"`      // PKCS #8
	Sessions map[string]*session `json:"sessions"` // by sid
	Browsers map[string]string   `json:"browsers"` // digest of the cookie → sid
	Refresh  map[string]*refresh `json:"refresh"`  // by digest of the refresh token
}

type session struct {
	Username string `json:"username"`
	AuthTime int64  `json:"auth_time"` // Unix seconds
	Ended    bool   `json:"ended"`
}

type refresh struct {
	SID   string `json:"sid"`
	Scope string `json:"scope"`
	Used  bool   `json:"used"`
}

func openStore(path string) (*store, *rsa.PrivateKey, error) {
	st := &store{path: path}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, err
		}
		st.s = state{Key: der, Sessions: map[string]*session{}, Browsers: map[string]string{}, Refresh: map[string]*refresh{}}
		return st, key, st.save()
	case err != nil:
		return nil, nil, fmt.Errorf("read the demo identity provider's state: %w", err)
	}
	if err := json.Unmarshal(b, &st.s); err != nil {
		return nil, nil, fmt.Errorf("read the demo identity provider's state: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(st.s.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("read the demo identity provider's key: %w", err)
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, nil, errors.New("read the demo identity provider's key: it is no RSA key")
	}
	return st, key, nil
}

// save writes the file; mu is held, or nobody else has the store yet.
func (st *store) save() error {
	b, err := json.Marshal(st.s)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(st.path, b, 0o600); err != nil {
		return fmt.Errorf("keep the demo identity provider's state: %w", err)
	}
	return nil
}

// change runs f and keeps what it did.
func (st *store) change(f func(*state)) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(&st.s)
	return st.save()
}

// look runs f, which must change nothing.
func (st *store) look(f func(*state)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(&st.s)
}
