package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"understudy/flow/oauth"
	"understudy/idptest"
	"understudy/session"
)

// TestDifferential: for every shape and kind of client, the backup's answer equals the primary's refresh reply of the
// same session but for exactly iat, nbf, exp, jti (of the same look), at_hash, the header's kid and opaque values.
func TestDifferential(t *testing.T) {
	clients := []struct{ id, secret string }{{"spa", ""}, {"web", "web-secret"}}
	expected, run := len(shared.shapes())*len(clients)*3, 0
	for _, s := range shared.shapes() {
		t.Run(s.name, func(t *testing.T) {
			d := s.deployment
			d.use(t)
			u := d.understudy(t, true, fastRamp)
			st, err := s.at(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			// outage compares what the backup says of each person with what the primary says when it is back.
			outage := func(ps map[string]*person, may func(difference) bool) {
				t.Helper()
				st.learned(t)
				if err := d.fault.Set(idptest.Fault{Kind: idptest.Refuse}); err != nil {
					t.Fatal(err)
				}
				played := map[string]*reply{}
				for name, p := range ps {
					presented := p.refresh
					r := p.until(t, true)
					played[name] = r
					if got := r.body.Text("refresh_token"); got != "" && got != presented {
						t.Errorf("%s: the backup gave another refresh token", name)
					}
				}
				if err := d.fault.Set(idptest.Fault{}); err != nil {
					t.Fatal(err)
				}
				for name, p := range ps {
					before := p.learned
					diffs := differences(played[name], p.until(t, false), before)
					// The primary reads its clock more than once for a reply, and its lifetimes waver by a second: the
					// backup's must be among those that it gives.
					for range 5 {
						if !slices.ContainsFunc(diffs, difference.wavers) {
							break
						}
						r, err := p.again(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						diffs = differences(played[name], r, before)
					}
					for _, diff := range diffs {
						if !may(diff) {
							t.Errorf("%s: %s: %s", name, diff.where, diff.what)
						}
					}
					run++
				}
			}
			first, second := map[string]*person{}, map[string]*person{}
			for _, c := range clients {
				first[c.id+", the client's first code exchange"] = newPerson(t, st, c.id, c.secret, "alice")
			}
			outage(first, unknowable)
			for _, c := range clients {
				second[c.id+", after a code exchange"] = newPerson(t, st, c.id, c.secret, "alice")
				p := newPerson(t, st, c.id, c.secret, "alice")
				if _, err := p.again(t.Context()); err != nil {
					t.Fatal(err)
				}
				second[c.id+", after a refresh"] = p
			}
			outage(second, func(difference) bool { return false })
		})
	}
	fmt.Printf("differential: %d comparisons run, %d expected\n", run, expected)
	if run != expected {
		t.Errorf("%d comparisons run, %d expected", run, expected)
	}
}

// fastRamp leads traffic back at once.
const fastRamp = "health: {probe_away: 100ms, ramp: [100], ramp_step: 100ms}"

// difference is one place in which two replies differ.
type difference struct{ where, what string }

// wavers says whether it is a lifetime that differs.
func (d difference) wavers() bool {
	return strings.HasSuffix(d.where, "expires_in") || strings.HasSuffix(d.where, ".exp") || strings.HasSuffix(d.where, ".nbf")
}

// unknowable says whether a difference cannot be avoided as long as no refresh reply of a client was ever seen: whether
// the primary repeats the nonce (OpenID Connect Core, section 12.2: it should not), and the prefix that Keycloak gives a
// jti by its grant.
func unknowable(d difference) bool {
	return d.where == "id_token.nonce" && strings.HasPrefix(d.what, "backup has none") || d.where == "access_token.jti" && strings.HasPrefix(d.what, "prefix")
}

// differences lists where the backup's reply differs from the primary's beyond what may differ. learned is the reply
// that the backup learned from: where the primary's own lifetimes waver by a second or two, the backup has either.
func differences(backup, primary, learned *reply) []difference {
	var out []difference
	add := func(where, format string, a ...any) { out = append(out, difference{where, fmt.Sprintf(format, a...)}) }
	if b, p := backup.header.Get("Content-Type"), primary.header.Get("Content-Type"); b != p {
		add("Content-Type", "backup %q, primary %q", b, p)
	}
	members(&out, "member", backup.body, primary.body)
	for _, m := range primary.body {
		b, p := backup.body.Text(m.Name), primary.body.Text(m.Name)
		bt, berr := oauth.ParseJWT(b)
		pt, perr := oauth.ParseJWT(p)
		switch {
		case m.Name == "refresh_token" || !backup.body.Has(m.Name):
		case perr == nil && berr == nil:
			lt, _ := oauth.ParseJWT(learned.body.Text(m.Name))
			tokenDifferences(&out, m.Name, bt, pt, lt)
		case m.Name == "access_token" || perr == nil || berr == nil:
			if (perr == nil) != (berr == nil) || look(b) != look(p) {
				add(m.Name, "backup looks like %s, primary like %s", look(b), look(p))
			}
		case string(backup.body.Get(m.Name)) != string(m.Value):
			if strings.HasSuffix(m.Name, "expires_in") && string(backup.body.Get(m.Name)) == string(learned.body.Get(m.Name)) {
				continue
			}
			add(m.Name, "backup %s, primary %s", backup.body.Get(m.Name), m.Value)
		}
	}
	return out
}

// members compares names and order.
func members(out *[]difference, where string, b, p session.Object) {
	var common [2][]string
	for i, o := range []session.Object{b, p} {
		other := []session.Object{p, b}[i]
		for _, n := range o.Names() {
			if other.Has(n) {
				common[i] = append(common[i], n)
			} else {
				*out = append(*out, difference{where + "." + n, []string{"primary has none", "backup has none"}[i]})
			}
		}
	}
	if !slices.Equal(common[0], common[1]) {
		*out = append(*out, difference{where, fmt.Sprintf("order: backup %v, primary %v", common[0], common[1])})
	}
}

func tokenDifferences(out *[]difference, token string, b, p, learned *session.Token) {
	add := func(where, format string, a ...any) {
		*out = append(*out, difference{token + "." + where, fmt.Sprintf(format, a...)})
	}
	members(out, token+".header", b.Header, p.Header)
	for _, m := range p.Header {
		if m.Name != "kid" && b.Header.Has(m.Name) && string(b.Header.Get(m.Name)) != string(m.Value) {
			add("header."+m.Name, "backup %s, primary %s", b.Header.Get(m.Name), m.Value)
		}
	}
	members(out, token, b.Claims, p.Claims)
	for _, m := range p.Claims {
		if !b.Claims.Has(m.Name) {
			continue
		}
		bv, pv := string(b.Claims.Get(m.Name)), string(m.Value)
		switch m.Name {
		case "iat", "at_hash":
		case "nbf", "exp":
			if bd, pd := distance(b, m.Name), distance(p, m.Name); bd != pd && (learned == nil || bd != distance(learned, m.Name)) {
				add(m.Name, "distance from iat: backup %d, primary %d", bd, pd)
			}
		case "jti":
			bp, bl, _ := strings.Cut(look(bv), "<")
			pp, pl, _ := strings.Cut(look(pv), "<")
			if bp != pp {
				add("jti", "prefix: backup %s, primary %s", bp, pp)
			}
			if bl != pl {
				add("jti", "backup looks like %s, primary like %s", bl, pl)
			}
		default:
			if bv != pv {
				add(m.Name, "backup %s, primary %s", bv, pv)
			}
		}
	}
}

func distance(t *session.Token, name string) int64 {
	n, _ := t.Claims.Number(name)
	iat, _ := t.Claims.Number("iat")
	return n - iat
}

// look is the form of an identifier: what stands before its last colon, its length, its alphabet.
func look(s string) string {
	s = strings.Trim(s, `"`)
	i := strings.LastIndexByte(s, ':') + 1
	alphabet := "other"
	body := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return -1
		}
		return r
	}, s[i:])
	switch {
	case body == "----" && len(s[i:]) == 36:
		alphabet = "uuid"
	case body == "":
		alphabet = "hex"
	case strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZghijklmnopqrstuvwxyz-_") == "":
		alphabet = "base64url"
	}
	return fmt.Sprintf("%s<%d %s>", s[:i], len(s)-i, alphabet)
}
