package serve

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
)

// heapGrowth is how much the heap grows before garbage is collected, in percent of what is in use. What is in use is small, so that
// Go's own 100 would collect several times a second for little.
const heapGrowth = 400

// controlGroup is where Linux tells the memory that the process may use, in bytes, or "max".
const controlGroup = "/sys/fs/cgroup/memory.max"

// collect sets when garbage is collected: rarely, and as often as needed to stay below nine tenths of limit, the bytes that the process
// may use (0: not known). GOGC and GOMEMLIMIT of the environment go before.
func collect(getenv func(string) string, limit int64) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	if getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}

// memoryLimit reads a limit as the control group tells it; 0 where there is none.
func memoryLimit(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0 // not Linux, or another version of control groups
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return n
}
