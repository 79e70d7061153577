package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	issuer   = "https://login.example/realms/a"
	endpoint = "https://login.example/realms/a/token"
	client   = "client-1"
)

// now is a time with a fraction, so that whole seconds are not equal to it by chance.
var now = time.Date(2026, 11, 22, 12, 0, 0, 250e6, time.UTC)

// Keys are made once: RSA ones are slow to make.
var (
	rsaKey    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	otherEC   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	ec384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	ec521     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey     = sync.OnceValue(func() ed25519.PrivateKey { _, k, err := ed25519.GenerateKey(rand.Reader); return must(k, err) })
	theSecret = Secret(strings.Repeat("s3cret--", 8))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// text is an object as JSON.
func text(m map[string]any) string { return string(must(json.Marshal(m))) }

func with(m map[string]any, changes ...any) map[string]any {
	m = maps.Clone(m)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(m, changes[i].(string))
			continue
		}
		m[changes[i].(string)] = changes[i+1]
	}
	return m
}

// compact signs header and claims, whatever they are, as alg.
func compact(alg, header, claims string, key any) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(signature(alg, input, key))
}

func signature(alg, input string, key any) []byte {
	h := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[strings.TrimLeft(alg, "RSPEH")]
	if h == 0 && !strings.HasPrefix(alg, "Ed") {
		return nil
	}
	var sum []byte
	if h != 0 {
		d := h.New()
		d.Write([]byte(input))
		sum = d.Sum(nil)
	}
	switch k := key.(type) {
	case []byte:
		m := hmac.New(map[crypto.Hash]func() hash.Hash{crypto.SHA256: sha256.New, crypto.SHA384: sha512.New384, crypto.SHA512: sha512.New}[h], k)
		m.Write([]byte(input))
		return m.Sum(nil)
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			return must(rsa.SignPSS(rand.Reader, k, h, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		}
		return must(rsa.SignPKCS1v15(nil, k, h, sum))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			panic(err)
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	}
	panic(fmt.Sprintf("%T", key))
}

// jwk is the public key as a JSON object.
func jwk(key crypto.Signer, changes ...any) map[string]any {
	var m map[string]any
	b := must(json.Marshal(jose.JSONWebKey{Key: key.Public()}))
	if err := json.Unmarshal(b, &m); err != nil {
		panic(err)
	}
	return with(m, changes...)
}

func set(jwks ...map[string]any) []byte { return []byte(text(map[string]any{"keys": jwks})) }

func keysOf(jwks ...map[string]any) *ClientKeys { return must(ParseClientKeys(set(jwks...))) }

// is checks the code of a refusal.
func is(t *testing.T, err error, want Code) {
	t.Helper()
	if CodeOf(err) != want || want != "" && err == nil || want == "" && err != nil {
		t.Errorf("refused with %v, want %q", err, want)
	}
}

// codes are the constants of the package, by their text.
func codes(t testing.TB) []Code {
	f, err := parser.ParseFile(token.NewFileSet(), "proof.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []Code
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Code" {
				s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, Code(s))
			}
		}
		return true
	})
	if len(out) < 40 {
		t.Fatalf("only %d codes found", len(out))
	}
	return out
}

// Whatever is refused is refused with a code that is documented, and the error says nothing of what came.
func wellRefused(t *testing.T, known []Code, err error, input string) {
	t.Helper()
	if err == nil {
		return
	}
	if !slices.Contains(known, CodeOf(err)) {
		t.Errorf("refused with %q, which is no code of this package: %v", CodeOf(err), err)
	}
	if len(input) > 24 && strings.Contains(err.Error(), input[:24]) {
		t.Errorf("the error repeats what came: %v", err)
	}
}
