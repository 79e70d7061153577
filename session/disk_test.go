package session

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/store"
)

const piece = 12 // bytes

// pieces are all 12-byte windows of a value as it is and as it may have been encoded, wherever in a longer text it began.
func pieces(values ...string) map[[piece]byte]string {
	out := map[[piece]byte]string{}
	add := func(of, text string) {
		for i := 0; i+piece <= len(text); i++ {
			out[[piece]byte([]byte(text[i:]))] = of
		}
	}
	for _, v := range values {
		add(v, v)
		add(v, hex.EncodeToString([]byte(v)))
		add(v, strings.ToUpper(hex.EncodeToString([]byte(v))))
		for shift := range 3 {
			for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := e.EncodeToString([]byte(strings.Repeat("x", shift) + v))
				// Characters that the shift or the end takes part in say nothing of the value alone.
				add(v, text[(shift*8+5)/6:(shift+len(v))*8/6])
			}
		}
	}
	return out
}

// found returns the values of which a piece lies in a file below dir.
func found(t *testing.T, dir string, ps map[[piece]byte]string) map[string]string {
	t.Helper()
	out := map[string]string{}
	read := 0
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b = append(b, path...)
		read += len(b)
		for i := 0; i+piece <= len(b); i++ {
			if of, ok := ps[[piece]byte(b[i:])]; ok {
				out[of] = path
			}
		}
		return nil
	}))
	if read < 50_000 {
		t.Fatalf("only %d bytes were searched", read)
	}
	return out
}

func TestAStolenDirectoryHoldsNoPieceOfATokenOrAClaim(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(dir, store.Options{})
	must(t, err)
	s := &Store{KV: db, Seal: sealer(t, 1)}
	var values []string
	for n := range 40 {
		uniq := func(what string) string {
			v := what + "-" + hex.EncodeToString(s.Seal.mac(newMAC([]byte{byte(n)}), what))
			values = append(values, v)
			return v
		}
		refresh, access, secret := uniq("refresh"), uniq("access"), uniq("secret")
		sub, email, name, sid := uniq("sub"), uniq("mail")+"@example.com", "Ada Lovelace "+uniq("name"), uniq("sid")
		secretKey := s.Seal.mac(newMAC(nil), secret) // the slow derivation is not what is tested here
		keys := func(k Kind, token string, secretKey []byte) ArtifactKeys {
			return ArtifactKeys{Kind: k, Lookup: s.Seal.Lookup(k, tenant, issuer, token), Key: s.Seal.ArtifactKey(k, tenant, issuer, "app", token, secretKey)}
		}
		claims := Object{{"sub", Quote(sub)}, {"email", Quote(email)}, {"name", Quote(name)}, {"sid", Quote(sid)}}
		sealed, err := Seal(&Record{
			Format: RecordFormat, Tenant: tenant, Issuer: issuer, Client: "app", Subject: sub, SID: sid,
			AccessToken: &Token{Claims: claims}, IDToken: &Token{Claims: claims}, Facts: Facts{Address: "192.0.2.1", UserAgent: uniq("agent")},
		}, nil, keys(RefreshToken, refresh, secretKey), keys(AccessToken, access, nil))
		must(t, err)
		var b store.Batch
		d := Door{
			Record: sealed.Record, Grant: sealed.Record, Client: s.Seal.Pseudonym("client", tenant, issuer, "app"),
			Subject: s.Seal.Pseudonym("subject", tenant, issuer, sub), Session: s.Seal.Pseudonym("session", tenant, issuer, sid), Approved: start.UnixNano(),
		}
		d.Hour = s.PutRecord(&b, tenant, sealed.Record, sealed.Data, d.Expires())
		for _, sd := range sealed.Doors {
			d.Kind, d.Wrapped = sd.Kind, sd.Wrapped
			must(t, s.PutDoor(&b, tenant, sd.Lookup, start.UnixNano(), &d))
		}
		late := uniq("successor")
		old := keys(RefreshToken, refresh, nil)
		must(t, s.PutSuccessor(&b, tenant, old.Lookup, 1, Successor{State: Kept, Sealed: SealUnder(old.Key, SuccessorPlace(tenant, old.Lookup), []byte(late))}))
		must(t, s.PutSecret(&b, tenant, d.Client, Secret{ID: s.Seal.SecretID(secretKey), Method: "client_secret_basic", Approved: 1}))
		must(t, s.PutMark(&b, tenant, Mark{Of: OfSubject, ID: d.Subject, Final: true, At: 1, Cause: "logout"}))
		apply(t, s, &b)
	}
	must(t, db.Close())
	db, err = store.Open(dir, store.Options{}) // what was in the log goes into a table
	must(t, err)
	must(t, db.Close())
	ps := pieces(values...)
	for of, path := range found(t, dir, ps) {
		t.Errorf("a piece of %q lies in %s", of, path)
	}

	// The search finds what is there.
	for _, text := range []string{values[0], "xx" + base64.StdEncoding.EncodeToString([]byte("y"+values[1])), hex.EncodeToString([]byte(values[2]))} {
		plain := t.TempDir()
		must(t, os.WriteFile(filepath.Join(plain, "f"), []byte(strings.Repeat(".", 50_000)+text), 0o600))
		if len(found(t, plain, ps)) == 0 {
			t.Errorf("%q was not found", text)
		}
	}
}
