//go:build !linux

package keys

import "errors"

// HardenProcess keeps private keys out of core dumps; only Linux has what it needs.
func HardenProcess() error {
	return errors.New("core dumps can be switched off for good only on Linux")
}
