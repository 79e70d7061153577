package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/audit"
	"understudy/idptest"
)

// signInLog reads the whole lines of an understudy's sign-in log.
func signInLog(t *testing.T, u *idptest.Understudy) []audit.Entry {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(u.DataDir(), "audit", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var out []audit.Entry
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if !bytes.HasSuffix(line, []byte("\n")) {
				continue // being written
			}
			var e audit.Entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("a line of the sign-in log: %v: %s", err, line)
			}
			out = append(out, e)
		}
	}
	return out
}

// issuedBy is how many answers of the backup to a rider's client the sign-in log has.
func issuedBy(t *testing.T, u *idptest.Understudy, r *rider) int {
	n := 0
	for _, e := range signInLog(t, u) {
		if e.Decision == "issued" && e.Client == r.lib.clientID(r.s) && e.Issuer == r.s.issuer(u) {
			n++
		}
	}
	return n
}

// awaitIssued waits until the log has n answers or more: it is written in groups.
func awaitIssued(t *testing.T, u *idptest.Understudy, r *rider, n int) int {
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if have := issuedBy(t, u, r); have >= n || time.Now().After(end) {
			return have
		}
	}
}
