package session

import (
	"bytes"
	"errors"
	"testing"

	"understudy/store"
)

// What was said at the UserInfo endpoint opens under the key of its sign-in alone, and only as what it says that it is: of this
// tenant and issuer, and of UserInfo.
func TestWhatUserInfoSaidIsOfItsOwnSignIn(t *testing.T) {
	s := opened(t)
	said := &Token{Claims: Object{{"sub", []byte(`"alice"`)}}}
	mine := UserInfoKey(bytes.Repeat([]byte{1}, 32))
	for i, c := range []struct {
		rule string
		is   Record // beside its format
		want error
	}{
		{"as it was kept", Record{Tenant: tenant, Issuer: issuer, UserInfo: said}, nil},
		{"a record of another tenant", Record{Tenant: "evil", Issuer: issuer, UserInfo: said}, ErrSealed},
		{"a record of another issuer", Record{Tenant: tenant, Issuer: issuer + "/other", UserInfo: said}, ErrSealed},
		{"a record of something else", Record{Tenant: tenant, Issuer: issuer}, ErrSealed},
	} {
		t.Run(c.rule, func(t *testing.T) {
			k := UserInfoKey(bytes.Repeat([]byte{byte(i + 1)}, 32))
			at := s.Seal.UserInfoKeys(tenant, issuer, k)
			c.is.Format = RecordFormat
			sealed, err := Seal(&c.is, nil, at)
			must(t, err)
			d := Door{Kind: UserInfo, Record: sealed.Record, Wrapped: sealed.Doors[0].Wrapped, Approved: start.UnixNano()}
			var b store.Batch
			d.Hour = s.PutRecord(&b, tenant, sealed.Record, sealed.Data, d.Expires())
			must(t, s.PutDoor(&b, tenant, at.Lookup, start.UnixNano(), &d))
			apply(t, s, &b)
			r, asked, err := s.UserInfo(tenant, issuer, k)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err == nil && (r.UserInfo.Claims.Text("sub") != "alice" || asked != start.UnixNano()) {
				t.Errorf("%+v, asked at %d", r, asked)
			}
		})
	}
	for what, ask := range map[string]func() error{
		"another tenant": func() error { _, _, err := s.UserInfo("evil", issuer, mine); return err },
		"another issuer": func() error { _, _, err := s.UserInfo(tenant, issuer+"/other", mine); return err },
		"another key":    func() error { _, _, err := s.UserInfo(tenant, issuer, NewUserInfoKey()); return err },
		"no key":         func() error { _, _, err := s.UserInfo(tenant, issuer, nil); return err },
	} {
		if err := ask(); !errors.Is(err, ErrNoRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
