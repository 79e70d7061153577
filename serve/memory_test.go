package serve

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

// What the operator sets holds, and so does what the control group allows.
func TestGarbageIsCollectedRarelyButWithinTheLimit(t *testing.T) {
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(math.MaxInt64) })
	for _, c := range []struct {
		name        string
		environment map[string]string
		group       string
		percent     int
		limit       int64
	}{
		{"nothing set", nil, "max\n", heapGrowth, math.MaxInt64},
		{"no control group", nil, "", heapGrowth, math.MaxInt64},
		{"a limit", nil, "1073741820\n", heapGrowth, 966367638},
		{"GOGC", map[string]string{"GOGC": "50"}, "1073741820\n", 100, 966367638},
		{"GOMEMLIMIT", map[string]string{"GOMEMLIMIT": "1GiB"}, "1073741820\n", heapGrowth, math.MaxInt64},
	} {
		t.Run(c.name, func(t *testing.T) {
			debug.SetGCPercent(100)
			debug.SetMemoryLimit(math.MaxInt64)
			file := filepath.Join(t.TempDir(), "memory.max")
			if c.group != "" {
				if err := os.WriteFile(file, []byte(c.group), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			collect(func(k string) string { return c.environment[k] }, memoryLimit(file))
			if got := debug.SetGCPercent(100); got != c.percent {
				t.Errorf("the heap grows by %d %%, want %d", got, c.percent)
			}
			if got := debug.SetMemoryLimit(-1); got != c.limit {
				t.Errorf("limit of %d bytes, want %d", got, c.limit)
			}
		})
	}
}
