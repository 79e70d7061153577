package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"

	"understudy/session"
)

func library(t testing.TB) *openSSL {
	t.Helper()
	l, err := loadOpenSSL()
	if err != nil {
		t.Fatalf("%v (Debian: libssl3)", err)
	}
	return l
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpenSSLIsUsedWhereItIs(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	ensure(t, r, fence, "RS256", "ES256")
	if name, _ := r.Signer(); !strings.HasPrefix(name, "openssl 3.") {
		t.Errorf("Signer() = %s", name)
	}
	for _, i := range r.List() {
		if want := map[string]string{"RS256": "openssl 3.", "ES256": "go"}[i.Alg]; !strings.HasPrefix(i.Signer, want) {
			t.Errorf("%s signs with %q", i.Alg, i.Signer)
		}
	}
	forced := open(t, t.TempDir(), Options{GoRSA: true})
	ensure(t, forced, fence, "RS256")
	if name, why := forced.Signer(); name != "go" || why == "" || find(t, forced, fence, IDToken, Current).Signer != "go" {
		t.Errorf("forced: %s, %s", name, why)
	}
}

func TestOpenSSLSignsAllWaysAtOnce(t *testing.T) {
	k := rsaKey(t)
	s, err := library(t).newSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 12 {
				h := hashes[(g+i)%3]
				var opts crypto.SignerOpts = h
				if i%2 == 1 {
					opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
				}
				sum := make([]byte, h.Size())
				rand.Read(sum)
				sig, err := s.Sign(rand.Reader, sum, opts)
				if err != nil || !verifiesRSA(&k.PublicKey, sum, sig, opts) {
					t.Errorf("%v: %v", opts, err)
				}
			}
		})
	}
	wg.Wait()
	if n := s.fallbacks.Load(); n != 0 {
		t.Errorf("%d signatures were Go's", n)
	}
}

// What OpenSSL is not asked to do, Go does, and refuses as it always would.
func TestOpenSSLLeavesTheRestToGo(t *testing.T) {
	k := rsaKey(t)
	s, err := library(t).newSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(nil)
	auto := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}
	if sig, err := s.Sign(rand.Reader, sum[:], auto); err != nil || rsa.VerifyPSS(&k.PublicKey, crypto.SHA256, sum[:], sig, auto) != nil {
		t.Errorf("PSS with another salt: %v", err)
	}
	if _, err := s.Sign(rand.Reader, sum[:5], crypto.SHA256); err == nil {
		t.Error("signed a digest of a wrong length")
	}
}

func TestGoSignsWhereOpenSSLFails(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	breaks := map[string]func(*opensslSigner){
		"the call breaks off": func(s *opensslSigner) { s.lib.sign = 0 },
		"the call refuses":    func(s *opensslSigner) { s.lib.sign = s.lib.setSaltLen },
		"no context":          func(s *opensslSigner) { s.idle, s.lib.signInit = [6][]uintptr{}, s.lib.setSaltLen },
		"the key is gone":     func(s *opensslSigner) { s.close() },
	}
	for rule, do := range breaks {
		k := rsaKey(t)
		s, err := library(t).newSigner(k)
		if err != nil {
			t.Fatal(err)
		}
		do(s)
		sig, err := s.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil || !verifiesRSA(&k.PublicKey, sum[:], sig, crypto.SHA256) {
			t.Errorf("%s: %v", rule, err)
		}
		if s.fallbacks.Load() != 1 {
			t.Errorf("%s: not counted", rule)
		}
	}
}

// A wrong signature is found by the sample, does not go out, and ends the use of OpenSSL for the key.
func TestWrongSignaturesEndOpenSSL(t *testing.T) {
	k := rsaKey(t)
	s, err := library(t).newSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := library(t).newSigner(rsaKey(t))
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.KeepAlive(stranger)
	s.opensslKey = stranger.opensslKey
	sum := sha256.Sum256([]byte("x"))
	for i := 1; i <= checkEvery; i++ {
		sig, err := s.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if good := verifiesRSA(&k.PublicKey, sum[:], sig, crypto.SHA256); good != (i == checkEvery) {
			t.Fatalf("signature %d: right = %v", i, good)
		}
	}
	if s.name() != "go" || s.fallbacks.Load() != 1 {
		t.Errorf("after a wrong signature: %s, %d fallbacks", s.name(), s.fallbacks.Load())
	}
	if _, err := s.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
}

