package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// syncedTo remembers how far the newest log was synced, in a file beside it:
//
//	log number(8) offset(8) CRC-32C(4)
//
// Pebble takes damage near the end of its newest log for a write that was cut off, and drops what follows: with one
// flipped bit an acknowledged revocation would be gone without a word. What is behind the remembered offset may be torn;
// what is before it must be readable. The file is never synced, so it only ever says too little: a killed process leaves
// it exact, a power loss may leave it older.
type syncedTo struct {
	mu   sync.Mutex // guards what follows
	file vfs.File   // nil: it could not be opened, and nothing is remembered
	log  uint64
	at   int64
}

const syncedName = "log-synced"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// open opens the file for writing. Without it the store works, and only notices less.
func (s *syncedTo) open(fs vfs.FS, dir string) {
	s.file, _ = fs.OpenReadWrite(filepath.Join(dir, syncedName), vfs.WriteCategoryUnspecified)
}

// note remembers that a log was synced up to an offset.
func (s *syncedTo) note(log uint64, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || log < s.log || log == s.log && at <= s.at {
		return
	}
	s.log, s.at = log, at
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20), log)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, _ = s.file.WriteAt(b, 0)
}

func (s *syncedTo) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// logNumber is the number in a log's name, NNNNNN.log.
func logNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(filepath.Base(name), ".log")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil
}

// checkManifest complains where tables are there and nothing says which of them count: Pebble would begin anew.
func checkManifest(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	marked, tables := false, false
	for _, n := range names {
		marked = marked || strings.HasPrefix(n, "marker.manifest.")
		tables = tables || strings.HasSuffix(n, ".sst")
	}
	if tables && !marked {
		return fmt.Errorf("%w: marker.manifest is gone", ErrDamaged)
	}
	return nil
}

// checkSynced complains where what was synced cannot be read any more.
func checkSynced(fs vfs.FS, dir string) error {
	f, err := fs.Open(filepath.Join(dir, syncedName))
	if err != nil {
		return nil // a new directory
	}
	defer f.Close()
	var b [20]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return nil // a power loss may tear it
	}
	number, at := wal.NumWAL(binary.BigEndian.Uint64(b[:])), int64(binary.BigEndian.Uint64(b[8:]))
	logs, err := wal.Scan(wal.Dir{FS: fs, Dirname: dir})
	if err != nil {
		return err
	}
	newest := wal.NumWAL(0)
	for _, l := range logs {
		newest = max(newest, l.Num)
		if l.Num != number {
			continue
		}
		end, err := readable(l)
		if err != nil {
			return err
		}
		// Up to two chunk headers of 19 bytes pad a block and close a log; no record is as short.
		if end+2*19 < at {
			return fmt.Errorf("%w: log %06d was synced up to byte %d and is readable up to byte %d", ErrDamaged, number, at, end)
		}
	}
	if newest < number {
		return fmt.Errorf("%w: log %06d is gone", ErrDamaged, number)
	}
	return nil
}

// readable returns where the readable records of a log end.
func readable(l wal.LogicalLog) (int64, error) {
	r := l.OpenForRead()
	defer r.Close()
	for {
		content, at, err := r.NextRecord()
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, record.ErrUnexpectedEOF), errors.Is(err, record.ErrInvalidChunk), errors.Is(err, record.ErrZeroedChunk):
			return at.Physical, nil
		default:
			return 0, fmt.Errorf("read log %06d: %w", l.Num, err)
		}
	}
}
