package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const whole = `
role: all
data_dir: /var/lib/understudy
sealing_key_file: /etc/understudy/sealing.key
key_encryption_key_file: /etc/understudy/kek
listeners:
  - address: ":443"
    tls: {cert_file: /c, key_file: /k}
  - {address: "10.0.0.1:8080", allow_plain: true}
health_path: /up
admin: {listen: "127.0.0.1:9443", tls: {cert_file: /c, key_file: /k}, token_file: /t}
audit: {dir: /var/log/understudy, keep_days: 7, max_file_bytes: 1_000_000}
log: {level: debug, format: json}
backup: {listen: "10.0.0.1:7443", allowed_names: [gateway.internal], tls: {cert_file: /c, key_file: /k, ca_file: /ca}}
tenants:
  - name: staff
    hosts: [login.example.com, "login.internal:8443"]
    upstream: {url: "https://kc.internal:8443", ca_file: /ca, server_name: kc, client_cert_file: /c, client_key_file: /k}
    issuers: ["https://login.example.com/realms/main"]
    trusted_proxies: [10.0.0.0/8, "::1"]
    limits: {in_flight: 50}
    health: {deadline_min: 100ms, deadline_max: 2s, probe_serving: 3s, probe_away: 1s, grants: 4, ramp: [50, 100], ramp_step: 1s}
    shadow_percent: 0
  - name: guests
    hosts: [guests.example.com]
    upstream: {url: "http://127.0.0.1:9000"}
`

// load loads a file with this text.
func load(t *testing.T, text string, env []string, f Flags) (*Config, []string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "u.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, unknown, err := Load(file, env, f)
	return c, unknown, err
}

func TestEverySettingIsRead(t *testing.T) {
	c, _, err := load(t, whole, nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Tenants[0], c.Tenants[1]
	if a.Health.DeadlineMax != 2*time.Second || a.Health.Ramp[0] != 50 || a.Limits.InFlight != 50 || *a.ShadowPercent != 0 || a.Scheme != "https" {
		t.Errorf("tenant: %+v", a)
	}
	if b.Health.DeadlineMax != 5*time.Second || b.Limits.InFlight != 1000 || *b.ShadowPercent != 5 {
		t.Errorf("defaults of a tenant: %+v", b)
	}
	if c.Audit.MaxFileBytes != 1_000_000 || c.Backup.TLS.CAFile != "/ca" || c.HealthPath != "/up" {
		t.Errorf("%+v", c)
	}
	shown, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := load(t, string(shown), nil, Flags{})
	if err != nil {
		t.Fatalf("what is shown is no file that loads: %v\n%s", err, shown)
	}
	if s, _ := again.Show(); string(s) != string(shown) {
		t.Errorf("shown, loaded and shown again differs:\n%s\n%s", shown, s)
	}
}

func TestZeroValuesWork(t *testing.T) {
	c, _, _, err := Load("", nil, Flags{Primary: "http://127.0.0.1:9000", Listen: "127.0.0.1:8080"})
	if err != nil {
		t.Fatal(err)
	}
	tn := c.Tenants[0]
	if tn.Name != "default" || tn.Hosts[0] != "127.0.0.1:8080" || tn.Scheme != "http" || c.DataDir != "understudy-data" || c.SealingKeyFile != "understudy-data.key" {
		t.Errorf("%+v", c)
	}
}

func TestPrecedence(t *testing.T) {
	file := "data_dir: /file\nlog: {level: warn}\nlisteners: [{address: \"127.0.0.1:1\"}]\ntenants: [{hosts: [a.example], upstream: {url: \"http://b.example\"}}]\n"
	env := []string{
		"UNDERSTUDY_DATA_DIR=/env", "UNDERSTUDY_LOG_LEVEL=error", "UNDERSTUDY_TENANTS_0_HOSTS=c.example, d.example",
		"UNDERSTUDY_TENANTS_0_SHADOW_PERCENT=1.5", "UNDERSTUDY_TENANTS_1_HOSTS=e.example", "UNDERSTUDY_TENANTS_1_UPSTREAM_URL=http://f.example",
		"UNDERSTUDY_TENANTS_0_NAME=x", "UNDERSTUDY_TENANTS_1_NAME=y", "UNDERSTUDY_TENANTS_0_HEALTH_RAMP=20,100",
		"UNDERSTUDY_DATADIR=/typo", "UNDERSTUDY_CONFIG=/x", "HOME=/root",
	}
	c, unknown, err := load(t, file, env, Flags{DataDir: "/flag", Listen: "127.0.0.1:2"})
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/flag" || c.Log.Level != "error" || c.Listeners[0].Address != "127.0.0.1:2" {
		t.Errorf("flag over environment over file: %+v", c)
	}
	if c.SealingKeyFile != "/flag.key" {
		t.Errorf("a default follows what is in force: %s", c.SealingKeyFile)
	}
	if h := c.Tenants[0].Hosts; len(h) != 2 || h[1] != "d.example" {
		t.Errorf("a list in a variable: %q", h)
	}
	if *c.Tenants[0].ShadowPercent != 1.5 || len(c.Tenants) != 2 || c.Tenants[1].Upstream.URL != "http://f.example" || c.Tenants[0].Health.Ramp[0] != 20 {
		t.Errorf("%+v", c.Tenants)
	}
	if len(unknown) != 1 || unknown[0] != "UNDERSTUDY_DATADIR" {
		t.Errorf("variables that mean nothing: %q", unknown)
	}
	_, _, err = load(t, file, []string{"UNDERSTUDY_TENANTS_0_HEALTH_GRANTS=1"}, Flags{})
	if err == nil || !strings.Contains(err.Error(), "UNDERSTUDY_TENANTS_0_HEALTH_GRANTS: it must be 3") {
		t.Errorf("a wrong variable is named: %v", err)
	}
}

