package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/serve"
)

func TestMetrics(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	n.signIn("alice")
	resp, err := n.api("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, want := range []string{
		`understudy_learned_total{flow=`, `understudy_mode{endpoint="token",mode="normal",tenant="staff"} 1`, `understudy_learn_queue 0`,
		fmt.Sprintf(`understudy_keys_mergeable{issuer=%q,tenant="staff"} 1`, n.url()), `understudy_key_published_time_seconds{alg="RS256"`,
		`understudy_problems 0`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in the metrics", want)
		}
	}
	for _, never := range []string{"alice", "label0", "label1"} {
		if strings.Contains(string(b), never) {
			t.Errorf("%q is in the metrics", never)
		}
	}
}

func TestKeys(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	n.signIn("alice")
	published := func() string {
		resp, err := http.Get(n.url() + "/jwks")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	var k struct {
		Keys []struct {
			ID    string `json:"kid"`
			State string `json:"state"`
		}
	}
	if err := json.Unmarshal([]byte(n.run("keys", "--json").want(t, 0).out), &k); err != nil {
		t.Fatal(err)
	}
	kid := ""
	for _, x := range k.Keys {
		if x.State == "current" {
			kid = x.ID
		}
		n.until("published "+x.ID, func() bool { return strings.Contains(published(), x.ID) })
	}
	n.run("keys", "list").want(t, 0, kid, "RSA signatures by")
	n.run("keys", "rotate").want(t, 0, kid)
	n.run("keys", "remove", "bk-nothing").want(t, 1, "there is no key")
	n.run("keys", "remove", kid).want(t, 0, "is removed")
	n.until("withdrew the key", func() bool { return !strings.Contains(published(), kid) })
	if out := n.run("keys").out; strings.Contains(out, kid) || !strings.Contains(out, "current") {
		t.Errorf("after the removal:\n%s", out)
	}
	n.run("keys", "accept", "--tenant", "staff").want(t, 0, "no key was held")
	n.run("keys", "accept", "--issuer", "http://nobody").want(t, 1, "no such issuer")
}

func TestLogFollows(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	n.start()
	n.run("revoke", "--all").want(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lines := make(chan string, 10)
	follow := commandContext(ctx, "log", "--follow", "--json", "-n", "1", "--config", n.file())
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	if l := <-lines; !strings.Contains(l, `"decision":"revoked"`) {
		t.Errorf("the line that was there: %s", l)
	}
	n.run("revoke", "--subject", "follow-me", "--issuer", "http://x").want(t, 0)
	if l := <-lines; !strings.Contains(l, `"subject":"follow-me"`) {
		t.Errorf("the line that came: %s", l)
	}
	n.kill()
	follow.Wait()
	// The files are read directly where no process runs.
	n.run("log", "-n", "0").want(t, 0, `sub="follow-me"`)
	n.run("log", "--since", "tomorrow").want(t, 2, "is no time")
}

// Every word and every command that the help of understudy log gives as an example finds lines: what it names is what
// the log has.
func TestTheExamplesOfTheLogFindSomething(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	token := n.signIn("alice")
	idp.Kill()
	n.until("gave the primary up", func() bool { return n.status().Tenants[0].Endpoints["token"].Mode == "outage" })
	n.wantRefresh("in the outage", token, http.StatusOK, "")
	n.wantRefresh("a token that nobody knows", "unknown", http.StatusServiceUnavailable, "temporarily_unavailable")
	n.run("revoke", "--subject", "alice").want(t, 0)

	words := regexp.MustCompile(`^ +--(\w+)=\w+ +Only this .*(?:for example|:) (.*)\.`)
	help := command(t, "", nil, "log", "--help").want(t, 0).out
	var tried [][]string
	for line := range strings.Lines(help) {
		if example, ok := strings.CutPrefix(strings.TrimSpace(line), "understudy "); ok {
			args := strings.Fields(strings.Split(example, "|")[0])
			for i, a := range args {
				switch {
				case strings.HasSuffix(a, "..."): // some user
					args[i] = "alice"
				case a == "--follow": // it does not end
					args[i] = "--json"
				}
			}
			tried = append(tried, args)
		}
		if m := words.FindStringSubmatch(line); m != nil {
			for _, word := range regexp.MustCompile(`, | or `).Split(m[2], -1) {
				tried = append(tried, []string{"log", "--" + m[1], word})
			}
		}
	}
	for _, word := range []string{"refresh_token", "issued", "refused", "revoked", "no_record", "--since"} {
		if !slices.ContainsFunc(tried, func(args []string) bool { return slices.Contains(args, word) }) {
			t.Errorf("the help has no example with %q; found were %q", word, tried)
		}
	}
	for _, args := range tried {
		if out := n.run(args...).want(t, 0).out; out == "" {
			t.Errorf("understudy %s finds nothing", strings.Join(args, " "))
		}
	}

	// And the flow that docs/audit.md names is one.
	b, err := os.ReadFile(filepath.Join(idptest.Root(), "docs", "audit.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("(?m)^\\| `flow` \\|[^`]*`([^`]+)`").FindStringSubmatch(string(b))
	if named == nil {
		t.Fatal("docs/audit.md names no flow")
	}
	var flows []string
	for _, f := range serve.Flows() {
		flows = append(flows, f.Name())
	}
	if !slices.Contains(flows, named[1]) {
		t.Errorf("docs/audit.md names the flow %q; there are %q", named[1], flows)
	}
}
