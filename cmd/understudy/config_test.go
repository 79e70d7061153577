package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
		{[]string{"help"}, 0, "revoke"},
		{[]string{"help", "serve"}, 0, "understudy serve --primary http://127.0.0.1:8080"},
		{[]string{"help", "keys", "rotate"}, 0, "understudy keys rotate"},
		{[]string{"help", "nothing"}, 2, "Try understudy --help"},
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
	n.run("check").want(t, 0, "the metadata is found and names this issuer", "all with a kid", "clock", "answers in the protocol's words",
		"a key that is derived from the sealing key ("+n.data()+".key)")
	own := filepath.Join(n.dir, "own.key")
	if err := os.WriteFile(own, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	n.write(idp.URL(), "key_encryption_key_file: "+own)
	if r := n.run("check").want(t, 0, own+" is there"); strings.Contains(r.out, "derived") {
		t.Errorf("the key-encryption key is not derived:\n%s", r.out)
	}
	n.write(idp.URL())
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
		"/token":                            `400 application/json {"error":"unsupported_grant_type"}`,
	}
	const (
		doc       = "/.well-known/openid-configuration"
		ec        = `{"kty":"EC","crv":"P-256","kid":"k2","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
		supported = `,"id_token_signing_alg_values_supported":["RS256"]`
		reply     = `400 application/json {"error":"unsupported_grant_type"}`
	)
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
		{"RS256 and an EC key", "/jwks", rsa, ec, 1, "none of the 1 signing keys is one for an algorithm that the metadata names (id_token_signing_alg_values_supported: RS256): no backup key can be made"},
		{"RS256, an EC key and an RSA key", "/jwks", rsa, ec + "," + rsa, 0, "2 signing keys, all with a kid"},
		{"RS256 and a key for PS256", "/jwks", `"use":"sig"`, `"use":"sig","alg":"PS256"`, 1, "NOT PROTECTED"},
		{"RS256 and a key for RS256", "/jwks", `"use":"sig"`, `"use":"sig","alg":"RS256"`, 0, "1 signing keys, all with a kid"},
		{"ES384 and a P-256 key", "", `["RS256"]|` + rsa, `["ES384"]|` + ec, 1, "NOT PROTECTED"},
		{"ES256 and a P-256 key", "", `["RS256"]|` + rsa, `["ES256"]|` + ec, 0, "1 signing keys, all with a kid"},
		{"an algorithm of which there are no backup keys", doc, `["RS256"]`, `["ES256K"]`, 1, "NOT PROTECTED"},
		{"no algorithm anywhere", doc, supported, ``, 1, "nor a key of the key set says how tokens are signed"},
		{"the key's algorithm alone", "", supported + `|"use":"sig"`, `|"use":"sig","alg":"RS256"`, 0, "1 signing keys, all with a kid"},
		{"a token endpoint that answers", "/token", "", "", 0, "the token endpoint answers in the protocol's words"},
		{"a token endpoint that is a page", "/token", reply, `200 text/html <html>Sign in</html>`, 1, `the token endpoint answers 200 OK with "text/html" where an OAuth error in JSON is due`},
		{"a refusal that is a page", "/token", reply, `403 text/html <html>Blocked</html>`, 1, `answers 403 Forbidden with "text/html"`},
		{"a refusal of nothing", "/token", reply, `400  `, 1, "answers 400 Bad Request with nothing"},
		{"a token for nothing", "/token", reply, `200 application/json {"access_token":"t","token_type":"bearer"}`, 1, "where an OAuth error in JSON is due"},
		{"a redirect", "/token", reply, `302 text/html x`, 1, "answers 302 Found"},
		{"a token endpoint that failed", "/token", reply, `500 text/html x`, 1, "answers 500 Internal Server Error"},
		{"a token endpoint that is ill", "/token", reply, `400 application/json {"error":"server_error"}`, 1, "the token endpoint says server_error"},
		{"a challenge", "/token", reply, `401 text/plain `, 0, "the token endpoint answers in the protocol's words"},
		{"too many requests", "/token", reply, `429 text/plain slow`, 0, "the token endpoint answers 429"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, "http://127.0.0.1:1")
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, ok := good[r.URL.Path]
				if !ok || r.Host != strings.TrimPrefix(n.url(), "http://") || r.Header.Get("X-Forwarded-Proto") != "http" {
					http.NotFound(w, r)
					return
				}
				olds, news := strings.Split(c.old, "|"), strings.Split(c.new, "|") // without a path: of the metadata, and of the keys
				for i, path := range []string{doc, "/jwks"} {
					if c.path != "" {
						path = c.path
					}
					if r.URL.Path != path || i >= len(olds) || olds[i] == "" {
						continue
					}
					if !strings.Contains(text, olds[i]) {
						t.Errorf("%q is not in the document", olds[i])
					}
					text = strings.Replace(text, olds[i], news[i], 1)
				}
				if r.URL.Path == "/token" {
					if b, _ := io.ReadAll(r.Body); r.Method != http.MethodPost || string(b) != "grant_type=urn%3Aunderstudy%3Aprobe" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
						t.Errorf("the token endpoint is asked %s %q", r.Method, b)
					}
					p := strings.SplitN(text, " ", 3)
					status, _ := strconv.Atoi(p[0])
					w.Header()["Content-Type"] = []string{p[1]}
					if status == http.StatusUnauthorized {
						w.Header().Set("WWW-Authenticate", "Basic")
					}
					w.WriteHeader(status)
					text = p[2]
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