// Every wrong file: what the message must say, with its line.
func TestWrongFiles(t *testing.T) {
	const ok = "listeners: [{address: \"127.0.0.1:1\"}]\n"
	const tenant = "tenants:\n- hosts: [a.example]\n  upstream: {url: \"https://b.example\"}\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown key, nearest known", ok + "tennants: []\n", `u.yaml:2: unknown key "tennants": did you mean "tenants"?`},
		{"unknown key with dashes", ok + "data-dir: x\n", `did you mean "data_dir"?`},
		{"unknown key deep inside", ok + tenant + "  health:\n    deadline_maximum: 1s\n", `u.yaml:6: tenants[0].health: unknown key "deadline_maximum": did you mean "deadline_max"?`},
		{"key at the wrong place", ok + "cert_file: x\n", `it belongs at "listeners[].tls.cert_file"`},
		{"unknown key without a neighbour", "log: {zzzzzzz: 1}\n", "the keys here are level, format"},
		{"a key twice", ok + ok, `u.yaml:2: listeners: this key stands at line 1 already`},
		{"no YAML", "a: [", "it is no YAML"},
		{"a list for an object", "log: [1]\n", "u.yaml:1: log: log needs keys here: level, format"},
		{"an object for a list", "listeners: {}\n", "a list is needed here"},
		{"an object for a text", "data_dir: {}\n", "a text is needed here"},
		{"no duration", ok + tenant + "  health: {deadline_min: 5}\n", "a duration such as 500ms, 5s or 1m is needed"},
		{"no number", "audit: {keep_days: many}\n", "u.yaml:1: audit.keep_days: a whole number is needed here"},
		{"no bool", "listeners: [{address: \":1\", allow_plain: yes}]\n", "true or false is needed"},
		{"an alias", "listeners: &l [{address: \":1\"}]\n", "anchors and aliases are not used here"},
		{"two documents", ok + "---\n" + ok, "more than one YAML document"},
		{"no tenant", ok, "u.yaml: tenants: there is no tenant"},
		{"no listener", tenant, "listeners: there is no listener"},
		{"plain HTTP beyond loopback", "listeners: [{address: \":80\"}]\n" + tenant, "u.yaml:1: listeners[0]: tokens would cross the network unencrypted"},
		{"a name is not loopback", "listeners: [{address: \"localhost.example:80\"}]\n" + tenant, "unencrypted"},
		{"certificate without key", "listeners: [{address: \":443\", tls: {cert_file: x}}]\n" + tenant, "cert_file is given without key_file"},
		{"the same address twice", "listeners: [{address: \"127.0.0.1:1\"}, {address: \"127.0.0.1:1\"}]\n" + tenant, "two listeners have the address"},
		{"admin over TCP without TLS", ok + tenant + "admin: {listen: \"127.0.0.1:2\", token_file: x}\n", "needs a certificate"},
		{"admin over TCP without a token", ok + tenant + "admin: {listen: \"127.0.0.1:2\", tls: {cert_file: x, key_file: y}}\n", "needs a token"},
		{"a host of two tenants", ok + "tenants:\n- {name: a, hosts: [A.example], upstream: {url: \"http://x\"}}\n- {name: b, hosts: [a.example:80], upstream: {url: \"http://x\"}}\n", "u.yaml:4: tenants[1].hosts[0]: the host a.example:80 is tenant a's already"},
		{"two tenants of one name", ok + "tenants:\n- {name: a, hosts: [a.example], upstream: {url: \"http://x\"}}\n- {name: a, hosts: [b.example], upstream: {url: \"http://x\"}}\n", "two tenants are called"},
		{"several tenants without names", ok + tenant + "- hosts: [c.example]\n  upstream: {url: \"https://b.example\"}\n", "it has no name"},
		{"a host with a scheme", ok + "tenants: [{hosts: [\"https://a.example\"], upstream: {url: \"http://x\"}}]\n", "is no host name"},
		{"an upstream with a path", ok + "tenants: [{hosts: [a.example], upstream: {url: \"http://x/auth\"}}]\n", "scheme and host only"},
		{"an upstream in a circle", ok + "tenants: [{hosts: [a.example], upstream: {url: \"http://a.example:80\"}}]\n", "in circles"},
		{"an issuer elsewhere", ok + tenant + "  issuers: [\"https://evil.example/\"]\n", "none of the tenant's: add that to hosts"},
		{"everybody is trusted", ok + tenant + "  trusted_proxies: [0.0.0.0/0]\n", "this trusts everybody"},
		{"certificates that the primary does not see", ok + tenant + "  client_certificates: {ca_file: x}\n", "give the one in which the primary reads"},
		{"certificates that nobody may write", ok + tenant + "  client_certificates: {primary_header: Client-Cert, proxy_header: X}\n", "nobody is trusted to write it"},
		{"certificates in an unknown shape", ok + tenant + "  client_certificates: {primary_header: Client-Cert, primary_format: envoy}\n", "nginx"},
		{"a link by script", ok + tenant + "  clients: [{id: a, client_uri: \"javascript:alert(1)\"}]\n", "tenants[0].clients[0].client_uri: it is no URL of the form https://host/path"},
		{"a link in the clear", ok + tenant + "  clients: [{id: a, client_uri: \"http://rp.example/\"}]\n", "begin with https://: people follow it"},
		{"a link that looks like another's", ok + tenant + "  clients: [{id: a, client_uri: \"https://bank.example@evil.example/\"}]\n", "remove them"},
		{"a link without a plain host", ok + tenant + "  clients: [{id: a, client_uri: \"https://a;b.example/\"}]\n", "it has no plain host name"},
		{"a name of several lines", ok + tenant + "  clients: [{id: a, client_name: \"a\\nb\"}]\n", "clients[0].client_name: it must have at most 80 characters"},
		{"a name without end", ok + tenant + "  clients: [{id: a, client_name: " + strings.Repeat("a", 81) + "}]\n", "at most 80 characters"},
		{"a logout in the clear", ok + tenant + "  clients: [{id: a, backchannel_logout_uri: \"http://rp.example/out\"}]\n", "begin with https://"},
		{"a logout by script", ok + tenant + "  clients: [{id: a, frontchannel_logout_uri: \"javascript://x/%0aalert(1)\"}]\n", "no URL of the form https://host/path"},
		{"a logout with a password", ok + tenant + "  clients: [{id: a, backchannel_logout_uri: \"https://u:p@rp.example/out\"}]\n", "remove them"},
		{"a frame that ends the policy", ok + tenant + "  clients: [{id: a, frontchannel_logout_uri: \"https://a;script-src.example/\"}]\n", "can name no such host"},
		{"two clients open the breaker", ok + tenant + "  health: {grants: 2}\n", "it must be 3 or more"},
		{"one requester opens the breaker", ok + tenant + "  health: {requesters: 1}\n", "it must be 2 or more"},
		{"a ramp that ends early", ok + tenant + "  health: {ramp: [10, 50]}\n", "end with 100"},
		{"deadlines swapped", ok + tenant + "  health: {deadline_min: 6s, deadline_max: 1s}\n", "swap them"},
		{"more than all", ok + tenant + "  shadow_percent: 101\n", "from 0 to 100"},
		{"not a number", ok + tenant + "  shadow_percent: .nan\n", "is needed here"},
		{"a gateway without a backup", ok + tenant + "role: gateway\n", "needs to know where the backup is"},
		{"gateway and backup unencrypted", ok + tenant + "role: gateway\nbackup: {url: \"http://x\", tls: {cert_file: a, key_file: b, ca_file: c}}\n", "must begin with https://"},
		{"gateway and backup without names", ok + tenant + "role: gateway\nbackup: {url: \"https://x\"}\n", "must know each other"},
		{"every certificate a gateway's", ok + tenant + "backup: {listen: \":7443\", tls: {cert_file: a, key_file: b, ca_file: c}}\n", "list the names in the gateways' certificates"},
		{"a backup that nobody reaches", "role: backup\n", "role backup needs an address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.text, nil, Flags{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if len(Problems(err)) == 0 {
				t.Errorf("the error has no Problem: %v", err)
			}
		})
	}
}

