package session

import (
	"testing"
)

// What was ended for good without the primary's knowledge is remembered of its tenant alone, and read again from the disk.
func TestWhereThePrimaryMayNotKnow(t *testing.T) {
	s := opened(t)
	holds := func(what string, s *Store, tenant string, want bool) {
		t.Helper()
		if got, err := s.Untold(t.Context(), tenant); err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	again := func() *Store { return &Store{KV: s.KV, Seal: s.Seal} }
	for _, m := range []Mark{{Of: OfSession, ID: NewID(), Final: true, Told: true, At: 1, Cause: "logout"}, {Of: OfGrant, ID: NewID(), At: 1, Cause: "refused"}} {
		if err := s.Mark(t.Context(), "a", m); err != nil {
			t.Fatal(err)
		}
	}
	holds("nothing that it does not know", s, "a", false)
	holds("the same, read again", again(), "a", false)
	if err := s.Mark(t.Context(), "a", Mark{Of: OfSession, ID: NewID(), Final: true, At: 1, Cause: "logout"}); err != nil {
		t.Fatal(err)
	}
	holds("a logout here", s, "a", true)
	holds("a logout here, read again", again(), "a", true)
	holds("another tenant", s, "b", false)
	unread := again()
	if err := unread.Mark(t.Context(), "b", Mark{Of: OfSubject, ID: NewID(), Final: true, At: 1, Cause: "operator"}); err != nil {
		t.Fatal(err)
	}
	holds("before the marks were read", unread, "b", true)
}
