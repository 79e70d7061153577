package serve

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"understudy/session"
)

// SealingKey reads the deployment's sealing key, or makes it beside the data directory, where a copy of that does not
// have it.
func SealingKey(dataDir string) ([]byte, error) {
	return sealingKey("", dataDir)
}

// sealingKey reads the sealing key from a file ("": beside the data directory). Where there is none yet and nothing is
// sealed either, it makes one; a new key over an old store would open nothing and revoke nothing.
func sealingKey(file, dataDir string) ([]byte, error) {
	if file == "" {
		file = filepath.Clean(dataDir) + ".key"
	}
	b, err := secretBytes(file)
	if !errors.Is(err, os.ErrNotExist) {
		return b, err
	}
	if entries, err := os.ReadDir(filepath.Join(dataDir, "store")); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("the sealing key %s is missing, and %s was sealed with it: put the file back, or move the data directory away to begin anew", file, dataDir)
	}
	b = make([]byte, 32)
	rand.Read(b)
	if err := writeNew(file, b); err != nil {
		return nil, fmt.Errorf("make the sealing key: %w", err)
	}
	return b, nil
}

// writeNew writes a file that must not exist, all of it or nothing, durably.
func writeNew(file string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const maxSecretFile = 64 << 10

// secretBytes reads a file of 32 or more random bytes that nobody but its owner may write.
func secretBytes(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key file %s can be read or written by others (mode %04o): chmod 600 %s", file, st.Mode().Perm(), file)
	}
	if st.Size() > maxSecretFile || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no key file: name a file of 32 random bytes", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(b) < 32 {
		return nil, fmt.Errorf("the key file %s has %d bytes and needs 32 or more: head -c 32 /dev/urandom > %s", file, len(b), file)
	}
	return b, nil
}

// keyEncryptionKey is the key that the signing keys' files are encrypted with.
func keyEncryptionKey(file string, sealing []byte) ([]byte, error) {
	secret, info := sealing, "understudy 1 key encryption"
	if file != "" {
		b, err := secretBytes(file)
		if err != nil {
			return nil, fmt.Errorf("the key-encryption key: %w", err)
		}
		secret, info = b, "understudy 1 key encryption file"
	}
	return hkdf.Key(sha256.New, secret, nil, info, 32)
}

// sameKey refuses another sealing key than the one that the data directory was sealed with: under it no revocation that
// is kept there would be found, and none would hold. The first key is noted, as a seal that only it opens.
func sameKey(dataDir string, s *session.Sealer) error {
	file := filepath.Join(dataDir, "key-check")
	place := []byte("key check")
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := renameio.WriteFile(file, s.Seal(place, nil), 0o600); err != nil {
			return fmt.Errorf("note which sealing key this is: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("look which sealing key this was: %w", err)
	}
	if _, err := s.Unseal(place, b); err != nil {
		return fmt.Errorf("%s was sealed with another sealing key: no record would open, and no revocation would hold", dataDir)
	}
	return nil
}