// What may be a secret in the wrong place is repeated neither in messages nor in what is shown.
func TestSecretsAreNotRepeated(t *testing.T) {
	const ok = "listeners: [{address: \"127.0.0.1:1\"}]\n"
	for _, text := range []string{
		ok + "tenants: [{hosts: [a.example], upstream: {url: \"https://user:hunter2@b.example\"}}]\n",
		ok + "tenants: [{hosts: [a.example], upstream: {url: \"https://user:hunter2@b.exa mple\"}}]\n",
		ok + "tenants: [{hosts: [a.example], upstream: {url: \"https://b.example\"}, limits: {in_flight: hunter2}}]\n",
		ok + "tenants: [{hosts: [a.example], upstream: {url: \"https://b.example\"}, issuers: [\"https://u:hunter2@a.example\"]}]\n",
		ok + "admin: {token: hunter2}\n",
	} {
		c, _, err := load(t, text, nil, Flags{})
		if err == nil {
			b, _ := c.Show()
			t.Errorf("accepted:\n%s", b)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("repeated: %v", err)
		}
	}
}

func TestFlagsThatAreNotClear(t *testing.T) {
	for _, c := range []struct {
		f    Flags
		want string
	}{
		{Flags{Listen: "127.0.0.1:9"}, "--listen: "},
		{Flags{Primary: "http://x"}, "--primary, --host: "},
		{Flags{Host: "x.example"}, "--primary, --host: "},
	} {
		_, _, err := load(t, whole, nil, c.f)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.f, err)
		}
	}
	_, _, _, err := Load("", nil, Flags{Primary: "ftp://x", Listen: "127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "--primary: it is no URL") {
		t.Errorf("a wrong flag is named: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{whole, "", "# only a comment", "a: [", "- 1", "? {a: b}\n: c", "listeners: !!binary aGk=", "tenants: [[[[]]]]", "<<: {a: 1}", "a: &a [*a]", "null", "---\n---"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, s, err := Parse("f", b)
		if err != nil {
			if len(Problems(err)) == 0 {
				t.Fatalf("an error without a Problem: %v", err)
			}
			return
		}
		c.Defaults()
		if c.Check(s) != nil {
			return
		}
		shown, err := c.Show()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Parse("f", shown); err != nil {
			t.Fatalf("what is shown does not load: %v\n%s", err, shown)
		}
	})
}
