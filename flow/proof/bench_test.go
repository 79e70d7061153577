package proof

import (
	"net/http"
	"testing"
)

func BenchmarkAssertion(b *testing.B) {
	for alg, s := range map[string]string{
		"RS256": rs256(assertion()),
		"ES256": compact("ES256", `{"alg":"ES256"}`, text(assertion()), ecKey()),
	} {
		keys, d := keysOf(jwk(rsaKey()), jwk(ecKey())), demanded("RS256", "ES256")
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.PrivateKeyJWT(s, keys, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDPoP(b *testing.B) {
	h := http.Header{"Dpop": {compact("ES256", text(dpopHeader(ecKey())), text(dpopClaims()), ecKey())}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dpop().Check(h, now); err != nil {
			b.Fatal(err)
		}
	}
}
