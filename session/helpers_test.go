package session

import (
	"bytes"
	"testing"
	"time"

	"understudy/store"
)

// opened is a store on a fresh directory, ended with the test.
func opened(t testing.TB) *Store {
	db, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Store{KV: db, Seal: sealer(t, 1)}
}

func sealer(t testing.TB, n byte) *Sealer {
	s, err := NewSealer(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var start = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func apply(t testing.TB, s *Store, b *store.Batch) {
	t.Helper()
	must(t, s.KV.Apply(t.Context(), b, store.Durable))
}

const (
	tenant = "acme"
	issuer = "https://id.example"
)

// remembered is a public client's record behind one refresh token.
func remembered(t testing.TB, s *Store, tenant, token string, at time.Time) (lookup ID, key []byte, d Door) {
	t.Helper()
	r := &Record{
		Format: RecordFormat, Tenant: tenant, Issuer: issuer, Client: "app", Subject: "alice", SID: "sid-1", Grant: "authorization_code",
		Response:    Object{{"access_token", []byte("null")}, {"expires_in", []byte("300")}},
		AccessToken: &Token{Header: Object{{"alg", []byte(`"RS256"`)}}, Claims: Object{{"sub", []byte(`"alice"`)}, {"n", []byte("1.50e3")}}},
		Headers:     map[string]string{"Access-Control-Allow-Origin": "https://app.example"},
	}
	a := ArtifactKeys{
		Kind: RefreshToken, Lookup: s.Seal.Lookup(RefreshToken, tenant, issuer, token),
		Key: s.Seal.ArtifactKey(RefreshToken, tenant, issuer, "app", token, nil),
	}
	sealed, err := Seal(r, nil, a)
	must(t, err)
	var b store.Batch
	d = Door{
		Kind: RefreshToken, Record: sealed.Record, Wrapped: sealed.Doors[0].Wrapped, Grant: sealed.Record,
		Client: s.Seal.Pseudonym("client", tenant, issuer, "app"), Subject: s.Seal.Pseudonym("subject", tenant, issuer, "alice"),
		Session: s.Seal.Pseudonym("session", tenant, issuer, "sid-1"), ClientAuth: "none", Begun: at.UnixNano(), Approved: at.UnixNano(),
	}
	d.Hour = s.PutRecord(&b, tenant, sealed.Record, sealed.Data, d.Expires())
	must(t, s.PutDoor(&b, tenant, a.Lookup, at.UnixNano(), &d))
	apply(t, s, &b)
	return a.Lookup, a.Key, d
}
