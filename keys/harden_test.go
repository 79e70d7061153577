package keys

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestHardenProcess(t *testing.T) {
	if os.Getenv("UNDERSTUDY_HARDEN") != "" {
		if err := HardenProcess(); err != nil {
			t.Fatal(err)
		}
		limits, err := os.ReadFile("/proc/self/limits")
		if err != nil {
			t.Fatal(err) // a process that is not dumpable may read its own
		}
		os.Stdout.Write(limits)
		st, err := os.Stat("/proc/self/mem") // root's, whoever runs, where the process is not dumpable
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("mem: " + st.Mode().String() + "\n")
		d, err := dumpable()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("dumpable: " + strconv.Itoa(d) + "\n")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHardenProcess$")
	cmd.Env = append(os.Environ(), "UNDERSTUDY_HARDEN=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var core []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Max core file size") {
			core = strings.Fields(line)
		}
	}
	if len(core) < 6 || core[4] != "0" || core[5] != "0" {
		t.Errorf("core limit: %v", core)
	}
	if !strings.Contains(string(out), "dumpable: 0\n") {
		t.Errorf("dumpable:\n%s", out)
	}
}