func TestLibrariesThatAreNotUsed(t *testing.T) {
	for _, name := range []string{"libunderstudy-no-such.so.3", "libc.so.6"} {
		if _, err := loadLibrary(name); !errors.Is(err, errOpenSSL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l := library(t)
	l.sign = l.setSaltLen
	if _, err := l.newSigner(rsaKey(t)); !errors.Is(err, errOpenSSL) {
		t.Errorf("a library that cannot sign passes the test: %v", err)
	}
	l = library(t)
	lib, err := purego.Dlopen(libcrypto, purego.RTLD_NOW)
	if err != nil {
		t.Fatal(err)
	}
	sha3, err := purego.Dlsym(lib, "EVP_sha3_256")
	if err != nil {
		t.Fatal(err)
	}
	l.md[0], _, _ = purego.SyscallN(sha3) // as long as SHA-256: it signs, but not what was asked for
	if _, err := l.newSigner(rsaKey(t)); !errors.Is(err, errOpenSSL) {
		t.Errorf("a library that makes wrong signatures passes the test: %v", err)
	}
	if _, err := l.parse([]byte("no key")); !errors.Is(err, errOpenSSL) {
		t.Errorf("parsed what is no key: %v", err)
	}
}

// A ring whose library does not pass the test signs with Go's RSA.
func TestRingFallsBackToGo(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	r.openssl.sign = r.openssl.setSaltLen
	ensure(t, r, fence, "RS256")
	if i := find(t, r, fence, AccessToken, Current); i.Signer != "go" {
		t.Errorf("signs with %s", i.Signer)
	}
	token, _ := sign(t, r, fence, AccessToken, "RS256", time.Minute)
	if _, _, err := r.Verify(fence, AccessToken, token); err != nil {
		t.Error(err)
	}
}

// answerClaims are about as large as a real provider's.
func answerClaims(b *testing.B, now time.Time) session.Object {
	c := claims(b, fence, now, 5*time.Minute)
	c.Set("realm_access", []byte(`{"roles":["offline_access","uma_authorization","default-roles-a","`+strings.Repeat("r", 300)+`"]}`))
	c.Set("name", []byte(`"Ann Example"`))
	c.Set("email", []byte(`"ann@id.example"`))
	c.Set("sid", []byte(`"`+base64.RawURLEncoding.EncodeToString(make([]byte, 24))+`"`))
	return c
}

// reportCPU reports the processor time of the whole process, which other load on the machine disturbs less.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	was := used()
	return func() { b.ReportMetric(float64(used()-was)/float64(b.N), "cpu-ns/op") }
}

func benchmarkSign(b *testing.B, alg string, goRSA bool) {
	r := open(b, b.TempDir(), Options{GoRSA: goRSA})
	ensure(b, r, fence, alg)
	h, c := object(b, `{"alg":"`+alg+`","typ":"JWT","kid":"x"}`), answerClaims(b, time.Now())
	b.ReportAllocs()
	defer reportCPU(b)()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := r.Sign(fence, AccessToken, h, c); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkSignRS256Go(b *testing.B)      { benchmarkSign(b, "RS256", true) }
func BenchmarkSignRS256OpenSSL(b *testing.B) { benchmarkSign(b, "RS256", false) }
func BenchmarkSignES256(b *testing.B)        { benchmarkSign(b, "ES256", false) }

// BenchmarkSignES256Bare is the signature alone, which bounds the one above.
func BenchmarkSignES256Bare(b *testing.B) {
	r := open(b, b.TempDir(), Options{})
	ensure(b, r, fence, "ES256")
	k := r.of(fence)[0]
	sum := sha256.Sum256(nil)
	b.ReportAllocs()
	defer reportCPU(b)()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := k.signer.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
				b.Error(err)
			}
		}
	})
}
