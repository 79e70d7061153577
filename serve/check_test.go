package serve

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/gateway"
)

// answers is a primary that answers everything with the same bytes.
type answers string

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(a)))}, nil
}

// Whatever a primary sends, it is called wrong or it is right, and nothing breaks.
func FuzzDocuments(f *testing.F) {
	const doc = `{"issuer":"https://x","token_endpoint":"https://x/token","jwks_uri":"https://x/jwks","id_token_signing_alg_values_supported":["RS256"]}`
	for _, s := range [][2]string{
		{doc, `{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`},
		{doc, `{"keys":[{"kty":"RSA"}]}`}, {doc, `{}`}, {`{"issuer":"https://x","token_endpoint":":"}`, ``}, {`[]`, `[]`}, {`{"issuer":"%zz"}`, `null`},
	} {
		f.Add(s[0], s[1])
	}
	u, err := gateway.ParseUpstream("https://primary")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc, keys string) {
		r := &Report{}
		q := &question{r: r, t: &gateway.Tenant{Name: "t", Hosts: []string{"x"}, Scheme: "https", Upstream: u}, http: &http.Client{Transport: answers(keys)}}
		q.issuer(t.Context(), []byte(doc), "", wellKnown)
		if len(r.Findings) == 0 {
			t.Error("nothing is said")
		}
		for _, x := range r.Findings {
			if x.Level != OK && x.Mend == "" {
				t.Errorf("nothing says what to do: %+v", x)
			}
		}
	})
}

func TestWithin(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(data, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		data + "/k": true, data + "/a/b/k": true, dir + "/link/k": true, data + "/../data/k": true, data + ".key": false, dir + "/k": false, data + "/..k": true, data + "/../k": false,
	} {
		if within(path, data) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}
