package keys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// HardenProcess keeps the process's memory, which holds private keys, out of core dumps and away from other processes
// of the same user: RLIMIT_CORE 0, which cannot be raised again, and PR_SET_DUMPABLE 0 (so no ptrace and no
// /proc/PID/mem). Both are read back. It is called once, before any key is loaded.
func HardenProcess() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switch core dumps off (RLIMIT_CORE): %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switch core dumps off (PR_SET_DUMPABLE): %w", err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		return fmt.Errorf("read RLIMIT_CORE back: %w", err)
	}
	if l.Cur != 0 || l.Max != 0 {
		return errors.New("core dumps are not off: RLIMIT_CORE was set to 0 but reads otherwise")
	}
	d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("read PR_GET_DUMPABLE back: %w", err)
	}
	if d != 0 {
		return errors.New("core dumps are not off: the process is still dumpable")
	}
	return nil
}
