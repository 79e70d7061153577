package coverage

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestKnown(t *testing.T) {
	for _, c := range []struct {
		name, want string
		find       func(string) *Known
	}{
		{"grafana", "Grafana", applications},
		{"prod-grafana-eu", "Grafana", applications},
		{"grafanalike", "", applications},
		{"SAP_Concur", "SAP Concur", applications},
		{"sap-concur-travel-and-expense", "SAP Concur Travel and Expense", applications},
		{"https://app.box.com/", "Box", applications},
		{"inbox", "", applications},
		{"04b07795-8ddb-461a-bbee-02f9e1bf7b46", "Azure CLI", applications},
		{"admin-cli", "Keycloak admin command line", applications},
		{"", "", applications},
		{"https://storage.azure.com/", "Azure Storage (Microsoft.Storage)", resources},
		{"Microsoft.StorageCache", "Azure Storage Cache (Microsoft.StorageCache)", resources},
		{"account", "Keycloak account API", resources},
		{"https://api.example.test", "", resources},
	} {
		got := ""
		if k := c.find(c.name); k != nil {
			got = k.Name
		}
		if got != c.want {
			t.Errorf("%q is %q, want %q", c.name, got, c.want)
		}
	}
}

// The tables of well-known applications and resources are all there, with something to say of each.
func TestTheKnownOnes(t *testing.T) {
	if a, r := len(Applications()), len(Resources()); a < 70 || r < 80 {
		t.Errorf("%d applications, %d resources", a, r)
	}
	for _, ks := range [][]*Known{Applications(), Resources()} {
		var names []string
		for _, k := range ks {
			if slices.Contains(names, k.Name) {
				t.Errorf("%s is there twice", k.Name)
			}
			names = append(names, k.Name)
			if !k.Served() && !strings.Contains(k.Expected(), ": ") {
				t.Errorf("%s: not to be served, and no mend", k.Name)
			}
			// Each is found by what it matches: none hides behind another.
			for _, m := range k.Match {
				if got := matching(ks, m); got != k {
					t.Errorf("%s: %q finds %s", k.Name, m, got.Name)
				}
			}
		}
	}
}

// Names come with requests: whatever they are, the table is text, and what is known of them is found by whole words.
func FuzzNames(f *testing.F) {
	f.Add("grafana", "https://storage.azure.com/")
	f.Add("prod-slack\x1b[2J", "\xff\x00")
	f.Add("İstanbul BOX", "microsoft.storage")
	f.Fuzz(func(t *testing.T, client, audience string) {
		b, _ := newBook()
		b.Add(Seen{Tenant: "staff", Issuer: audience, Client: client, Flow: "refresh_token", Audiences: []string{audience, client}})
		b.Note("staff", audience, client, "request_object")
		table := b.Table("staff", nil, nil, explain)
		var out bytes.Buffer
		table.Text(&out)
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q", out.String()[i:])
		}
		if k := applications(client); k != nil && !slices.ContainsFunc(k.Match, func(m string) bool { return strings.Contains(words(client), m) }) {
			t.Errorf("%q is no %s", client, k.Name)
		}
	})
}

// What is wrong with the data file is said.
func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no JSON", `[`, "read what is known"},
		{"an unknown pattern", `{"applications":[{"name":"n","match":["a"],"pattern":"p"}]}`, `no pattern "p"`},
		{"nothing to match", `{"patterns":{"p":{}},"resources":[{"name":"n","pattern":"p"}]}`, "matches nothing"},
		{"no word", `{"patterns":{"p":{}},"resources":[{"name":"n","match":["-"],"pattern":"p"}]}`, "has no word"},
	} {
		if _, err := parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
