package demo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// once runs `demo --once` as a person does, and returns what it printed and its exit status.
func once(t *testing.T, args ...string) (lines []string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"demo", "--once"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t.Logf("%s%s", out, stderr.String())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), cmd.ProcessState.ExitCode()
}

// TestScenes: every scene passes, on every primary.
func TestScenes(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"own", nil},
		{"own, rotating", []string{"--rotate"}},
		{"Keycloak", []string{"--primary", "keycloak"}},
		{"oidc-provider", []string{"--primary", "oidc-provider"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			lines, status := once(t, c.args...)
			if status != 0 {
				t.Fatalf("exit status %d", status)
			}
			expectScenes(t, lines, "")
		})
	}
}

// TestBreaks: where a part is broken, exactly its scene fails.
func TestBreaks(t *testing.T) {
	for _, c := range []struct{ broken, scene string }{
		{"backup", "outage"},
		{"store", "outage"},
		{"keys", "verify"},
		{"revocation", "refused-in-outage"},
	} {
		t.Run(c.broken, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			lines, status := once(t, "--break", c.broken)
			if status == 0 {
				t.Error("exit status 0")
			}
			expectScenes(t, lines, c.scene)
		})
	}
}

// expectScenes holds the printed lines against the list of scenes; failing is the one that fails, "" for none.
func expectScenes(t *testing.T, lines []string, failing string) {
	t.Helper()
	want := []string{"primary:"}
	summary := "all "
	for _, s := range scenes() {
		if s.name == failing {
			want = append(want, "FAIL  "+s.name+" ")
			summary = `failed at scene "` + failing + `";`
			break
		}
		want = append(want, "ok    "+s.name+" ")
	}
	want = append(want, summary)
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d", len(lines), len(want))
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("line %d is %q, want %q…", i+1, lines[i], w)
		}
	}
}
