// Command understudy is a backup authentication system: it stands in front of an identity provider, learns what it
// approves, and answers in its place while it cannot.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"understudy/demo"
)

type cli struct {
	Demo     demo.Command   `cmd:"" help:"Watch sign-ins survive their identity provider, on this machine."`
	DemoPart demo.Part      `cmd:"" hidden:""`
	Serve    serveCommand   `cmd:"" help:"Run the gateway and the backup."`
	Check    checkCommand   `cmd:"" help:"Validate the configuration and ask the primary what matters."`
	Status   statusCommand  `cmd:"" help:"Show what a running understudy does."`
	Revoke   revokeCommand  `cmd:"" help:"End sign-ins, at once and durably."`
	Lift     liftCommand    `cmd:"" help:"Lift the refusals of a primary that was sick."`
	Resume   resumeCommand  `cmd:"" help:"Let traffic go back to the primary where the way back was halted."`
	Log      logCommand     `cmd:"" help:"Read the sign-in log."`
	Keys     keysCommand    `cmd:"" help:"Show and change the backup's signing keys."`
	Config   configCommand  `cmd:"" help:"Show the configuration."`
	Version  versionCommand `cmd:"" help:"Show the version."`
}

// Exit statuses.
const (
	exitOK      = 0
	exitProblem = 1 // it did not work, or there is something to mend
	exitUsage   = 2 // the command line is wrong
)

// errProblem ends with exitProblem where everything has been said already.
var errProblem = errors.New("")

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// streams are the process's, for the commands.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func run(args []string, in io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	exited, code := false, exitOK
	parser, err := kong.New(&c, kong.Name("understudy"), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&streams{in, stdout, stderr}),
		kong.Writers(stdout, stderr), kong.Exit(func(n int) { exited, code = true, n }),
		kong.Description("A backup for your identity provider: sign-ins go on when it cannot.\n\nExit status: 0 it worked, 1 there is something to mend, 2 the command line is wrong."))
	if err != nil {
		panic(err) // the struct above is wrong
	}
	if len(args) > 0 && args[0] == "help" { // help serve: serve --help
		args = append(slices.Clone(args[1:]), "--help")
	}
	k, err := parser.Parse(args)
	if exited {
		return code // --help
	}
	if err != nil {
		fmt.Fprintf(stderr, "understudy: %s\nTry understudy --help.\n", err)
		return exitUsage
	}
	err = k.Run()
	var u usage
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u):
		fmt.Fprintf(stderr, "understudy: %s\nTry understudy %s --help.\n", err, k.Command())
		return exitUsage
	case !errors.Is(err, errProblem):
		fmt.Fprintln(stderr, "understudy:", err)
	}
	return exitProblem
}

// usage is an error of the command line that parsing cannot see.
type usage string

func (u usage) Error() string { return string(u) }
