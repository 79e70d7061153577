package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func commandContext(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, binary, args...)
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--help"}, 0, "revoke"},
		{[]string{"version"}, 0, "understudy"},
		{[]string{"version", "--json"}, 0, `"version"`},
		{[]string{"nothing"}, 2, "Try understudy --help"},
		{[]string{"serve"}, 2, "give --config FILE"},
		{[]string{"serve", "--bogus"}, 2, "unknown flag"},
		{[]string{"serve", "--config", "/nowhere.yaml"}, 1, "/nowhere.yaml: the configuration cannot be read"},
		{[]string{"status", "--data-dir", "/nowhere"}, 1, "no understudy is running"},
	} {
		command(t, "", nil, c.args...).want(t, c.code, c.want)
	}
	for _, name := range []string{"serve", "check", "status", "revoke", "lift", "resume", "log", "keys list", "keys rotate", "keys remove", "keys accept", "config show"} {
		r := command(t, "", nil, append(strings.Fields(name), "--help")...).want(t, 0, "Examples:", "understudy "+strings.Fields(name)[0])
		if name != "serve" && !strings.Contains(r.out, "--json") {
			t.Errorf("%s has no --json", name)
		}
	}
}

func TestConfigShow(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("a-token-that-nobody-may-see"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "u.yaml")
	text := fmt.Sprintf(`
data_dir: /from/file
sealing_key_file: %[1]s
log: {level: warn}
admin: {listen: "127.0.0.1:1", tls: {cert_file: /c, key_file: %[1]s}, token_file: %[1]s}
listeners: [{address: "127.0.0.1:2"}]
tenants: [{hosts: [login.example.com], upstream: {url: "http://kc.internal"}}]
`, secret)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"UNDERSTUDY_LOG_LEVEL=error", "UNDERSTUDY_DATA_DIR=/from/environment", "UNDERSTUDY_DATADIR=/mistyped"}
	r := command(t, "", env, "config", "show", "--config", file, "--data-dir", "/from/flag").
		want(t, 0, "data_dir: /from/flag", "level: error", "token_file: "+secret, "in_flight: 1000", "UNDERSTUDY_DATADIR means nothing")
	if strings.Contains(r.out+r.err, "nobody-may-see") {
		t.Error("a secret is shown")
	}
	command(t, "", env, "config", "show", "--config", file).want(t, 0, "data_dir: /from/environment")
	command(t, "", append(env, "UNDERSTUDY_CONFIG="+file), "config", "show").want(t, 0, "kc.internal")
	var m map[string]any
	if err := json.Unmarshal([]byte(command(t, "", nil, "config", "show", "--json", "--config", file).want(t, 0).out), &m); err != nil || m["data_dir"] != "/from/file" {
		t.Errorf("%v %v", err, m["data_dir"])
	}
	if err := os.WriteFile(file, []byte(text+"tennants: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "", nil, "config", "show", "--config", file).want(t, 1, file+`:8: unknown key "tennants": did you mean "tenants"?`)
	command(t, "", nil, "serve", "--config", file).want(t, 1, file+`:8: unknown key "tennants"`)
	command(t, "", nil, "check", "--config", file).want(t, 1, "PROBLEM", `unknown key "tennants"`)
}

func TestCheck(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	n.run("check").want(t, 1, "does not answer", "understudy serve starts without it all the same")
	idp := n.provider()
	n.write(idp.URL())
	n.run("check").want(t, 0, "the metadata is found and names this issuer", "all with a kid", "clock")
	n.start()
	r := n.run("check", "--json").want(t, 0)
	var out struct {
		Findings []struct{ Level, Code, Text, Mend string } `json:"findings"`
	}
	if err := json.Unmarshal([]byte(r.out), &out); err != nil || len(out.Findings) < 4 {
		t.Errorf("%v %s", err, r.out)
	}
	for _, f := range out.Findings {
		if f.Level != "ok" && f.Mend == "" {
			t.Errorf("nothing says what to do: %+v", f)
		}
	}
	// Exactly what the gateway finds wrong is found here too.
	n.write(idp.URL(), "")
	b, _ := os.ReadFile(n.file())
	n.put(strings.Replace(string(b), "    upstream:", "    issuers: [\""+n.url()+"/other\"]\n    upstream:", 1))
	n.run("check").want(t, 1, "the primary has no metadata at /other/.well-known/openid-configuration", "→")

	n.put(strings.Replace(string(b), "listeners:", "sealing_key_file: "+n.data()+"/inside.key\nlisteners:", 1))
	n.run("check").want(t, 1, "lies in the data directory", "the sealing key") // it is missing there, too
}

// What a primary's metadata and keys may have wrong. It is a check of documents: what serves them does not matter.
func TestCheckOfDocuments(t *testing.T) {
	const rsa = `{"kty":"RSA","kid":"k1","use":"sig","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`
	good := map[string]string{
		"/.well-known/openid-configuration": `{"issuer":"ISS","token_endpoint":"ISS/token","jwks_uri":"ISS/jwks","id_token_signing_alg_values_supported":["RS256"]}`,
		"/jwks":                             `{"keys":[` + rsa + `]}`,
	}
	const doc = "/.well-known/openid-configuration"
	for _, c := range []struct {
		name, path, old, new string
		code                 int
		want                 string
	}{
		{"as it should be", doc, "", "", 0, "1 signing keys, all with a kid"},
		{"another issuer's host", doc, `"issuer":"ISS"`, `"issuer":"http://evil.example"`, 1, "which is none of the tenant's"},
		{"jwks_uri on another host", doc, `ISS/jwks`, `https://keys.example/jwks`, 1, "NOT PROTECTED"},
		{"token endpoint on another host", doc, `ISS/token`, `https://t.example/token`, 1, "sign-ins would pass by"},
		{"HS256 only", doc, `["RS256"]`, `["HS256"]`, 1, "with secrets that only the primary has"},
		{"HS256 too", doc, `["RS256"]`, `["RS256","HS256"]`, 0, "clients that are set to HS256"},
		{"encrypted ID tokens", doc, `["RS256"]`, `["RS256"],"id_token_encryption_alg_values_supported":["RSA-OAEP"]`, 0, "can encrypt ID tokens"},
		{"keys without kid", "/jwks", `"kid":"k1",`, ``, 1, "have no kid"},
		{"no keys", "/jwks", rsa, ``, 1, "empty"},
		{"keys that are away", "/jwks", `{`, "\x00gone", 1, "empty or no JSON"},
		{"metadata that is HTML", doc, `{`, `<html>{`, 1, "is no JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, "http://127.0.0.1:1")
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, ok := good[r.URL.Path]
				if !ok || r.Host != strings.TrimPrefix(n.url(), "http://") || r.Header.Get("X-Forwarded-Proto") != "http" {
					http.NotFound(w, r)
					return
				}
				if r.URL.Path == c.path && c.old != "" {
					if !strings.Contains(text, c.old) {
						t.Errorf("%q is not in the document", c.old)
					}
					text = strings.Replace(text, c.old, c.new, 1)
				}
				fmt.Fprint(w, strings.ReplaceAll(text, "ISS", n.url()))
			}))
			defer s.Close()
			n.write(s.URL)
			n.run("check").want(t, c.code, c.want)
		})
	}
	t.Run("a clock that is wrong", func(t *testing.T) {
		n := newNode(t, "http://127.0.0.1:1")
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", "Mon, 02 Jan 2006 15:04:05 GMT")
			fmt.Fprint(w, strings.ReplaceAll(good[r.URL.Path], "ISS", n.url()))
		}))
		defer s.Close()
		n.write(s.URL)
		n.run("check").want(t, 1, "clock and this machine's differ by")
	})
}
