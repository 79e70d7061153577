// Package chromium installs and runs Debian's headless Chromium, for the tests that look at a page as a person does.
//
// It owns the browser's process and its profile. It refuses to run a browser with anybody's own profile.
package chromium

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"

	"understudy/demo/debian"
)

// Path is where Debian's package puts the program.
const Path = "/usr/bin/chromium"

// Install installs Debian's package where the program is missing; see debian.Install.
func Install(ctx context.Context) error {
	return debian.Install(ctx, []string{"chromium"}, []string{Path})
}

// Start runs a browser with a fresh profile and returns a context for chromedp's actions; stop ends the browser and
// removes the profile.
func Start(ctx context.Context) (tab context.Context, stop func(), err error) {
	return StartWith(ctx, Options{})
}

// Options are what a browser has beside what each has.
type Options struct {
	Flags []chromedp.ExecAllocatorOption
	// Preferences are those of the profile, as JSON; "": Debian's.
	Preferences string
}

// StartWith is Start with options.
func StartWith(ctx context.Context, o Options) (tab context.Context, stop func(), err error) {
	dir, err := os.MkdirTemp("", "understudy-chromium-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a browser's profile: %w", err)
	}
	if o.Preferences != "" {
		err := os.Mkdir(filepath.Join(dir, "Default"), 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "Default", "Preferences"), []byte(o.Preferences), 0o600)
		}
		if err != nil {
			os.RemoveAll(dir)
			return nil, nil, fmt.Errorf("make a browser's profile: %w", err)
		}
	}
	alloc, end := chromedp.NewExecAllocator(ctx, append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(Path), chromedp.UserDataDir(dir), chromedp.WindowSize(1200, 900),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
	}, o.Flags...)...)
	tab, cancel := chromedp.NewContext(alloc)
	return tab, func() {
		cancel()
		end()
		for range 50 { // its helpers write until they notice
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}, nil
}
