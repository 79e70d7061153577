package backup

import (
	"encoding/binary"
	"testing"
	"time"

	"understudy/session"
)

func TestWhatIsNotKeptIsLookedForAgain(t *testing.T) {
	var a absent
	now, id := time.Unix(1_700_000_000, 0), session.ID{1}
	if a.has(id, now) {
		t.Error("it was never looked for")
	}
	a.add(id, now)
	for after, want := range map[time.Duration]bool{0: true, absentFor - 1: true, absentFor: true, 2*absentFor - 1: true} {
		b := absent{}
		b.add(id, now)
		if b.has(id, now.Add(after)) != want {
			t.Errorf("after %v", after)
		}
	}
	for _, after := range []time.Duration{2 * absentFor, time.Hour, -time.Second} {
		b := absent{}
		b.add(id, now)
		if b.has(id, now.Add(after)) {
			t.Errorf("still after %v", after)
		}
	}
	a.remove(id)
	if a.has(id, now) {
		t.Error("it is kept now")
	}
	for i := range 2 * maxAbsent {
		var id session.ID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		a.add(id, now)
	}
	if len(a.young)+len(a.old) > 2*maxAbsent || len(a.young) > maxAbsent {
		t.Errorf("%d remembered", len(a.young)+len(a.old))
	}
}
