package flows

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// act is one flow of one application, in three parts: what is done while the primary serves, while it is dead, and when it is back.
type act struct {
	flow   string
	client string // how the application proves itself
	parts  [3]func(t *testing.T)
}

// scene is what is played at one primary.
type scene struct {
	apps    []*app
	acts    []*act
	parties []*party
}

// TestFlows plays every flow at every primary, and prints what came of each.
func TestFlows(t *testing.T) {
	run, expected := 0, 0
	var table []string
	for _, k := range []kind{keycloakKind(), providerKind()} {
		t.Run(k.name, func(t *testing.T) {
			began := time.Now()
			sc := everything(k)
			expected += len(sc.acts)
			for _, p := range sc.parties {
				t.Cleanup(p.Close)
			}
			s := newStage(t, k, sc.apps)
			failed := map[*act]string{}
			for i, part := range []string{"served", "dead", "back"} {
				switch part {
				case "dead":
					s.settled(t)
					s.p.Kill()
				case "back":
					if err := s.p.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
					s.returned(t)
				}
				for _, a := range sc.acts {
					if failed[a] != "" {
						continue // what it would go on with is not there, and it is counted as failed
					}
					if !t.Run(part+"/"+strings.ReplaceAll(a.flow+" "+a.client, " ", "_"), a.parts[i]) {
						failed[a] = part
					}
				}
			}
			for _, a := range sc.acts {
				result := "goes on"
				if part := failed[a]; part != "" {
					result = "FAILED while " + part
				} else {
					run++
				}
				table = append(table, fmt.Sprintf("%-37s × %-13s × openid-client, %-28s %s", a.flow, k.name, a.client, result))
			}
			fmt.Printf("%s: %d flows in %s\n", k.name, len(sc.acts), time.Since(began).Round(time.Second))
		})
	}
	slices.Sort(table)
	fmt.Println(strings.Join(table, "\n"))
	fmt.Printf("combinations: %d of %d flows go on\n", run, expected)
	if run != expected {
		t.Errorf("%d flows go on, of %d", run, expected)
	}
}
