package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	if _, err := Open(dir, testKEK, Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
	r.Close()
	open(t, dir, Options{})
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	ensure(t, r, fence, "RS256", "ES256")
	der, err := x509.MarshalPKCS8PrivateKey(r.of(fence)[0].private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(r.of(fence)[0].public)
	if err != nil {
		t.Fatal(err)
	}
	path := r.path(fence)
	r.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	for i := 0; i+12 <= len(der); i++ {
		if bytes.Contains(good, der[i:i+12]) {
			t.Fatal("a piece of a private key is in the file in the clear")
		}
	}

	wrong := bytes.Repeat([]byte{8}, 32)
	if _, err := Open(dir, wrong, Options{}); err == nil || !strings.Contains(err.Error(), "give the key that it was made with") {
		t.Errorf("wrong key-encryption key: %v", err)
	}
	if _, err := Open(dir, wrong[:16], Options{}); err == nil {
		t.Error("a short key-encryption key is taken")
	}
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	// Contents that the right key sealed, but that are wrong.
	sealed := func(change func(*keyFile)) []byte {
		t.Helper()
		plain, err := r.unseal(filepath.Base(path), good)
		if err != nil {
			t.Fatal(err)
		}
		var kf keyFile
		if err := json.Unmarshal(plain, &kf); err != nil {
			t.Fatal(err)
		}
		change(&kf)
		plain, err = json.Marshal(kf)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.seal(filepath.Base(path), plain)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	garbage, err := r.seal(filepath.Base(path), append([]byte(`{"Keys":[{"ID":`), der...))
	if err != nil {
		t.Fatal(err)
	}
	for rule, b := range map[string][]byte{
		"empty":                           {},
		"cut":                             good[:len(magic)+10],
		"a bit of the nonce":              flip(len(magic)),
		"a bit of the content":            flip(len(good) - 40),
		"another version":                 []byte(strings.Replace(string(good), "keys-2", "keys-3", 1)),
		"no JSON":                         garbage,
		"a cut key":                       sealed(func(k *keyFile) { k.Keys[0].PKCS8 = k.Keys[0].PKCS8[:500] }),
		"a key under a wrong id":          sealed(func(k *keyFile) { k.Keys[0].ID = k.Keys[1].ID }),
		"a wrong algorithm":               sealed(func(k *keyFile) { k.Keys[0].Alg = "ES256" }),
		"an unknown state":                sealed(func(k *keyFile) { k.Keys[0].State = "x" }),
		"retired, without a key":          sealed(func(k *keyFile) { k.Keys[0].State = Retired }),
		"another issuer":                  sealed(func(k *keyFile) { k.Issuer = other.Issuer }),
		"retired, public key is not PKIX": sealed(func(k *keyFile) { k.Keys[0].State, k.Keys[0].PKIX = Retired, k.Keys[0].PKCS8 }),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, testKEK, Options{})
		if err == nil {
			t.Errorf("%s: opened", rule)
			continue
		}
		for i := 0; i+6 <= len(der); i++ {
			if bytes.Contains([]byte(err.Error()), der[i:i+6]) && !bytes.Contains(pub, der[i:i+6]) {
				t.Fatalf("%s: the error quotes a private key", rule)
			}
			if i+12 <= len(der) && strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(der[i : i+12])[:12]) {
				t.Fatalf("%s: the error quotes a private key", rule)
			}
		}
	}

	// A file under another fence's name does not open either.
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, r.path(other)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, testKEK, Options{}); err == nil {
		t.Error("a renamed file opened")
	}
	if err := os.Rename(r.path(other), path); err != nil {
		t.Fatal(err)
	}
	// What a kill during a write left behind goes.
	left := filepath.Join(dir, "."+filepath.Base(path)+"123")
	if err := os.WriteFile(left, good, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished file stays: %v", err)
	}
}

func FuzzKeyFile(f *testing.F) {
	dir := f.TempDir()
	kek := make([]byte, 32)
	rand.Read(kek) // seeds come from another process of the fuzzer, and are not to open here
	r, err := Open(dir, kek, Options{})
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	ensure(f, r, fence, "ES256")
	name := filepath.Base(r.path(fence))
	good, err := os.ReadFile(r.path(fence))
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{good, good[:len(good)-1], {}, []byte(magic), []byte("understudy-keys-1\n"), append([]byte(magic), make([]byte, 64)...)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.unseal(name, b); err == nil && !bytes.Equal(b, good) {
			t.Fatal("opened what was not sealed")
		}
	})
}
