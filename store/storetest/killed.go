package storetest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/store"
)

// dirVariable tells a child that it is the writer of killed, and where.
const dirVariable = "STORETEST_DIR"

// killed runs this very test again as a child that writes and says what was acknowledged, kills it, and looks.
func killed(t *testing.T, open Opener) {
	if dir := os.Getenv(dirVariable); dir != "" {
		kv, _ := open(t, dir, time.Now)
		writeUntilKilled(kv, os.NewFile(3, "acks"))
		return
	}
	const rounds = 5
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var acked []string
	for round := range rounds {
		acked = append(acked, writeAndKill(t, dir, 1+random.IntN(300))...)
		kv, closeKV := open(t, dir, time.Now)
		for _, line := range acked {
			kind, key, _ := strings.Cut(line, " ")
			if kind == "claim" {
				first, err := kv.Claim(t.Context(), []byte(key), time.Now().Add(time.Hour))
				must(t, err)
				if first {
					t.Fatalf("round %d: %s was granted twice", round, key)
				}
				continue
			}
			e, err := kv.Get([]byte(key))
			if err != nil || !bytes.Equal(e.Value, content(key)) {
				t.Fatalf("round %d: %s was acknowledged and is gone: %v", round, key, err)
			}
		}
		must(t, closeKV())
	}
	t.Logf("%d acknowledged writes", len(acked))
}

// content is a value of between 0 and 4 KiB that follows from the key.
func content(key string) []byte {
	return bytes.Repeat([]byte(key), len(key)*int(key[len(key)-1])%251)
}

func writeUntilKilled(kv store.KV, acks io.Writer) {
	var mu sync.Mutex // guards acks
	say := func(kind, key string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(acks, kind, key)
	}
	ctx := context.Background()
	for w := range 4 {
		go func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, n)
				if w == 0 {
					if first, err := kv.Claim(ctx, []byte(key), time.Now().Add(time.Hour)); err == nil && first {
						say("claim", key)
					}
					continue
				}
				var b store.Batch
				b.Put([]byte(key), content(key))
				b.Raise([]byte(key+"/raised"), uint64(n), content(key+"/raised"))
				if kv.Apply(ctx, &b, store.Durable) == nil {
					say("write", key)
					say("write", key+"/raised")
				}
			}
		}()
	}
	select {}
}

// writeAndKill returns what a child said was acknowledged before it was killed, which happens after so many.
func writeAndKill(t *testing.T, dir string, after int) []string {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	var pattern []string
	for name := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}
	child := exec.Command(os.Args[0], "-test.run", strings.Join(pattern, "/"), "-test.count=1")
	child.Env = append(os.Environ(), dirVariable+"="+dir)
	child.ExtraFiles = []*os.File{w}
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	must(t, child.Start())
	must(t, w.Close())
	var acked []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		acked = append(acked, lines.Text())
		if len(acked) == after {
			must(t, child.Process.Kill())
		}
	}
	_ = child.Wait()
	if len(acked) < after {
		t.Fatalf("the writer ended by itself: %s", said.String())
	}
	return acked
}
