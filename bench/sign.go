package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

// signer makes a key of the type and implementation that the backup signs with.
func signer(alg string) (crypto.Signer, error) {
	switch alg {
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, fmt.Errorf("no signer for %s", alg)
}

// signing is what signatures alone cost this process.
type signing struct {
	cpu  float64 // µs of CPU a signature
	rate float64 // signatures a second of wall time
}

// signFor signs on so many cores for d: the limit that no answer with signatures can pass.
func signFor(s crypto.Signer, cores int, d time.Duration) (signing, error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, cores), make([]error, cores)
	before, began := ownCPU(), time.Now()
	for c := range cores {
		wg.Go(func() {
			digest := sha256.Sum256([]byte{byte(c)})
			for time.Since(began) < d {
				if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
					errs[c] = err
					return
				}
				counts[c]++
			}
		})
	}
	wg.Wait()
	cpu, wall := ownCPU()-before, time.Since(began)
	n := 0
	for c := range cores {
		if errs[c] != nil {
			return signing{}, fmt.Errorf("sign: %w", errs[c])
		}
		n += counts[c]
	}
	return signing{micros(cpu, n), float64(n) / wall.Seconds()}, nil
}
