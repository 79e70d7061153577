package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"understudy/idptest"
)

// state is what the bench reads of `understudy status --json`. It is asked for outside of measurements only: answering
// costs CPU.
type state struct {
	Waiting int `json:"learnQueue"`
	Keys    struct {
		Signer string `json:"signer"`
	} `json:"keys"`
	Tenants []struct {
		Learned    map[string]uint64 `json:"learned"`
		NotLearned []struct {
			Reason string `json:"reason"`
			N      uint64 `json:"n"`
		} `json:"notLearned"`
		Shadow []struct {
			N uint64 `json:"n"`
		} `json:"shadow"`
		Endpoints map[string]struct {
			Mode string `json:"mode"`
		} `json:"endpoints"`
	} `json:"tenants"`
}

func (l *lab) status(ctx context.Context, u *idptest.Understudy) (*state, error) {
	cmd := exec.CommandContext(ctx, l.bin, "status", "--json", "--data-dir", filepath.Join(u.Dir, "data"))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	b, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && len(b) > 0) { // 1: there is a problem to mend, and the state is there
		return nil, fmt.Errorf("ask understudy for its state: %w: %s", err, complaint.String())
	}
	s := new(state)
	if err := decode(b, s); err != nil {
		return nil, fmt.Errorf("read the state of understudy: %w", err)
	}
	if len(s.Tenants) != 1 {
		return nil, fmt.Errorf("understudy has %d tenants, not one", len(s.Tenants))
	}
	return s, nil
}

// learnedAll waits until nothing waits to be learned, and wants everything learned.
func (l *lab) learnedAll(ctx context.Context, u *idptest.Understudy) (n uint64, err error) {
	var s *state
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if s, err = l.status(ctx, u); err != nil {
			return 0, err
		}
		if s.Waiting == 0 {
			break
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%d exchanges still wait to be learned", s.Waiting)
		}
	}
	var why []string
	for _, x := range s.Tenants[0].NotLearned {
		why = append(why, fmt.Sprintf("%s %d times", x.Reason, x.N))
	}
	for _, k := range s.Tenants[0].Learned {
		n += k
	}
	if len(why) > 0 {
		return n, fmt.Errorf("not all is learned: %s", strings.Join(why, ", "))
	}
	return n, nil
}
