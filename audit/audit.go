// Package audit is the sign-in log: one JSON line for every answer and every refusal.
package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Entry is one line of the sign-in log; docs/audit.md documents it. Members are only ever added.
type Entry struct {
	Time            time.Time `json:"time"`
	ID              string    `json:"id"` // of the request
	Tenant          string    `json:"tenant"`
	Issuer          string    `json:"issuer,omitempty"`
	Flow            string    `json:"flow"`
	Client          string    `json:"client,omitempty"`
	Subject         string    `json:"subject,omitempty"`
	Session         string    `json:"session,omitempty"`
	Address         string    `json:"address,omitempty"`
	Trigger         string    `json:"trigger,omitempty"` // why the primary's answer was not used
	TokenIssuerType string    `json:"tokenIssuerType"`   // "backup" or "none"
	Decision        string    `json:"decision"`          // "issued", "refused", "revoked"
	Rule            string    `json:"rule"`              // stable code
	Key             string    `json:"keyId,omitempty"`
	Approved        time.Time `json:"approved,omitzero"` // the record's
	Latency         float64   `json:"latencyMs"`
}

// Log appends entries to a file a day and syncs them in groups.
type Log struct {
	dir string

	mu   sync.Mutex // guards what follows
	day  string
	file *os.File
	w    *bufio.Writer
	enc  *json.Encoder
}

// Open opens the log in dir.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the sign-in log's directory: %w", err)
	}
	return &Log{dir: dir}, nil
}

// Write appends an entry. It reaches the disk within the next Sync.
func (l *Log) Write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if day := e.Time.UTC().Format("2006-01-02"); day != l.day {
		if err := l.closeFile(); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(l.dir, "sign-ins-"+day+".jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("open the sign-in log: %w", err)
		}
		l.day, l.file, l.w = day, f, bufio.NewWriterSize(f, 1<<16)
		l.enc = json.NewEncoder(l.w)
		l.enc.SetEscapeHTML(false)
	}
	if err := l.enc.Encode(e); err != nil {
		return fmt.Errorf("write the sign-in log: %w", err)
	}
	return nil
}

// Sync writes what is buffered to disk.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("write the sign-in log: %w", err)
	}
	return l.file.Sync()
}

func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("write the sign-in log: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync the sign-in log: %w", err)
	}
	return l.file.Close()
}

// Close syncs and closes.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.closeFile()
	l.file, l.day = nil, ""
	return err
}
