package session

import (
	"bytes"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"understudy/store"
)

func TestASealOpensOnlyWithItsKeyWhereItWasPut(t *testing.T) {
	a, b := sealer(t, 1), sealer(t, 2)
	sealed := a.Seal([]byte("place"), []byte("plain"))
	if p, err := a.Unseal([]byte("place"), sealed); err != nil || string(p) != "plain" {
		t.Fatal(err)
	}
	same := sealer(t, 2)
	same.id = a.id // even where the ids of two keys are the same by chance
	for name, f := range map[string]func() error{
		"another key":      func() error { _, err := b.Unseal([]byte("place"), sealed); return err },
		"another, same id": func() error { _, err := same.Unseal([]byte("place"), sealed); return err },
		"another place":    func() error { _, err := a.Unseal([]byte("placf"), sealed); return err },
		"cut off":          func() error { _, err := a.Unseal([]byte("place"), sealed[:len(sealed)-1]); return err },
		"nothing":          func() error { _, err := a.Unseal([]byte("place"), nil); return err },
		"under: another key": func() error {
			_, err := OpenUnder(make([]byte, 32), nil, SealUnder(bytes.Repeat([]byte{1}, 32), nil, nil))
			return err
		},
		"under: moved": func() error {
			_, err := OpenUnder(make([]byte, 32), []byte("a"), SealUnder(make([]byte, 32), []byte("b"), nil))
			return err
		},
		"under: not as sealed": func() error { _, err := OpenUnder(make([]byte, 32), nil, []byte("short")); return err },
	} {
		if err := f(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewSealer(make([]byte, 31)); err == nil {
		t.Error("a short key was taken")
	}
}

// rewrite puts bytes at a key past all meaning, as somebody would who can write the disk.
func rewrite(t *testing.T, s *Store, key, value []byte, raise bool) {
	t.Helper()
	var b store.Batch
	if raise {
		e, err := s.KV.Get(key)
		must(t, err)
		b.Raise(key, e.Version+1, value)
	} else {
		b.Put(key, value)
	}
	apply(t, s, &b)
}

// again is the store as a process finds it that has read nothing yet.
func again(s *Store) *Store { return &Store{KV: s.KV, Seal: s.Seal} }

func TestAFlippedBitIsRefused(t *testing.T) {
	s := opened(t)
	lookup, key, d := remembered(t, s, tenant, "token", start)
	m := Mark{Of: OfSubject, ID: d.Subject, Final: true, At: start.UnixNano(), Cause: "logout"}
	must(t, s.Mark(t.Context(), tenant, m))
	for _, c := range []struct {
		name  string
		key   []byte
		raise bool
		read  func() error
	}{
		{"door", doorPlace(tenant, lookup), true, func() error { _, err := again(s).Door(tenant, lookup); return err }},
		{"record", recordKey(tenantHash(tenant), d.Hour, d.Record), false, func() error { _, err := s.Open(tenant, lookup, &d, key); return err }},
		// Not "no mark": the answer to a sign-in that may be revoked is no.
		{"mark", markPlace(tenant, true, OfSubject, d.Subject), true, func() error { _, err := s.Blocking(tenant, &d); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, c.read())
			e, err := s.KV.Get(c.key)
			must(t, err)
			was := bytes.Clone(e.Value)
			for i := range was {
				for bit := range 8 {
					is := bytes.Clone(was)
					is[i] ^= 1 << bit
					rewrite(t, s, c.key, is, c.raise)
					if err := c.read(); !errors.Is(err, ErrSealed) {
						t.Fatalf("bit %d of byte %d: %v", bit, i, err)
					}
				}
			}
			rewrite(t, s, c.key, was, c.raise)
			must(t, c.read())
		})
	}
}

func TestAMovedValueIsRefused(t *testing.T) {
	s := opened(t)
	one, key, d := remembered(t, s, tenant, "token 1", start)
	two, _, d2 := remembered(t, s, tenant, "token 2", start)
	move := func(from, to []byte, raise bool) {
		t.Helper()
		e, err := s.KV.Get(from)
		must(t, err)
		rewrite(t, s, to, e.Value, raise)
	}
	move(doorPlace(tenant, two), doorPlace(tenant, one), true)
	if _, err := again(s).Door(tenant, one); !errors.Is(err, ErrSealed) {
		t.Error("a door in another's place:", err)
	}
	h := tenantHash(tenant)
	move(recordKey(h, d2.Hour, d2.Record), recordKey(h, d.Hour, d.Record), false)
	if _, err := s.Open(tenant, one, &d, key); !errors.Is(err, ErrSealed) {
		t.Error("a record in another's place:", err)
	}
	// Somebody's harmless mark over the one that counts.
	must(t, s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: d.Grant, Final: true, At: start.UnixNano()}, Mark{Of: OfGrant, ID: ID{9}, Final: true, At: 1}))
	move(markPlace(tenant, true, OfGrant, ID{9}), markPlace(tenant, true, OfGrant, d.Grant), true)
	if _, err := s.Blocking(tenant, &d); !errors.Is(err, ErrSealed) {
		t.Error("a mark in another's place:", err)
	}
}

