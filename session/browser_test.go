package session

import (
	"fmt"
	"testing"
)

// What a person was let into stands in the key once each, the last first, and not without end; the key itself stays as it was.
func TestWhatABrowserOpened(t *testing.T) {
	k := NewBrowserKey("alice")
	for i := range MaxOpened + 5 {
		k = k.With(Opened{Client: fmt.Sprint(i), Start: "https://a.example/", Key: []byte{1}})
	}
	was := k
	k = k.With(Opened{Client: "10", Start: "https://a.example/", Key: []byte{2}})
	again := k.With(Opened{Client: "10", Start: "https://b.example/", Key: []byte{3}})
	if len(was.Opened) != MaxOpened || len(k.Opened) != MaxOpened || len(again.Opened) != MaxOpened {
		t.Fatalf("%d, %d and %d", len(was.Opened), len(k.Opened), len(again.Opened))
	}
	if was.Opened[0].Client != "24" || k.Opened[0].Client != "10" || k.Opened[0].Key[0] != 2 || k.Opened[1].Client != "24" || again.Opened[1].Start != "https://a.example/" {
		t.Errorf("%+v\n%+v", k.Opened, again.Opened)
	}
	seen := map[string]bool{}
	for _, o := range k.Opened {
		if seen[o.Client] {
			t.Errorf("%s stands there twice", o.Client)
		}
		seen[o.Client] = true
	}
	if string(k.Key) != string(was.Key) || k.Subject != "alice" || k.Application("x") != was.Application("x") {
		t.Error("it is another key")
	}
}

// Of what was only let in by name no place is taken from what can be opened.
func TestWhatABrowserOpenedByName(t *testing.T) {
	k := NewBrowserKey("alice").With(Opened{Client: "a"}).With(Opened{Client: "a"})
	if len(k.Opened) != 1 || k.Opened[0].Key != nil {
		t.Errorf("%+v", k.Opened)
	}
	k = k.With(Opened{Client: "a", Start: "https://a.example/", Key: []byte{1}}).With(Opened{Client: "a"})
	if len(k.Opened) != 1 || k.Opened[0].Key == nil {
		t.Errorf("%+v", k.Opened)
	}
}
