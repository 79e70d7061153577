package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/admin"
	"understudy/audit"
	"understudy/config"
	"understudy/serve"
)

// target is the running process that a command speaks to.
type target struct {
	source
	JSON bool `name:"json" help:"Print JSON."`
}

// dataDir is the directory of the process. A file that is wrong elsewhere does not keep an operator from revoking.
func (t *target) dataDir() (string, error) {
	if t.DataDir != "" {
		return t.DataDir, nil
	}
	c := &config.Config{}
	s := &config.Source{}
	if t.Config != "" {
		b, err := os.ReadFile(t.Config)
		if err != nil {
			return "", fmt.Errorf("read the configuration: %w; or give --data-dir", err)
		}
		if c, s, err = config.Parse(t.Config, b); err != nil {
			return "", fmt.Errorf("%w\n(give --data-dir to do without the file)", err)
		}
	}
	if _, err := c.Environment(os.Environ(), s); err != nil {
		return "", err
	}
	c.Defaults()
	return c.DataDir, nil
}

func (t *target) client() (*admin.Client, error) {
	dir, err := t.dataDir()
	if err != nil {
		return nil, err
	}
	return &admin.Client{Socket: filepath.Join(dir, "admin.sock")}, nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type statusCommand struct {
	target
	Coverage bool `help:"Show by application and resource what could be served now, and why the rest could not."`
}

func (statusCommand) Help() string {
	return `Examples:

  understudy status --config /etc/understudy.yaml

  understudy status --data-dir /var/lib/understudy --json | jq '.tenants[].endpoints'

  understudy status --coverage

  understudy status --json | jq '.tenants[].coverage.applications[] | select(.share < 1)'

The exit status is 1 where there is a problem to mend.`
}

func (c *statusCommand) Run(ctx context.Context, std *streams) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var st admin.Status
	if err := cl.Get(ctx, "/v1/status", &st); err != nil {
		return err
	}
	switch {
	case c.JSON:
		if err := printJSON(std.out, &st); err != nil {
			return err
		}
	case c.Coverage:
		st.CoverageText(std.out)
	default:
		st.Text(std.out)
	}
	if len(st.Problems) > 0 {
		return errProblem
	}
	return nil
}

type revokeCommand struct {
	target
	Subject string `help:"User, as the tokens' sub." xor:"whose" placeholder:"SUB"`
	Session string `help:"Session, as the tokens' sid." xor:"whose" placeholder:"SID"`
	Client  string `help:"Application, as its client_id." xor:"whose" placeholder:"ID"`
	Device  bool   `help:"The refresh token that is read from standard input, and all of its family." xor:"whose"`
	All     bool   `help:"Everything that was remembered until now." xor:"whose"`
	Tenant  string `help:"Only at this tenant." placeholder:"NAME"`
	Issuer  string `help:"Only at this issuer." placeholder:"URL"`
}

func (revokeCommand) Help() string {
	return `It returns when the revocation is durable; from then on no backup answers for what it ends, and the gateway refuses it where the primary could not have heard of it. Revoke at the primary too.

Examples:

  understudy revoke --subject 7f3c9b52-... --tenant staff

  understudy revoke --session 1d2e... --issuer https://login.example.com/realms/main

  understudy revoke --client reporting

  understudy revoke --device < refresh-token.txt

  understudy revoke --all --tenant staff

A refresh token is read from standard input only: an argument would be seen by others on this machine.`
}

func (c *revokeCommand) Run(ctx context.Context, std *streams) error {
	req := &admin.Revoke{Tenant: c.Tenant, Issuer: c.Issuer, Subject: c.Subject, Session: c.Session, Client: c.Client, All: c.All}
	if c.Subject == "" && c.Session == "" && c.Client == "" && !c.Device && !c.All {
		return usage("say whose sign-ins end: --subject, --session, --client, --device or --all")
	}
	if c.All && c.Issuer != "" {
		return usage("--all is everything of a tenant; leave --issuer out")
	}
	if c.Device {
		b, err := io.ReadAll(io.LimitReader(std.in, 32<<10))
		if err != nil {
			return fmt.Errorf("read the refresh token: %w", err)
		}
		if req.Device = strings.TrimSpace(string(b)); req.Device == "" {
			return usage("there is no refresh token on standard input")
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out admin.Revoked
	if err := cl.Post(ctx, "/v1/revoke", req, &out); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, &out)
	}
	fmt.Fprintf(std.out, "revoked: what began until %s is over (%d marks, durable; tenants %s)\n", out.At.Format(time.RFC3339), out.Marks, strings.Join(out.Tenants, ", "))
	return nil
}

