package session

import (
	"testing"

	"pgregory.net/rapid"
)

// However puts, their batches, reads and forgetting interleave: what is kept is never older than what the store holds.
func TestKeptIsNeverOlderThanTheStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &kept[int64]{limit: 2}
		stored := map[string]int64{} // key → version; the value is the version
		type write struct {
			key     string
			version int64
		}
		var batches, reads []write
		hits := 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "key")
			switch rapid.SampledFrom([]string{"put", "put", "apply", "load", "read", "forget", "get"}).Draw(t, "what") {
			case "put":
				w := write{key, rapid.Int64Range(1, 50).Draw(t, "version")}
				c.put([]byte(w.key), w.version, w.version)
				batches = append(batches, w)
			case "apply":
				if len(batches) > 0 {
					i := rapid.IntRange(0, len(batches)-1).Draw(t, "batch")
					w := batches[i]
					batches = append(batches[:i], batches[i+1:]...)
					stored[w.key] = max(stored[w.key], w.version)
				}
			case "load": // what a read finds, which it may keep much later
				if v := stored[key]; v != 0 {
					reads = append(reads, write{key, v})
				}
			case "read":
				if len(reads) > 0 {
					i := rapid.IntRange(0, len(reads)-1).Draw(t, "read")
					r := reads[i]
					reads = append(reads[:i], reads[i+1:]...)
					c.read([]byte(r.key), r.version, r.version)
				}
			case "forget":
				c.forget([]byte(key), stored[key])
			case "get":
				v, ok := c.get([]byte(key))
				if ok && v < stored[key] {
					t.Fatalf("%s: version %d is kept, the store holds %d", key, v, stored[key])
				}
				if ok {
					hits++
				}
			}
			if len(c.young) > 2 || len(c.old) > 2 {
				t.Fatalf("%d and %d are kept, 2 are allowed", len(c.young), len(c.old))
			}
		}
		t.Logf("%d hits", hits)
	})
}

func TestKeptKeepsWhatIsUsed(t *testing.T) {
	c := &kept[int64]{limit: 4}
	for v := int64(1); v <= 20; v++ {
		c.put([]byte{byte(v)}, v, v)
		if v > 1 {
			if got, ok := c.get([]byte{1}); !ok || got != 1 {
				t.Fatalf("after %d others the one that is used again and again is gone", v-1)
			}
		}
	}
	if _, ok := c.get([]byte{2}); ok {
		t.Error("what nobody asked for is still kept")
	}
}
