package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/config"
)

// authority writes certificates that end then.
func authority(t *testing.T, at string, ends ...time.Duration) string {
	t.Helper()
	var out []byte
	for _, d := range ends {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(d),
			IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(at, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

// Each file that a tenant names and that cannot be used is told, all of them at once, with its key, its name and what to do.
func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	rubbish, none := file("rubbish", "-----BEGIN KEY-----\n"), filepath.Join(dir, "none")
	at := file("u.yaml", `listeners: [{address: "127.0.0.1:1"}]
tenants:
- name: one
  hosts: [a.example]
  upstream: {url: "https://b.example", ca_file: `+none+`}
  client_certificates: {primary_header: Client-Cert, ca_file: `+rubbish+`}
  clients:
  - {id: a, jwks_file: `+none+`}
  - {id: b, jwks_file: `+rubbish+`}
  - {id: c, secret_file: `+none+`}
  - {id: d, secret_file: `+rubbish+`}
- name: two
  hosts: [c.example]
  upstream: {url: "https://d.example", ca_file: `+dir+`, client_cert_file: `+none+`, client_key_file: `+none+`}
- name: three
  hosts: [e.example]
  upstream: {url: "https://f.example", client_cert_file: `+rubbish+`, client_key_file: `+none+`}
`)
	cfg, s, _, err := config.Load(at, nil, config.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir = filepath.Join(dir, "data")
	var said []string
	for _, f := range Check(t.Context(), cfg, s).Findings {
		if f.Code == "files" {
			said = append(said, f.Level+" "+f.Text)
		}
	}
	want := []string{
		"tenants[0].upstream.ca_file: " + none + " cannot be read (no such file or directory): name a file",
		"tenants[0].client_certificates.ca_file: there is no certificate in " + rubbish + ": give the authority's own as PEM",
		"tenants[0].clients[0].jwks_file: " + none + " cannot be read (no such file or directory): name a file",
		"tenants[0].clients[1].jwks_file: " + rubbish + " holds no keys",
		"tenants[0].clients[2].secret_file: " + none + " cannot be read (no such file or directory): name a file",
		"tenants[0].clients[3].secret_file: " + rubbish + " holds less than the 32 bytes",
		"tenants[1].upstream.ca_file: " + dir + " cannot be read (is a directory)",
		"tenants[2].upstream.client_cert_file: " + rubbish + " does not load with its key " + none,
	}
	for _, w := range want {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "problem ") && strings.Contains(s, w) }) {
			t.Errorf("nothing says %q", w)
		}
	}
	if len(said) != len(want) || t.Failed() {
		t.Errorf("%d findings, want %d:\n%s", len(said), len(want), strings.Join(said, "\n"))
	}
	if _, err := Resolve(cfg, s); len(config.Problems(err)) != len(want) {
		t.Errorf("a start says %v", err)
	}
}

// Who asks for certificates that nobody takes, or takes some for which nobody asks, is told; who does both is not.
func TestCheckOfClients(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "secret")
	if err := os.WriteFile(long, []byte(strings.Repeat("x", 40)), 0o644); err != nil {
		t.Fatal(err)
	}
	good, ended := authority(t, filepath.Join(dir, "good"), -time.Hour, 1000*time.Hour), authority(t, filepath.Join(dir, "ended"), -time.Hour, -2*time.Hour)
	soonOver := authority(t, filepath.Join(dir, "soon"), 24*time.Hour)
	tls := config.Certificate{CertFile: "cert.pem", KeyFile: "key.pem"}
	plain, secure := config.Listener{Address: ":80"}, config.Listener{Address: ":443", TLS: tls}
	asking, inVain := config.Listener{Address: ":444", TLS: tls, AskCertificate: true}, config.Listener{Address: ":81", AskCertificate: true}
	takes := config.Tenant{Name: "staff", ClientCertificates: config.ClientCertificates{PrimaryHeader: "Client-Cert"}}
	forwarded := takes
	forwarded.ClientCertificates.ProxyHeader = "Client-Cert"
	with := func(change func(t *config.Tenant)) config.Tenant {
		t := config.Tenant{Name: "staff"}
		change(&t)
		return t
	}
	for name, c := range map[string]struct {
		listeners []config.Listener
		tenants   []config.Tenant
		role      string
		want      []string
	}{
		"neither":                        {[]config.Listener{secure}, []config.Tenant{{Name: "staff"}}, "", nil},
		"both":                           {[]config.Listener{secure, asking}, []config.Tenant{{Name: "others"}, takes}, "", nil},
		"asked for, and nobody takes it": {[]config.Listener{secure, asking}, []config.Tenant{{Name: "staff"}}, "", []string{"warning ask_certificate :444"}},
		"taken, and nobody asks":         {[]config.Listener{secure}, []config.Tenant{{Name: "others"}, takes}, "", []string{"warning client_certificates staff"}},
		"taken from a proxy":             {[]config.Listener{plain}, []config.Tenant{forwarded}, "", nil},
		"asked for without TLS":          {[]config.Listener{inVain}, []config.Tenant{takes}, "", []string{"warning ask_certificate :81", "warning client_certificates staff"}},
		"a backup has no listeners":      {nil, []config.Tenant{takes}, config.RoleBackup, nil},
		"authorities":                    {nil, []config.Tenant{with(func(t *config.Tenant) { t.Upstream.CAFile = good })}, "", nil},
		"authorities that ended": {nil, []config.Tenant{with(func(t *config.Tenant) { t.Upstream.CAFile, t.ClientCertificates.CAFile = ended, soonOver })}, "",
			[]string{"problem certificate_end upstream.ca_file " + ended, "warning certificate_end client_certificates.ca_file " + soonOver}},
		"a secret that everybody reads": {nil, []config.Tenant{with(func(t *config.Tenant) { t.Clients = []config.Client{{ID: "a", SecretFile: long}} })}, "",
			[]string{"problem secret_mode clients[0].secret_file " + long}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Report{}
			cfg := &config.Config{Listeners: c.listeners, Tenants: c.tenants, Role: c.role}
			r.clientFiles(cfg)
			r.clientCertificates(cfg)
			if len(r.Findings) != len(c.want) {
				t.Fatalf("%+v, want %q", r.Findings, c.want)
			}
			for i, f := range r.Findings {
				words := strings.Fields(c.want[i])
				if f.Level != words[0] || f.Code != words[1] || f.Mend == "" {
					t.Errorf("%+v, want %q", f, c.want[i])
				}
				for _, w := range words[2:] {
					if !strings.Contains(f.Tenant+" "+f.Text, w) {
						t.Errorf("%+v does not name %s", f, w)
					}
				}
			}
		})
	}
}
