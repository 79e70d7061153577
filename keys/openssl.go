package keys

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/ebitengine/purego"
)

// openSSL is the system's libcrypto, loaded at run time without cgo. It computes RSA signatures about three times as
// fast as Go does. Nothing else is taken from it: keys are made, kept and verified with Go.
type openSSL struct {
	version string // "openssl 3.x.y"
	d2iAutoPrivateKey, pkeyFree, ctxNew, ctxFree, signInit, setPadding, setMD, setSaltLen, sign,
	clearErrors uintptr
	md [3]uintptr // EVP_sha256, 384, 512

	// slots bounds the threads that are inside the library: more than there are processors would only contend.
	slots chan struct{}
}

const (
	libcrypto = "libcrypto.so.3"

	rsaPKCS1Padding  = 1           // RSA_PKCS1_PADDING
	rsaPSSPadding    = 6           // RSA_PKCS1_PSS_PADDING
	saltLengthDigest = ^uintptr(0) // RSA_PSS_SALTLEN_DIGEST, -1
)

var errOpenSSL = errors.New("openssl")

// loadOpenSSL loads the library, or says why it cannot be used.
func loadOpenSSL() (*openSSL, error) { return loadLibrary(libcrypto) }

func loadLibrary(name string) (l *openSSL, err error) {
	defer func() {
		if p := recover(); p != nil {
			l, err = nil, fmt.Errorf("%w: %s cannot be called here", errOpenSSL, name)
		}
	}()
	lib, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not installed", errOpenSSL, name)
	}
	l = &openSSL{slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	var version, sha256, sha384, sha512 uintptr
	for name, to := range map[string]*uintptr{
		"OpenSSL_version_num": &version, "d2i_AutoPrivateKey": &l.d2iAutoPrivateKey, "EVP_PKEY_free": &l.pkeyFree,
		"EVP_PKEY_CTX_new": &l.ctxNew, "EVP_PKEY_CTX_free": &l.ctxFree, "EVP_PKEY_sign_init": &l.signInit,
		"EVP_PKEY_CTX_set_rsa_padding": &l.setPadding, "EVP_PKEY_CTX_set_signature_md": &l.setMD,
		"EVP_PKEY_CTX_set_rsa_pss_saltlen": &l.setSaltLen, "EVP_PKEY_sign": &l.sign, "ERR_clear_error": &l.clearErrors,
		"EVP_sha256": &sha256, "EVP_sha384": &sha384, "EVP_sha512": &sha512,
	} {
		if *to, err = purego.Dlsym(lib, name); err != nil {
			return nil, fmt.Errorf("%w: this library has no %s", errOpenSSL, name)
		}
	}
	v, _, _ := purego.SyscallN(version)
	if v>>28 != 3 {
		return nil, fmt.Errorf("%w: this library is version %d, not 3", errOpenSSL, v>>28)
	}
	l.version = fmt.Sprintf("openssl %d.%d.%d", v>>28, v>>20&0xff, v>>4&0xff)
	for i, f := range []uintptr{sha256, sha384, sha512} {
		if l.md[i], _, _ = purego.SyscallN(f); l.md[i] == 0 {
			return nil, fmt.Errorf("%w: a hash is switched off", errOpenSSL)
		}
	}
	return l, nil
}

// call calls a C function that returns an int; it is true where that is 1.
func (l *openSSL) call(fn uintptr, args ...uintptr) bool {
	r, _, _ := purego.SyscallN(fn, args...)
	return int32(r) == 1
}

// opensslSigner is an RSA key in OpenSSL's hands. What OpenSSL cannot do, or does wrong, Go does in its place: a
// signature is never lost. It is safe for concurrent use.
type opensslSigner struct {
	*opensslKey
	goKey     *rsa.PrivateKey
	off       atomic.Bool // it made a wrong signature: not used again
	made      atomic.Uint64
	fallbacks atomic.Uint64
}

// opensslKey is the memory that a signer holds in the library.
type opensslKey struct {
	lib *openSSL

	mu   sync.Mutex // guards what follows
	key  uintptr    // EVP_PKEY; 0: closed
	idle [6][]uintptr
}

// newSigner hands a key to the library and tests every hash and padding: sign there, verify with Go.
func (l *openSSL) newSigner(k *rsa.PrivateKey) (s *opensslSigner, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode a key for OpenSSL: %w", err)
	}
	defer clear(der)
	s = &opensslSigner{opensslKey: &opensslKey{lib: l}, goKey: k}
	if s.key, err = l.parse(der); err != nil {
		return nil, err
	}
	runtime.AddCleanup(s, func(k *opensslKey) { k.close() }, s.opensslKey)
	for i, h := range hashes {
		sum := make([]byte, h.Size())
		for _, opts := range []crypto.SignerOpts{h, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}} {
			_, pss := opts.(*rsa.PSSOptions)
			sig, err := s.compute(kindOf(i, pss), sum, k.Size())
			if err == nil && !verifiesRSA(&k.PublicKey, sum, sig, opts) {
				err = fmt.Errorf("%w: it made a wrong signature", errOpenSSL)
			}
			if err != nil {
				s.close()
				return nil, err
			}
		}
	}
	return s, nil
}

var hashes = [...]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func kindOf(hash int, pss bool) int {
	if pss {
		return hash + len(hashes)
	}
	return hash
}

