package proof

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"understudy/idptest"
)

// sent is what a client library sent; testdata/client.js says how.
type sent struct {
	Library, Method, Alg, Jkt, Body, DPoP, Htm, URL, AccessToken, Object string

	Jwk json.RawMessage
}

// What unmodified clients send is taken, and only once, for their key, where it was meant to go.
func TestRealClients(t *testing.T) {
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(rsaKey()))
	in := must(json.Marshal(map[string]string{
		"issuer": issuer, "clientId": client, "secret": string(theSecret),
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(rsaKey())})),
		"privateKey":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	}))
	script := must(os.Open("testdata/client.js"))
	defer script.Close()
	cmd := exec.CommandContext(t.Context(), "node", "--input-type=module", "-")
	cmd.Dir = filepath.Join(idptest.Parts(), "node") // where the libraries are
	cmd.Env = append(os.Environ(), "PROOF_CLIENT="+string(in))
	var out, problems bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = script, &out, &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, problems.String())
	}
	var all []sent
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seen := map[string]int{}
	for _, s := range all {
		t.Run(s.Library+" "+s.Method+" "+s.Alg, func(t *testing.T) {
			var keys *ClientKeys
			if s.Jwk != nil {
				keys = must(ParseClientKeys([]byte(`{"keys":[` + string(s.Jwk) + `]}`)))
			}
			a := demanded(s.Alg)
			assertion := must(url.ParseQuery(s.Body)).Get("client_assertion")
			once := map[string]bool{}
			switch s.Method {
			case "private_key_jwt":
				got, err := a.PrivateKeyJWT(assertion, keys, now)
				if is(t, err, ""); err != nil {
					return
				}
				once[string(got.Once.Key)] = true
				if again := must(a.PrivateKeyJWT(assertion, keys, now)); !once[string(again.Once.Key)] {
					t.Error("it can be replayed")
				}
				_, err = a.PrivateKeyJWT(assertion, keys, now.Add(time.Hour))
				is(t, err, AssertionExpired)
				_, err = a.PrivateKeyJWT(assertion, keysOf(jwk(otherRSA()), jwk(otherEC())), now)
				if err == nil {
					t.Error("it is taken by another client's keys")
				}
				a.Audiences = []string{"https://login.example/realms/b"}
				_, err = a.PrivateKeyJWT(assertion, keys, now)
				is(t, err, AssertionAudience)
			case "client_secret_jwt":
				_, err := a.ClientSecretJWT(assertion, theSecret, now)
				is(t, err, "")
			case "jar":
				r := RequestObjects{Issuer: issuer, Client: client, Algs: []string{s.Alg}, Audiences: []string{issuer}}
				got, err := r.Verify(s.Object, keys, now)
				if is(t, err, ""); err == nil && (len(got.Parameters) < 5 || len(got.Once.Key) == 0) {
					t.Errorf("%+v", got)
				}
			}
			if s.DPoP != "" {
				d := DPoP{Issuer: issuer, Method: s.Htm, URL: s.URL, Algs: []string{s.Alg}, AccessToken: s.AccessToken, Thumbprint: s.Jkt}
				h := http.Header{}
				h.Set("DPoP", s.DPoP)
				_, err := d.Check(h, now)
				is(t, err, "")
				d.AccessToken += "x"
				_, err = d.Check(h, now)
				is(t, err, DPoPToken)
				seen["dpop"]++
			}
			seen[s.Method]++
		})
	}
	if seen["private_key_jwt"] != 22 || seen["jar"] != 14 || seen["dpop"] != 21 || seen["client_secret_jwt"] != 1 {
		t.Errorf("seen %v", seen)
	}
}