type liftCommand struct {
	target
	Tenant string `help:"Tenant whose primary was sick." required:"" placeholder:"NAME"`
	From   string `help:"Since when it was sick: 2006-01-02T15:04:05Z, or how long ago (90m)." required:"" placeholder:"TIME"`
	To     string `help:"Until when; now where not given." placeholder:"TIME"`
	Cause  string `help:"Only marks of this cause, for example refused." placeholder:"CAUSE"`
	DryRun bool   `help:"Only count."`
}

func (liftCommand) Help() string {
	return `A primary that refuses good sessions while it is sick leaves inferred marks: the backup then refuses them too. This lifts those of a stretch of time, as one batch. What was ended for good (logout, revocation, an operator) is not lifted.

Examples:

  understudy lift --tenant staff --from 90m --dry-run

  understudy lift --tenant staff --from 2026-11-22T08:00:00Z --to 2026-11-22T08:30:00Z`
}

func (c *liftCommand) Run(ctx context.Context, std *streams) error {
	req := &admin.Lift{Tenant: c.Tenant, Cause: c.Cause, To: time.Now(), Try: c.DryRun}
	var err error
	if req.From, err = moment(c.From); err != nil {
		return usage("--from: " + err.Error())
	}
	if c.To != "" {
		if req.To, err = moment(c.To); err != nil {
			return usage("--to: " + err.Error())
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out admin.Lifted
	if err := cl.Post(ctx, "/v1/lift", req, &out); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, &out)
	}
	what := "lifted"
	if !out.Lifted {
		what = "would be lifted"
	}
	fmt.Fprintf(std.out, "%d marks %s\n", out.Marks, what)
	return nil
}

// moment reads a time, or how long ago it was.
func moment(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d.Abs()), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%.40q is no time: write 2006-01-02T15:04:05Z, or how long ago, as 90m", s)
}

type resumeCommand struct {
	target
	Tenant string `help:"Only this tenant." placeholder:"NAME"`
}

func (resumeCommand) Help() string {
	return `Examples:

  understudy resume --tenant staff`
}

func (c *resumeCommand) Run(ctx context.Context, std *streams) error {
	return c.act(ctx, std, "/v1/resume", &admin.Resume{Tenant: c.Tenant})
}

// act posts a request whose answer is one sentence.
func (t *target) act(ctx context.Context, std *streams, path string, req any) error {
	cl, err := t.client()
	if err != nil {
		return err
	}
	var out admin.Done
	if err := cl.Post(ctx, path, req, &out); err != nil {
		return err
	}
	if t.JSON {
		return printJSON(std.out, &out)
	}
	fmt.Fprintln(std.out, out.Text)
	return nil
}

type logCommand struct {
	target
	Tenant   string `help:"Only this tenant." placeholder:"NAME"`
	Issuer   string `help:"Only this issuer." placeholder:"URL"`
	Flow     string `help:"Only this flow, for example refresh_token." placeholder:"FLOW"`
	Client   string `help:"Only this client_id." placeholder:"ID"`
	Subject  string `help:"Only this sub." placeholder:"SUB"`
	Session  string `help:"Only this sid." placeholder:"SID"`
	Decision string `help:"Only this decision: issued, refused or revoked." placeholder:"WORD"`
	Rule     string `help:"Only this rule or code of refusal." placeholder:"CODE"`
	Address  string `help:"Only this client address." placeholder:"IP"`
	Key      string `help:"Only what this key signed." placeholder:"KID"`
	Since    string `help:"From this time, or how long ago (2h)." placeholder:"TIME"`
	Until    string `help:"Until this time." placeholder:"TIME"`
	Last     int    `short:"n" help:"Only the last so many lines; 0: all." default:"100"`
	Follow   bool   `short:"f" help:"Go on with what comes."`
}

func (logCommand) Help() string {
	return `Examples:

  understudy log --follow

  understudy log --subject 7f3c9b52-... --since 24h -n 0

  understudy log --decision refused --rule no_record --json | jq -r .client | sort | uniq -c

docs/audit.md describes the lines. Where no process is running the files are read directly.`
}

