package serve

import (
	"os"
	"strings"
	"testing"
)

// What is said to be protected names every flow that there is.
func TestTheTablesNameEveryFlow(t *testing.T) {
	for _, file := range []string{"../README.md", "../docs/protected.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range Flows() {
			if !strings.Contains(string(b), "`"+f.Name()+"`") {
				t.Errorf("%s does not name the flow %s", file, f.Name())
			}
		}
	}
}
