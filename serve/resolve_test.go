package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/config"
	"understudy/gateway/page"
)

// What is configured of clients beside what is learned: wrong files are refused with their setting, right ones are read.
func TestResolveClients(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	long, short := file("long", strings.Repeat("x", 32)+"\n"), file("short", "secret\n")
	for name, c := range map[string]struct{ clients, want string }{
		"a secret":                       {"{id: a, secret_file: " + long + "}", ""},
		"a secret too short for HS256":   {"{id: a, secret_file: " + short + "}", "short holds less than the 32 bytes"},
		"a secret that is not there":     {"{id: a, secret_file: " + dir + "/none}", "none cannot be read (no such file"},
		"keys at a URL":                  {"{id: a, jwks_uri: \"https://a.example/jwks\"}", ""},
		"on loopback":                    {"{id: a, jwks_uri: \"http://127.0.0.1:1/jwks\"}", ""},
		"for everybody between to write": {"{id: a, jwks_uri: \"http://a.example/jwks\"}", "clients[0].jwks_uri: keys are fetched by https"},
		"a name that begins as loopback": {"{id: a, jwks_uri: \"http://127.0.0.1.example/jwks\"}", "fetched by https"},
		"with a user":                    {"{id: a, jwks_uri: \"https://u@a.example/jwks\"}", "is no URL from which keys are fetched"},
		"a file":                         {"{id: a, jwks_uri: \"file:///etc/jwks\"}", "is no URL from which keys are fetched"},
		"keys in two places":             {"{id: a, jwks_uri: \"https://a.example/\", jwks_file: x}", "has jwks_file too"},
		"what people are shown":          {"{id: a, client_name: Payroll, client_uri: \"https://pay.example/\"}", ""},
		"nothing":                        {"{id: a}", "nothing is known of it"},
		"requests at a URL":              {"{id: a, jwks_uri: \"https://a.example/jwks\", request_uris: [\"https://a.example/r\", \"https://a.example/o/*\"]}", ""},
		"requests that nobody can read":  {"{id: a, secret_file: " + long + ", request_uris: [\"https://a.example/r\"]}", "clients[0].request_uris: nobody could tell"},
		"requests for everybody to read": {"{id: a, jwks_uri: \"https://a.example/jwks\", request_uris: [\"https://a.example/r\", \"http://a.example/r\"]}", "clients[0].request_uris[1]: request objects are fetched by https"},
		"requests anywhere":              {"{id: a, jwks_uri: \"https://a.example/jwks\", request_uris: [\"https://a.example*\"]}", "has a * that is not the last part of its path"},
		"a client twice":                 {"{id: a, secret_file: " + long + "}, {id: a, jwks_uri: \"https://a.example/\"}", "stands here twice"},
	} {
		t.Run(name, func(t *testing.T) {
			at := file("u.yaml", "listeners: [{address: \"127.0.0.1:1\"}]\ntenants: [{hosts: [h.example], scheme: http, upstream: {url: \"http://127.0.0.1:2\"}, clients: ["+c.clients+"]}]\n")
			cfg, s, _, err := config.Load(at, nil, config.Flags{})
			if err != nil {
				t.Fatal(err)
			}
			o, err := Resolve(cfg, s)
			switch {
			case c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got  %v\nwant %q", err, c.want)
			case name == "requests at a URL" && len(o.Tenants[0].RequestURIs["a"]) != 2:
				t.Errorf("%v", o.Tenants[0].RequestURIs)
			case name == "a secret" && len(o.Tenants[0].ClientSecrets["a"]) != 32:
				t.Error("the line break is part of the secret, or there is none")
			case name == "what people are shown" && o.Tenants[0].Applications["a"] != page.Application{Name: "Payroll", URL: "https://pay.example/"}:
				t.Errorf("%+v", o.Tenants[0].Applications)
			}
		})
	}
}