func (c *logCommand) Run(ctx context.Context, std *streams) error {
	f := &admin.LogFilter{
		Tenant: c.Tenant, Issuer: c.Issuer, Flow: c.Flow, Client: c.Client, Subject: c.Subject, Session: c.Session, Decision: c.Decision,
		Rule: c.Rule, Address: c.Address, Key: c.Key, Last: c.Last, Follow: c.Follow,
	}
	if c.Last < 0 {
		return usage("-n must be 0 or more")
	}
	var err error
	if c.Since != "" {
		if f.From, err = moment(c.Since); err != nil {
			return usage("--since: " + err.Error())
		}
	}
	if c.Until != "" {
		if f.To, err = moment(c.Until); err != nil {
			return usage("--until: " + err.Error())
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	w := bufio.NewWriter(std.out)
	defer w.Flush()
	out := func(line []byte) error {
		if err := c.line(w, line); err != nil {
			return err
		}
		if c.Follow {
			return w.Flush()
		}
		return nil
	}
	err = cl.Log(ctx, f, out)
	if isNotRunning(err) && !c.Follow {
		dir, derr := c.auditDir()
		if derr != nil {
			return err
		}
		if _, serr := os.Stat(dir); serr != nil {
			return err
		}
		return admin.ReadLog(ctx, dir, f, out)
	}
	return err
}

func (t *target) auditDir() (string, error) {
	dir, err := t.dataDir()
	if err != nil {
		return "", err
	}
	if c, _, _, err := t.load(config.Flags{}); err == nil {
		return c.Audit.Dir, nil
	}
	return filepath.Join(dir, "audit"), nil
}

// line prints one line of the log, as it is or for a person.
func (c *logCommand) line(w io.Writer, line []byte) error {
	if c.JSON {
		_, err := fmt.Fprintf(w, "%s\n", line)
		return err
	}
	var e audit.Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read the sign-in log: %w", err)
	}
	text := fmt.Sprintf("%s %-8s %-22s %s %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Decision, e.Rule, e.Tenant, e.Flow)
	for _, p := range [][2]string{{"client", e.Client}, {"sub", e.Subject}, {"sid", e.Session}, {"from", e.Address}, {"because", e.Trigger}, {"key", e.Key}} {
		if p[1] != "" {
			text += fmt.Sprintf(" %s=%q", p[0], p[1]) // quoted: a client chooses some of them
		}
	}
	_, err := fmt.Fprintf(w, "%s %.1fms\n", text, e.Latency)
	return err
}

type keysCommand struct {
	List   keysListCommand   `cmd:"" default:"withargs" help:"Show the keys."`
	Rotate keysRotateCommand `cmd:"" help:"Turn now what is due, and make what is missing."`
	Remove keysRemoveCommand `cmd:"" help:"End a key at once."`
	Accept keysAcceptCommand `cmd:"" help:"Accept the primary's key set as it is: give up the keys that it no longer publishes."`
}

type keysListCommand struct{ target }

func (keysListCommand) Help() string {
	return `Examples:

  understudy keys --config /etc/understudy.yaml

  understudy keys list --json | jq -r '.keys[] | select(.state == "current") | .kid'`
}

func (c *keysListCommand) Run(ctx context.Context, std *streams) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var k admin.Keys
	if err := cl.Get(ctx, "/v1/keys", &k); err != nil {
		return err
	}
	return c.print(std, &k)
}

func (t *target) print(std *streams, k *admin.Keys) error {
	if t.JSON {
		return printJSON(std.out, k)
	}
	k.Text(std.out, time.Now())
	return nil
}

type keysRotateCommand struct{ target }

func (keysRotateCommand) Help() string {
	return `Rotation is automatic; a key is published for at least a day before it signs. To get rid of a key now, use understudy keys remove.

Examples:

  understudy keys rotate`
}

func (c *keysRotateCommand) Run(ctx context.Context, std *streams) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var k admin.Keys
	if err := cl.Post(ctx, "/v1/keys/rotate", nil, &k); err != nil {
		return err
	}
	return c.print(std, &k)
}

type keysRemoveCommand struct {
	target
	KID string `arg:"" name:"kid" help:"Key id, as understudy keys shows it."`
}

func (keysRemoveCommand) Help() string {
	return `For a key that may be known to others. It leaves the published set at once and nothing is signed with it; its successor signs at once.

Examples:

  understudy keys remove bk-3mXk...`
}

func (c *keysRemoveCommand) Run(ctx context.Context, std *streams) error {
	return c.act(ctx, std, "/v1/keys/remove", &admin.RemoveKey{ID: c.KID})
}

type keysAcceptCommand struct {
	target
	Tenant string `help:"Only this tenant." placeholder:"NAME"`
	Issuer string `help:"Only this issuer." placeholder:"URL"`
}

func (keysAcceptCommand) Help() string {
	return `A key that vanished from the primary's set is held for some minutes while the primary still signs with it. This ends it.

Examples:

  understudy keys accept --tenant staff`
}

func (c *keysAcceptCommand) Run(ctx context.Context, std *streams) error {
	return c.act(ctx, std, "/v1/keys/accept", &admin.AcceptKeys{Tenant: c.Tenant, Issuer: c.Issuer})
}

type versionCommand struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *versionCommand) Run(std *streams) error {
	if c.JSON {
		return printJSON(std.out, map[string]string{"version": serve.Version()})
	}
	_, err := fmt.Fprintln(std.out, "understudy", serve.Version())
	return err
}