func TestArtifactsOpenNothingElse(t *testing.T) {
	s := opened(t)
	secret := bytes.Repeat([]byte{7}, 32)
	place := [...]string{"acme", issuer, "app", "token"}
	key := func(k Kind, p [4]string, secret []byte) []byte {
		return s.Seal.ArtifactKey(k, p[0], p[1], p[2], p[3], secret)
	}
	right := key(RefreshToken, place, secret)
	look := s.Seal.Lookup(RefreshToken, place[0], place[1], place[3])
	r := &Record{Format: RecordFormat, Tenant: "acme"}
	sealed, err := Seal(r, nil, ArtifactKeys{Kind: RefreshToken, Lookup: look, Key: right})
	must(t, err)
	d := Door{Kind: RefreshToken, Record: sealed.Record, Wrapped: sealed.Doors[0].Wrapped, Approved: start.UnixNano()}
	var b store.Batch
	d.Hour = s.PutRecord(&b, "acme", sealed.Record, sealed.Data, d.Expires())
	s.PutRecord(&b, "evil", sealed.Record, sealed.Data, d.Expires())
	must(t, s.PutDoor(&b, "acme", look, 1, &d))
	apply(t, s, &b)

	if _, err := s.Open("acme", look, &d, right); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{
		"another tenant":          key(RefreshToken, [4]string{"evil", issuer, "app", "token"}, secret),
		"another issuer":          key(RefreshToken, [4]string{"acme", issuer + "/", "app", "token"}, secret),
		"another client":          key(RefreshToken, [4]string{"acme", issuer, "app2", "token"}, secret),
		"another token":           key(RefreshToken, [4]string{"acme", issuer, "app", "token2"}, secret),
		"another kind":            key(AccessToken, place, secret),
		"no secret":               key(RefreshToken, place, nil),
		"another secret":          key(RefreshToken, place, bytes.Repeat([]byte{8}, 32)),
		"names that run together": key(RefreshToken, [4]string{"acme", issuer + "app", "", "token"}, secret),
		"another sealing key":     sealer(t, 2).ArtifactKey(RefreshToken, "acme", issuer, "app", "token", secret),
	} {
		if _, err := s.Open("acme", look, &d, key); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The right key, and the same bytes copied to another tenant.
	if _, err := s.Open("evil", look, &d, right); !errors.Is(err, ErrSealed) {
		t.Errorf("a copy at another tenant: %v", err)
	}
	if _, err := s.Door("evil", look); !errors.Is(err, ErrNoRecord) {
		t.Errorf("another tenant finds the door: %v", err)
	}
	if s.Seal.Lookup(RefreshToken, "acme", issuer, "token") == s.Seal.Lookup(RefreshToken, "evil", issuer, "token") {
		t.Error("two tenants look a token up in one place")
	}
	for _, p := range [][3]string{{"acme", issuer, "alice"}, {"evil", issuer, "alice"}} {
		if p[0] == "evil" && s.Seal.Pseudonym("subject", p[0], p[1], p[2]) == s.Seal.Pseudonym("subject", "acme", issuer, "alice") {
			t.Error("a subject has one pseudonym at two tenants")
		}
	}
}

func TestAnUnknownFormatIsRefused(t *testing.T) {
	s := opened(t)
	for _, format := range []int{0, RecordFormat + 1, -1} {
		key := make([]byte, 32)
		sealed, err := Seal(&Record{Format: format, Tenant: tenant}, nil, ArtifactKeys{Lookup: ID{1}, Key: key})
		must(t, err)
		d := Door{Record: sealed.Record, Wrapped: sealed.Doors[0].Wrapped, Approved: start.UnixNano()}
		var b store.Batch
		d.Hour = s.PutRecord(&b, tenant, sealed.Record, sealed.Data, d.Expires())
		apply(t, s, &b)
		if r, err := s.Open(tenant, ID{1}, &d, key); err == nil {
			t.Errorf("format %d was opened: %+v", format, r)
		}
	}
}

func TestWrap(t *testing.T) {
	s := opened(t)
	lookup, key, d := remembered(t, s, tenant, "token", start)
	to := ArtifactKeys{Kind: AccessToken, Lookup: ID{5}, Key: bytes.Repeat([]byte{5}, 32)}
	data, err := d.Unwrap(tenant, lookup, key)
	must(t, err)
	d2 := d
	d2.Wrapped = Wrap(tenant, data, to)
	if r, err := s.Open(tenant, to.Lookup, &d2, to.Key); err != nil || r.Subject != "alice" {
		t.Error(err)
	}
	if _, err := d.Unwrap(tenant, lookup, to.Key); !errors.Is(err, ErrSealed) {
		t.Error("unwrapped with a key that does not open:", err)
	}
	if _, err := s.Open(tenant, lookup, &d2, to.Key); !errors.Is(err, ErrSealed) {
		t.Error("opened in the other's place:", err)
	}
}

func TestDecodingHasLimits(t *testing.T) {
	dec := sealer(t, 1).dec
	deep := bytes.Repeat([]byte{0x81}, 40) // arrays in arrays
	long := append([]byte{0x9a, 0, 1, 0, 0}, make([]byte, 1<<16)...)
	for name, b := range map[string][]byte{
		"a key twice":       {0xa2, 0x00, 0x01, 0x00, 0x02},
		"too deep":          append([]byte{0xa1, 0x01}, append(deep, 0)...),
		"too many":          append([]byte{0xa1, 0x07}, long...),
		"indefinite length": {0xbf, 0x00, 0x01, 0xff},
		"a tag":             {0xa1, 0x00, 0xc1, 0x01},
		"something behind":  {0xa0, 0x00},
	} {
		var r Record
		if err := dec.Unmarshal(b, &r); err == nil {
			t.Errorf("%s was decoded: %+v", name, r)
		}
	}
	whole, err := cbor.Marshal(&Record{Format: 1, Scope: []string{"a", "b"}, Headers: map[string]string{"A": "b"}})
	must(t, err)
	var r Record
	must(t, dec.Unmarshal(whole, &r))
}

func FuzzDecode(f *testing.F) {
	for _, v := range []any{
		&Record{Format: 1, Tenant: tenant, Response: Object{{"a", []byte("1")}}, AccessToken: &Token{Claims: Object{{"b", []byte(`"x"`)}}}, Headers: map[string]string{"A": "b"}},
		&Door{Kind: RefreshToken, Record: ID{1}, Wrapped: []byte("w")}, &Mark{Of: OfGrant, ID: ID{2}, Cause: "refused"},
		&Habit{Refresh: &Shape{Members: []string{"a"}}}, &Successor{State: Kept}, &Secret{ID: ID{3}},
	} {
		b, err := cbor.Marshal(v)
		must(f, err)
		f.Add(b)
	}
	s := sealer(f, 1)
	f.Fuzz(func(t *testing.T, plain []byte) {
		sealed := s.Seal([]byte("k"), plain)
		for _, v := range []any{&Record{}, &Door{}, &Mark{}, &Habit{}, &Successor{}, &Secret{}} {
			if s.unsealCBOR([]byte("k"), sealed, v) != nil {
				continue
			}
			switch v := v.(type) { // whatever was decoded can be asked
			case *Record:
				v.Response.Get("a")
				for _, tok := range []*Token{v.AccessToken, v.IDToken} {
					if tok != nil {
						tok.Lifetime()
						tok.Claims.Texts("aud")
						tok.Claims.Append(nil)
					}
				}
			case *Door:
				v.Expires()
			}
			if _, err := cbor.Marshal(v); err != nil {
				t.Fatalf("decoded and not encoded again: %v", err)
			}
		}
	})
}
