package session

import "testing"

// Every node of a deployment makes the same nonce, and whatever differs makes another.
func TestNonce(t *testing.T) {
	n := sealer(t, 1).Nonce("t", "i", 7)
	if again := sealer(t, 1).Nonce("t", "i", 7); again != n || len(n) != 43 {
		t.Errorf("%q and %q", n, again)
	}
	s := sealer(t, 1)
	for name, other := range map[string]string{
		"another key": sealer(t, 2).Nonce("t", "i", 7), "another tenant": s.Nonce("u", "i", 7), "another issuer": s.Nonce("t", "j", 7),
		"another window": s.Nonce("t", "i", 8), "names that end elsewhere": s.Nonce("ti", "", 7),
	} {
		if other == n {
			t.Error(name)
		}
	}
}
