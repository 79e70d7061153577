// Command install installs the real parts that the tests, the demo and the benchmarks run: identity providers and
// clients, from package registries, pinned.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"understudy/idptest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, p := range idptest.InstallParts() {
		began := time.Now()
		if err := p.Install(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "install %s: %v\n", p.Name, err)
			os.Exit(1)
		}
		fmt.Printf("%s: installed (%.1f s)\n", p.Name, time.Since(began).Seconds())
	}
}
