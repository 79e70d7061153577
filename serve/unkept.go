package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// unkept is the list, on disk, of tenants of which marks could not be kept. The file has its full size from the start, so
// that it can be written on a disk that is full. Each line is a tenant's name as JSON; the rest is blanks.
type unkept struct {
	mu      sync.Mutex // guards what follows
	file    *os.File
	tenants []string
}

const unkeptSize = 64 << 10

func openUnkept(dir string) (*unkept, error) {
	f, err := os.OpenFile(filepath.Join(dir, "unkept"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the list of tenants with lost revocations: %w", err)
	}
	u := &unkept{file: f}
	b := make([]byte, unkeptSize)
	n, _ := f.ReadAt(b, 0)
	for line := range bytes.Lines(b[:n]) {
		var name string
		if json.Unmarshal(line, &name) == nil {
			u.tenants = append(u.tenants, name)
		}
	}
	if n < unkeptSize {
		if err := u.write(); err != nil {
			f.Close()
			return nil, fmt.Errorf("make the list of tenants with lost revocations: %w", err)
		}
	}
	return u, nil
}

// add puts a tenant on the list, durably.
func (u *unkept) add(tenant string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.tenants, tenant) {
		return nil
	}
	u.tenants = append(u.tenants, tenant)
	if err := u.write(); err != nil {
		u.tenants = u.tenants[:len(u.tenants)-1]
		return err
	}
	return nil
}

// take calls mend with the listed tenants and empties the list where it succeeds.
func (u *unkept) take(mend func(...string) error) error {
	u.mu.Lock()
	listed := slices.Clone(u.tenants)
	u.mu.Unlock()
	if len(listed) == 0 {
		return nil
	}
	if err := mend(listed...); err != nil { // which may add one
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tenants = slices.DeleteFunc(u.tenants, func(t string) bool { return slices.Contains(listed, t) })
	return u.write()
}

func (u *unkept) write() error {
	b := bytes.Repeat([]byte{' '}, unkeptSize)
	at := 0
	for _, t := range u.tenants {
		line, err := json.Marshal(t)
		if err != nil || at+len(line)+1 > unkeptSize-1 {
			return fmt.Errorf("the list of tenants with lost revocations is full: %d tenants", len(u.tenants))
		}
		at += copy(b[at:], append(line, '\n'))
	}
	b[unkeptSize-1] = '\n'
	if _, err := u.file.WriteAt(b, 0); err != nil {
		return err
	}
	return u.file.Sync()
}

func (u *unkept) close() error { return u.file.Close() }
