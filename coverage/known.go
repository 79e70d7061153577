package coverage

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"unicode"
)

//go:embed known.json
var knownFile []byte

// Known is what is known of a well-known application or resource.
type Known struct {
	Name string `json:"name"`
	// Match are client_ids or audiences, or words of them in that order: "aqua mail" is in "prod-aqua-mail".
	Match   []string `json:"match"`
	Pattern string   `json:"pattern"` // of [Patterns]
	// Mend says what to do in it, by reason.
	Mend map[string]string `json:"mend,omitempty"`

	pattern *Pattern
}

// Pattern is a way to sign in that is to be expected.
type Pattern struct {
	Served bool   `json:"served"` // the backup continues it
	Text   string `json:"text"`
	Mend   string `json:"mend,omitempty"`
}

// Expected says what is to be expected of it.
func (k *Known) Expected() string {
	if k.pattern.Mend == "" {
		return k.pattern.Text
	}
	return k.pattern.Text + ": " + k.pattern.Mend
}

// Served says whether it is to be expected that the backup serves it.
func (k *Known) Served() bool { return k.pattern.Served }

// Advice is what the owner of an application should know of a flow.
type Advice struct {
	For string `json:"for"` // what applications do with it
	Use string `json:"use"` // what to do so that it goes on in an outage
}

type book struct {
	Patterns     map[string]*Pattern `json:"patterns"`
	Flows        map[string]Advice   `json:"flows"`
	Applications []*Known            `json:"applications"`
	Resources    []*Known            `json:"resources"`
}

// data is the embedded file, read once; what is wrong with it is a fault of this program, and a test's to find.
var data = sync.OnceValue(func() *book {
	b, err := parse(knownFile)
	if err != nil {
		panic(err)
	}
	return b
})

func parse(text []byte) (*book, error) {
	var b book
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("read what is known: %w", err)
	}
	for _, ks := range [][]*Known{b.Applications, b.Resources} {
		for _, k := range ks {
			if k.pattern = b.Patterns[k.Pattern]; k.pattern == nil {
				return nil, fmt.Errorf("%s: there is no pattern %q", k.Name, k.Pattern)
			}
			if k.Name == "" || len(k.Match) == 0 {
				return nil, fmt.Errorf("%q matches nothing", k.Name)
			}
			for i, m := range k.Match {
				if k.Match[i] = words(m); strings.TrimSpace(k.Match[i]) == "" {
					return nil, fmt.Errorf("%s: %q has no word", k.Name, m)
				}
			}
		}
	}
	return &b, nil
}

// Flow is what the owner of an application should know of a flow. It is false where nothing is written.
func Flow(name string) (Advice, bool) {
	a, ok := data().Flows[name]
	return a, ok
}

// Applications are the well-known ones, in the order of the file.
func Applications() []*Known { return data().Applications }

// Resources are the well-known ones, in the order of the file.
func Resources() []*Known { return data().Resources }

func applications(client string) *Known { return matching(data().Applications, client) }
func resources(audience string) *Known  { return matching(data().Resources, audience) }

func matching(ks []*Known, name string) *Known {
	name = words(name)
	var best *Known
	longest := 0
	for _, k := range ks {
		for _, m := range k.Match {
			if len(m) > longest && strings.Contains(name, m) {
				best, longest = k, len(m)
			}
		}
	}
	return best
}

// words are the words of a name in lower case, each between blanks.
func words(s string) string {
	f := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	return " " + strings.Join(f, " ") + " "
}
