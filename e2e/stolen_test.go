package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"understudy/audit"
	"understudy/flow/oauth"
	"understudy/idptest"
	"understudy/serve"
	"understudy/store"
)

// TestStolenDataDirectory: whatever people and clients do, no piece of 12 bytes of a token, code, cookie, secret or
// password is on the disk or in a log afterwards, and no claim of a person but those that the sign-in log documents.
func TestStolenDataDirectory(t *testing.T) {
	ss := shared.shapes()
	for _, s := range []shape{ss[0], ss[2]} {
		t.Run(s.name, func(t *testing.T) {
			d := s.deployment
			d.use(t)
			e := newEar()
			d.fault.Overhear(e.hear)
			t.Cleanup(func() { d.fault.Overhear(nil) })
			u, err := idptest.StartUnderstudyConfig(t.Context(), idptest.UnderstudyOptions{
				Bin: shared.bin, Dir: t.TempDir(), Port: d.port, Primary: d.fault.URL(), Authority: shared.authority,
				Top: "log: {level: debug}", Tenant: fastRamp + "\nshadow_percent: 100",
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(u.Kill)
			st, err := s.at(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			(&life{t, st, e}).live()
			u.Stop()
			stolen(t, u, e)
		})
	}
}

// life is what people do at a site, overheard.
type life struct {
	t  *testing.T
	st *site
	e  *ear
}

// resident is a person with the browser and all tokens.
type resident struct {
	*person
	browser *idptest.Browser
	id      string // the ID token of the sign-in
	access  string
}

func (l *life) signIn(user, id, secret string) *resident {
	l.t.Helper()
	via := l.e.over(shared.transport())
	c := newGoClient(l.st, id, secret)
	c.tap.RoundTripper = via
	to, err := c.begin(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	l.e.artifact("code_verifier", c.verifier)
	r := &resident{browser: &idptest.Browser{Transport: via}}
	back, err := r.browser.Visit(l.t.Context(), to, redirect, map[string]string{"username": user, "password": "pw-" + user, "login": user})
	if err != nil {
		l.t.Fatal(err)
	}
	tok, err := c.finish(l.t.Context(), back)
	if err != nil {
		l.t.Fatal(err)
	}
	l.st.approved.Add(1)
	r.person = &person{s: l.st, id: id, secret: secret, refresh: tok.Refresh, learned: c.tap.last, via: via}
	r.id, r.access = tok.ID, tok.Access
	return r
}

// refresh refreshes once, and keeps the access token too.
func (l *life) refresh(r *resident, backup bool) {
	l.t.Helper()
	got := r.until(l.t, backup)
	r.access = got.body.Text("access_token")
}

// userInfo asks with a person's access token.
func (l *life) userInfo(r *resident) {
	l.t.Helper()
	got, err := bearer(l.t.Context(), r.via, l.st.endpoint("userinfo_endpoint"), r.access)
	if err != nil {
		l.t.Fatal(err)
	}
	if got.status != http.StatusOK || got.body.Text("sub") == "" {
		l.t.Fatalf("UserInfo: status %d: %s", got.status, got.raw)
	}
}

// post sends what may be refused, and returns the status.
func (l *life) post(p *person, to string, form url.Values) int {
	l.t.Helper()
	r, err := p.post(l.t.Context(), to, form)
	if err != nil {
		l.t.Fatal(err)
	}
	return r.status
}

// guess presents a person's refresh token with a wrong secret, and a token that never was.
func (l *life) guess(r *resident) {
	l.t.Helper()
	wrong := *r.person
	wrong.secret = "not-the-secret-of-this-client"
	token := l.st.provider.Endpoint().TokenURL
	for _, p := range []struct {
		*person
		token string
	}{{&wrong, r.refresh}, {r.person, "no-refresh-token-of-anybody"}} {
		if n := l.post(p.person, token, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {p.token}}); n < 400 {
			l.t.Fatalf("a guess: status %d", n)
		}
	}
}

// logout ends a session by the browser, with the ID token as a hint.
func (l *life) logout(r *resident) error {
	const bye = "http://127.0.0.1:9999/bye"
	q := url.Values{"id_token_hint": {r.id}, "post_logout_redirect_uri": {bye}, "client_id": {r.person.id}}
	_, err := r.browser.Visit(l.t.Context(), l.st.endpoint("end_session_endpoint")+"?"+q.Encode(), bye, nil)
	return err
}

func (l *life) live() {
	t, d := l.t, l.st.deployment
	for _, to := range []string{l.st.issuer(l.st.u) + "/.well-known/openid-configuration", l.st.endpoint("jwks_uri")} {
		if _, err := bearer(t.Context(), l.e.over(shared.transport()), to, ""); err != nil {
			t.Fatal(err)
		}
	}
	revoke := func(r *resident) int {
		return l.post(r.person, l.st.revocation(), url.Values{"token": {r.refresh}, "token_type_hint": {"refresh_token"}})
	}
	alice, bob := l.signIn("alice", "spa", ""), l.signIn("bob", "web", "web-secret")
	leaver, revoked := l.signIn("alice", "web", "web-secret"), l.signIn("bob", "spa", "")
	waiting := l.signIn("alice", "spa", "")
	outage := []*resident{l.signIn("bob", "spa", ""), l.signIn("bob", "web", "web-secret")}
	for range 2 {
		for _, r := range []*resident{alice, bob, leaver} {
			l.refresh(r, false)
			l.userInfo(r)
		}
	}
	l.post(bob.person, l.st.endpoint("introspection_endpoint"), url.Values{"token": {bob.access}})
	l.guess(bob)
	if err := l.logout(leaver); err != nil {
		t.Fatalf("logout: %v", err)
	}
	if n := revoke(revoked); n != http.StatusOK {
		t.Fatalf("revocation: status %d", n)
	}
	l.st.learned(t)
	// A late reply is kept, and waits for its client for ever.
	if err := d.fault.Set(idptest.Fault{Kind: idptest.LateReply, Grant: "refresh_token", Times: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.fault.Release)
	l.refresh(waiting, true)
	d.fault.Release()
	eventually(t, "the late reply is not kept", func() bool { return status(t, l.st.u).Late == 1 })

	if err := d.fault.Set(idptest.Fault{Kind: idptest.Refuse}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, r := range []*resident{alice, bob} {
			if _, err := bearer(t.Context(), r.via, l.st.endpoint("userinfo_endpoint"), r.access); err != nil { // the primary's token
				t.Fatal(err)
			}
			l.refresh(r, true)
			l.userInfo(r)
		}
	}
	l.post(bob.person, l.st.endpoint("introspection_endpoint"), url.Values{"token": {bob.access}})
	l.guess(bob)
	if n := revoke(outage[0]); n != http.StatusOK {
		t.Fatalf("revocation in the outage: status %d", n)
	}
	if err := l.logout(outage[1]); err != nil && !strings.Contains(err.Error(), "a page without a form") { // that says that it is done
		t.Errorf("logout in the outage: %.200v", err)
	}
	if _, err := l.st.u.Command(t.Context(), "revoke", "--subject", claim(alice.id, "sub")); err != nil {
		t.Fatal(err)
	}
	if r, err := alice.present(t.Context(), alice.refresh); err != nil || r.status != http.StatusBadRequest {
		t.Fatalf("after understudy revoke: %v, %+v", err, r)
	}
}

// stolen searches everything that an understudy has left.
func stolen(t *testing.T, u *idptest.Understudy, e *ear) {
	t.Helper()
	sealing, err := os.ReadFile(u.DataDir() + ".key")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"code", "refresh_token", "access_token", "id_token", "client_secret", "code_verifier", "Basic credentials"} {
		if len(e.of(kind)) < 2 {
			t.Errorf("%d of the kind %s were heard", len(e.of(kind)), kind)
		}
	}
	n := newNeedles()
	for _, a := range slices.Sorted(maps.Keys(e.artifacts)) {
		if len(a) < shortest {
			t.Errorf("%s: %d bytes are too few to be looked for", e.artifacts[a], len(a))
		}
		n.add(e.artifacts[a], a)
		for _, text := range opened(a) {
			n.add("what is written in "+e.artifacts[a], text)
		}
	}
	n.add("the sealing key", string(sealing))
	for v, name := range e.claims {
		n.add("claim "+name, v)
	}
	for text := range e.public {
		n.publish(text)
	}
	// Names that the sign-in log documents, and that claims may be, too: Keycloak's refresh tokens have "prov":"default".
	n.publish(`"tenant":"default","`)
	for _, f := range serve.Flows() {
		n.publish(`"flow":"` + f.Name() + `"`)
	}
	if len(e.public) == 0 {
		t.Error("no metadata was heard")
	}

	hays := files(t, u.DataDir(), e)
	for _, part := range []string{"audit", "keys", "metadata", "store"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(hays)), func(name string) bool { return filepath.Dir(name) == part }) {
			t.Errorf("there is nothing in %s", part)
		}
	}
	hays["what the store holds"] = held(t, u.DataDir())
	log, err := os.ReadFile(filepath.Join(u.Dir, "understudy.log"))
	if err != nil {
		t.Fatal(err)
	}
	hays["its own log"] = log
	total := 0
	for _, name := range slices.Sorted(maps.Keys(hays)) {
		total += len(hays[name])
		n.report(t, name, hays[name])
	}
	fmt.Printf("a stolen data directory (%s): %d pieces of %d artifacts and %d claims, %d public ones left out, looked for in %d bytes of %d files and logs\n",
		t.Name(), len(n.at), len(e.artifacts), len(e.claims), n.public, total, len(hays))
	planted(t, u, e, n)
}

// report says once of each kind of needle where it is.
func (n *needles) report(t *testing.T, name string, hay []byte) {
	t.Helper()
	said := map[string]bool{}
	n.find(hay, func(at int, what string) {
		if !said[what] {
			said[what] = true
			t.Errorf("%s, byte %d: %s: …%q…", name, at, what, hay[max(0, at-40):min(len(hay), at+52)])
		}
	})
}

// files are all files of a data directory, with their names. Of the sign-in log the values that it documents are left out.
func files(t *testing.T, dir string, e *ear) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s is no file (%s): it can't be searched", path, entry.Type())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if filepath.Dir(name) == "audit" {
			b = undocumented(t, b, e)
		}
		out[name] = append([]byte(name+"\n"), b...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// held is every key and value of the store in a data directory.
func held(t *testing.T, dir string) []byte {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(copied, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out []byte
	err = db.Scan(context.WithoutCancel(t.Context()), nil, nil, func(key []byte, v store.Entry) error {
		out = append(append(append(append(out, key...), '\n'), v.Value...), '\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Error("the store holds nothing")
	}
	return out
}

// undocumented is a file of the sign-in log without the issuers, clients, subjects and sessions that stand where it
// documents them.
func undocumented(t *testing.T, file []byte, e *ear) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(file) {
		var entry audit.Entry
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("a line of the sign-in log: %v: %s", err, line)
		}
		for member, value := range map[string]string{"issuer": entry.Issuer, "client": entry.Client, "subject": entry.Subject, "session": entry.Session} {
			if slices.ContainsFunc(loggedClaims()[member], func(claim string) bool { return e.logged[claim+"="+value] }) {
				line = bytes.Replace(line, []byte(`"`+member+`":"`+value+`"`), []byte(`"`+member+`":""`), 1)
			}
		}
		out = append(out, line...)
	}
	return out
}

// planted shows that the search which found nothing would have: a piece of one artifact of each kind in each form, and of
// one in each part of a copy of the data directory.
func planted(t *testing.T, u *idptest.Understudy, e *ear, n *needles) {
	t.Helper()
	found := func(hay []byte) bool {
		yes := false
		n.find(hay, func(int, string) { yes = true })
		return yes
	}
	pieces := map[string]string{} // by kind
	for _, a := range slices.Sorted(maps.Keys(e.artifacts)) {
		windows(a, func(w string) {
			if _, ok := n.at[w]; ok && pieces[e.artifacts[a]] == "" {
				pieces[e.artifacts[a]] = w
			}
		})
		if pieces[e.artifacts[a]] == "" {
			t.Errorf("%s: all of it is public", e.artifacts[a])
		}
	}
	for kind, text := range pieces {
		for _, f := range forms(text) {
			if !found([]byte("\x00\x01" + f.text + "\xff")) {
				t.Errorf("a planted piece of %s, %s, is not found", kind, f.how)
			}
		}
	}

	token := pieces["refresh_token"]
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(u.DataDir())); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	b.Put([]byte("planted"), []byte(token))
	if err := errors.Join(db.Apply(t.Context(), &b, store.Durable), db.Close()); err != nil {
		t.Fatal(err)
	}
	if !found(held(t, dir)) {
		t.Error("what is planted in the store is not found")
	}
	// In the sign-in log it stands where a client that says what it likes may have put it.
	line, err := json.Marshal(audit.Entry{Client: token})
	if err != nil {
		t.Fatal(err)
	}
	for name := range files(t, dir, e) {
		text := token
		if filepath.Dir(name) == "audit" {
			text = string(line) + "\n"
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for name, hay := range files(t, dir, e) {
		if !found(hay) {
			t.Errorf("what is planted in %s is not found", name)
		}
	}
}

// bearer asks with an access token; "": without.
func bearer(ctx context.Context, via http.RoundTripper, to, token string) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := via.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return readReply(resp)
}

// claim is a claim of a JWT.
func claim(jwt, name string) string {
	t, err := oauth.ParseJWT(jwt)
	if err != nil {
		return ""
	}
	return t.Claims.Text(name)
}