func (l *openSSL) parse(der []byte) (key uintptr, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%w: it cannot take the key", errOpenSSL)
		}
	}()
	p := unsafe.Pointer(&der[0])
	key, _, _ = purego.SyscallN(l.d2iAutoPrivateKey, 0, uintptr(unsafe.Pointer(&p)), uintptr(len(der)))
	runtime.KeepAlive(der)
	if key == 0 {
		return 0, fmt.Errorf("%w: it does not take the key", errOpenSSL)
	}
	return key, nil
}

func (s *opensslSigner) name() string {
	if s.off.Load() {
		return "go"
	}
	return s.lib.version
}

// Public implements [crypto.Signer].
func (s *opensslSigner) Public() crypto.PublicKey { return s.goKey.Public() }

// checkEvery is how many signatures are made for each that is verified. OpenSSL itself checks each against faults of
// the CRT.
const checkEvery = 256

// Sign implements [crypto.Signer] for PKCS #1 v1.5 and PSS with a salt as long as the hash.
func (s *opensslSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	kind, ok := signatureKind(digest, opts)
	if !ok || s.off.Load() {
		return s.goKey.Sign(rand, digest, opts)
	}
	sig, err := s.compute(kind, digest, s.goKey.Size())
	if err == nil && s.made.Add(1)%checkEvery == 0 && !verifiesRSA(&s.goKey.PublicKey, digest, sig, opts) {
		s.off.Store(true)
		err = errOpenSSL
	}
	if err != nil {
		s.fallbacks.Add(1)
		return s.goKey.Sign(rand, digest, opts)
	}
	return sig, nil
}

func signatureKind(digest []byte, opts crypto.SignerOpts) (int, bool) {
	pss, isPSS := opts.(*rsa.PSSOptions)
	for i, h := range hashes {
		if h == opts.HashFunc() && len(digest) == h.Size() {
			return kindOf(i, isPSS), !isPSS || pss.SaltLength == rsa.PSSSaltLengthEqualsHash || pss.SaltLength == h.Size()
		}
	}
	return 0, false
}

func verifiesRSA(pub *rsa.PublicKey, digest, sig []byte, opts crypto.SignerOpts) bool {
	if o, ok := opts.(*rsa.PSSOptions); ok {
		return rsa.VerifyPSS(pub, o.Hash, digest, sig, o) == nil
	}
	return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig) == nil
}

// compute makes one signature of size bytes in the library. An EVP_PKEY_CTX serves one call at a time.
func (k *opensslKey) compute(kind int, digest []byte, size int) (sig []byte, err error) {
	k.lib.slots <- struct{}{}
	defer func() {
		<-k.lib.slots
		if recover() != nil {
			sig, err = nil, fmt.Errorf("%w: the call broke off", errOpenSSL)
		}
	}()
	ctx, err := k.take(kind)
	if err != nil {
		return nil, err
	}
	sig = make([]byte, size)
	n := uintptr(size)
	ok := k.lib.call(k.lib.sign, ctx, uintptr(unsafe.Pointer(&sig[0])), uintptr(unsafe.Pointer(&n)),
		uintptr(unsafe.Pointer(&digest[0])), uintptr(len(digest)))
	if !ok || n != uintptr(size) {
		k.drop(ctx)
		return nil, fmt.Errorf("%w: it does not sign", errOpenSSL)
	}
	k.put(kind, ctx)
	return sig, nil
}

// take returns an idle context of the kind, or a new one.
func (k *opensslKey) take(kind int) (uintptr, error) {
	k.mu.Lock()
	if n := len(k.idle[kind]); n > 0 {
		ctx := k.idle[kind][n-1]
		k.idle[kind] = k.idle[kind][:n-1]
		k.mu.Unlock()
		return ctx, nil
	}
	defer k.mu.Unlock()
	if k.key == 0 {
		return 0, fmt.Errorf("%w: the key was destroyed", errOpenSSL)
	}
	l := k.lib
	ctx, _, _ := purego.SyscallN(l.ctxNew, k.key, 0)
	if ctx == 0 {
		return 0, fmt.Errorf("%w: out of memory", errOpenSSL)
	}
	padding := uintptr(rsaPKCS1Padding)
	if kind >= len(hashes) {
		padding = rsaPSSPadding
	}
	if !l.call(l.signInit, ctx) || !l.call(l.setPadding, ctx, padding) || !l.call(l.setMD, ctx, l.md[kind%len(hashes)]) ||
		padding == rsaPSSPadding && !l.call(l.setSaltLen, ctx, saltLengthDigest) {
		k.drop(ctx)
		return 0, fmt.Errorf("%w: it does not sign this way", errOpenSSL)
	}
	return ctx, nil
}

// put keeps a context for the next signature; those of a destroyed key are freed.
func (k *opensslKey) put(kind int, ctx uintptr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == 0 {
		purego.SyscallN(k.lib.ctxFree, ctx)
		return
	}
	k.idle[kind] = append(k.idle[kind], ctx)
}

// drop frees a context that failed, and the error queue of a thread: nobody reads it, and it may not be this one's.
func (k *opensslKey) drop(ctx uintptr) {
	purego.SyscallN(k.lib.ctxFree, ctx)
	purego.SyscallN(k.lib.clearErrors)
}

// close frees what is in the library; OpenSSL overwrites the key when its last context is gone. It may be called twice.
func (k *opensslKey) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == 0 {
		return
	}
	for i := range k.idle {
		for _, ctx := range k.idle[i] {
			purego.SyscallN(k.lib.ctxFree, ctx)
		}
		k.idle[i] = nil
	}
	purego.SyscallN(k.lib.pkeyFree, k.key)
	k.key = 0
}
