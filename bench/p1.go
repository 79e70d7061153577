package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"understudy/keys"
	"understudy/session"
)

// withoutOpenSSL makes a process find a library that cannot be loaded where it looks for OpenSSL: it signs with Go's RSA.
func (l *lab) withoutOpenSSL() (env string, err error) {
	dir := filepath.Join(l.dir, "no-openssl")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return "LD_LIBRARY_PATH=" + dir, os.WriteFile(filepath.Join(dir, "libcrypto.so.3"), nil, 0o644)
}

// ringSigner signs through a key ring, which is the only way to OpenSSL's RSA; what the ring does beside the signature
// is below one percent of it. It is the limit only, and signs no tokens that anybody gets.
type ringSigner struct {
	ring   *keys.Ring
	fence  keys.Fence
	header session.Object
	claims session.Object
}

func (l *lab) openSSLSigner() (crypto.Signer, error) {
	dir, err := os.MkdirTemp(l.dir, "keys-")
	if err != nil {
		return nil, err
	}
	r, err := keys.Open(dir, make([]byte, 32), keys.Options{})
	if err != nil {
		return nil, err
	}
	if name, why := r.Signer(); !strings.HasPrefix(name, "openssl") {
		return nil, fmt.Errorf("OpenSSL's RSA cannot be measured: %s", why)
	}
	f := keys.Fence{Tenant: tenant, Issuer: issuerID}
	if err := r.Ensure(f, "RS256"); err != nil {
		return nil, err
	}
	return &ringSigner{r, f, session.Object{{Name: "alg", Value: session.Quote("RS256")}}, session.Object{
		{Name: "iss", Value: session.Quote(issuerID)}, {Name: "exp", Value: strconv.AppendInt(nil, time.Now().Add(12*time.Hour).Unix(), 10)},
		{Name: "iat", Value: strconv.AppendInt(nil, time.Now().Unix(), 10)},
	}}, nil
}

// Public implements crypto.Signer.
func (s *ringSigner) Public() crypto.PublicKey { return s.ring.Public(s.fence)[0].Key }

// Sign implements crypto.Signer for the one thing that it is asked for here.
func (s *ringSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	_, _, err := s.ring.Sign(s.fence, "access_token", s.header, s.claims)
	return nil, err
}

// bothRSA starts the same outage twice: with Go's RSA, and with OpenSSL's. A smoke test has Go's alone.
func (l *lab) bothRSA(ctx context.Context, c scene) (outages []*outage, kill func(), err error) {
	kill = func() {
		for _, o := range outages {
			o.u.Kill()
		}
	}
	env, err := l.withoutOpenSSL()
	if err != nil {
		return nil, kill, err
	}
	c.alg = "RS256"
	signers := []struct {
		label, signer string
		env           []string
	}{{"RS256-2048 with Go's RSA", "go", []string{env}}, {"RS256-2048 with OpenSSL's RSA", "openssl", nil}}
	if l.quick {
		signers = signers[:1]
	}
	for _, v := range signers {
		c.label, c.env = v.label, v.env
		o, err := l.startOutage(ctx, c)
		if err != nil {
			return outages, kill, err
		}
		outages = append(outages, o)
		st, err := l.status(ctx, o.u)
		if err != nil {
			return outages, kill, err
		}
		if !strings.HasPrefix(st.Keys.Signer, v.signer) {
			return outages, kill, fmt.Errorf("%s: it signs with %q", v.label, st.Keys.Signer)
		}
		if v.signer == "openssl" {
			if o.sign, err = l.openSSLSigner(); err != nil {
				return outages, kill, err
			}
		}
	}
	return outages, kill, nil
}

func measureP1(ctx context.Context, l *lab) ([]Row, error) {
	outages, kill, err := l.bothRSA(ctx, scene{})
	defer kill()
	if err != nil {
		return nil, err
	}
	var peers []*peer
	var errs []error
	if !l.quick {
		for _, start := range []func(context.Context) (*peer, error){l.startOIDCProvider, l.startKeycloak} {
			p, err := start(ctx)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			defer p.kill()
			peers = append(peers, p)
		}
	}
	for i := range l.rounds {
		for _, o := range outages {
			if err := l.round(ctx, o); err != nil {
				return nil, err
			}
			l.log.Printf("%s, round %d: %.0f µs of CPU a grant, a signature %.0f µs (one core) and %.0f µs (two)", o.label, i+1, o.served[i].cpu, o.one[i], o.two[i])
		}
		for _, p := range peers {
			if err := p.round(ctx, l.duration); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			l.log.Printf("%s, round %d: %.0f µs of CPU a grant", p.name, i+1, p.served[i].cpu)
		}
	}
	rows := []Row{outages[0].row(.80), outages[1].row(.74)}
	for i := range rows {
		for _, p := range peers {
			rows[i] = rows[i].beside(p.name, 1e6/median(cpus(p.served)))
		}
	}
	ours := median(cpus(outages[1].served))
	for _, p := range peers {
		share := 1 / 2.0
		if strings.HasPrefix(p.name, "Keycloak") {
			share = 1 / 2.5
		}
		theirs, ratio := median(cpus(p.served)), median(ratios(outages[1].served, p.served))
		rows = append(rows, newRow("CPU a grant with OpenSSL's RSA, beside "+p.name, ours, "µs of CPU a grant").
			limited(round(2*median(outages[1].two))).judged("<=", share*theirs, ratio <= share).beside(p.name, theirs).
			noted("%.2f of its CPU (median of the rounds' ratios, which is what is judged; the bar is %.2f). The limit is the CPU of two signatures. It has %d sessions and goes on with each new refresh token.", ratio, share, len(p.s.tokens)))
	}
	return rows, errors.Join(errs...)
}

var _ crypto.Signer = (*ringSigner)(nil)
