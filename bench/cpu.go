package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cpuOf is the CPU time that the processes have used, all threads, user and system. The kernel counts it to the
// nanosecond and tells it in ticks of 10 ms.
func cpuOf(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of a server: %w", err)
		}
		// The command's name, in parentheses, may hold anything.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} { // utime and stime are fields 14 and 15 of the line
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the CPU time of a server: %w", err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum, nil
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// quiet waits until the process has next to nothing left to do (learning goes on behind the replies), at most d.
func quiet(pid int, d time.Duration) error {
	end := time.Now().Add(d)
	was, err := cpuOf(pid)
	for calm := 0; err == nil && calm < 4 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		var now time.Duration
		if now, err = cpuOf(pid); now-was <= 10*time.Millisecond {
			calm++
		} else {
			calm = 0
		}
		was = now
	}
	return err
}

func micros(d time.Duration, n int) float64 { return float64(d) / float64(n) / 1000 }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// quantile of durations, in the order in which they came; q is in [0, 1].
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	ds = slices.Sorted(slices.Values(ds))
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
