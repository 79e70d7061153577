// Package firefox installs and runs Debian's headless Firefox ESR, for the tests that look at a page as a person does.
//
// It owns the browser's process and its profile. It refuses to run a browser with anybody's own profile. The browser's rules for
// cookies are left as its makers have them.
package firefox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"understudy/demo/debian"
)

// Where Debian's packages put the programs.
const (
	path     = "/usr/bin/firefox-esr"
	certutil = "/usr/bin/certutil"
)

// Install installs Debian's packages where a program is missing; see debian.Install.
func Install(ctx context.Context) error {
	return debian.Install(ctx, []string{"firefox-esr", "libnss3-tools"}, []string{path, certutil})
}

// Options say how a browser reaches the pages.
type Options struct {
	Authority string // file of the certificate authority that it trusts beside its own
	ProxyPort int    // port on loopback of the proxy that it sends everything to
}

// preferences keep the browser to the pages it is sent to. None is about cookies, storage or privacy.
const preferences = `user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", %[1]d);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", %[1]d);
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.safebrowsing.blockedURIs.enabled", false);
user_pref("browser.safebrowsing.downloads.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.page", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("dom.push.connection.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("signon.rememberSignons", false);
`

// Start runs a browser with a fresh profile until stop is called, which removes the profile.
func Start(ctx context.Context, o Options) (s *Session, stop func(), err error) {
	dir, err := os.MkdirTemp("", "understudy-firefox-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a browser's profile: %w", err)
	}
	remove := func() {
		for range 50 { // its helpers write until they notice
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	if err := profile(ctx, dir, o); err != nil {
		remove()
		return nil, nil, err
	}
	cmd := exec.Command(path, "--headless", "--no-remote", "--profile", dir, "--remote-debugging-port", "0", "--remote-allow-origins", origin, "--width", "1200", "--height", "900", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir, "MOZ_CRASHREPORTER_DISABLE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		remove()
		return nil, nil, fmt.Errorf("start Firefox: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	end := func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		remove()
	}
	address, err := listens(ctx, dir, ended)
	if err == nil {
		s, err = dial(ctx, address)
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("start Firefox: %w\n%s", err, said.String())
	}
	return s, func() { s.conn.Close(); end() }, nil
}

// profile writes what a profile has from the start.
func profile(ctx context.Context, dir string, o Options) error {
	if err := os.WriteFile(filepath.Join(dir, "user.js"), fmt.Appendf(nil, preferences, o.ProxyPort), 0o600); err != nil {
		return fmt.Errorf("make a browser's profile: %w", err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "tests", "-t", "C,,", "-i", o.Authority}} {
		if out, err := exec.CommandContext(ctx, certutil, append(args, "-d", "sql:"+dir)...).CombinedOutput(); err != nil {
			return fmt.Errorf("certutil %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// listens waits until the browser says where it takes commands.
func listens(ctx context.Context, dir string, ended chan error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var at struct {
			Host string `json:"ws_host"`
			Port int    `json:"ws_port"`
		}
		if b, err := os.ReadFile(filepath.Join(dir, "WebDriverBiDiServer.json")); err == nil && json.Unmarshal(b, &at) == nil {
			return fmt.Sprintf("ws://%s:%d/session", at.Host, at.Port), nil
		}
		select {
		case err := <-ended:
			ended <- err
			return "", errors.Join(errors.New("it ended"), err)
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
