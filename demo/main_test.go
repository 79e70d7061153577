package demo

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
)

var screenshot = flag.String("screenshot", "", "write a picture of the page, in the outage, to this file (and to FILE-dark.png, in dark colours)")

// TestMain lets the test's own program be the demo, so that its children run with the race detector too.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "demo") {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c struct {
		Demo     Command `cmd:""`
		DemoPart Part    `cmd:"" hidden:""`
	}
	k := kong.Parse(&c, kong.BindTo(ctx, (*context.Context)(nil)))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "understudy:", err)
		os.Exit(1)
	}
}
