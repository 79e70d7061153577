package serve

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often certificate files are looked at.
const lookEvery = time.Second

// certificate is a certificate whose files are read again when they change. A pair that does not fit together, as in
// the middle of a change, leaves the last good one in force.
type certificate struct {
	log *slog.Logger

	mu                sync.Mutex // guards what follows
	certFile, keyFile string
	cert              *tls.Certificate
	looked            time.Time
	stamp             string // of the files that cert came from
	failed            string // the last stamp that did not load
}

func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{log: log}
	return c, c.use(certFile, keyFile)
}

// use changes to other files, or reads the same ones again; where they don't load the old certificate stays.
func (c *certificate) use(certFile, keyFile string) error {
	stamp := stampOf(certFile, keyFile)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate %s with the key %s: %w", certFile, keyFile, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certFile, c.keyFile, c.cert, c.stamp, c.looked = certFile, keyFile, &cert, stamp, time.Now()
	return nil
}

func stampOf(files ...string) string {
	s := ""
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return "" // in the middle of a change
		}
		s += fmt.Sprintf("%d %d;", st.ModTime().UnixNano(), st.Size())
	}
	return s
}

// get is for tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.looked) < lookEvery {
		return c.cert, nil
	}
	c.looked = now
	stamp := stampOf(c.certFile, c.keyFile)
	if stamp == "" || stamp == c.stamp {
		return c.cert, nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if stamp != c.failed {
			c.log.Warn("a changed certificate does not load; the old one stays in force", "file", c.certFile, "error", err)
			c.failed = stamp
		}
		return c.cert, nil
	}
	c.cert, c.stamp = &cert, stamp
	c.log.Info("a changed certificate is in force", "file", c.certFile)
	return c.cert, nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}
