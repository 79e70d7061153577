package backup_test

import (
	"testing"
	"time"

	"understudy/flow"
	"understudy/session"
)

// Who asks about somebody's token proves itself as the primary approved it, once with each assertion, and is refused for good where an
// operator ended it, also where the primary has just taken it. A public client is told of its own tokens alone.
func TestWhoAsksAboutAToken(t *testing.T) {
	secret, key, unknown := session.ID{7}, session.ID{8}, session.ID{9}
	svc := func(method string, id session.ID, more ...func(*flow.Proof)) flow.Proof {
		p := flow.Proof{ID: "svc", Method: method, SecretID: id}
		for _, f := range more {
			f(&p)
		}
		return p
	}
	once := func(p *flow.Proof) { p.Once, p.Until = []byte("assertion"), time.Now().Add(time.Hour).UnixNano() }
	vouched := func(p *flow.Proof) { p.Vouched = true }
	ended := func(after time.Duration) func(*rig) {
		return func(r *rig) { r.mark(session.OfClient, "client", "svc", true, r.now.Add(after)) }
	}
	again := func(p flow.Proof) func(*rig) {
		return func(r *rig) { r.ask("at", func(x *flow.Play) { x.Artifact, x.Client = r.accessToken(), p }) }
	}
	const told = "told"
	for name, c := range map[string]struct {
		auth   string // of the token's client
		as     flow.Proof
		before func(*rig)
		want   string
	}{
		"by its secret":                       {"none", svc("client_secret_basic", secret), nil, told},
		"by one that nobody approved":         {"none", svc("client_secret_basic", unknown), nil, "client_unknown_secret"},
		"without one":                         {"none", svc("client_secret_post", session.ID{}), nil, "client_unauthenticated"},
		"by another's":                        {"none", flow.Proof{ID: "other", Method: "client_secret_basic", SecretID: secret}, nil, "client_unknown_secret"},
		"by its key":                          {"none", svc("private_key_jwt", key, once), nil, told},
		"by its key, for ever":                {"none", svc("private_key_jwt", key), nil, "assertion_refused"},
		"by its key, twice":                   {"none", svc("private_key_jwt", key, once), again(svc("private_key_jwt", key, once)), "assertion_replayed"},
		"by another key":                      {"none", svc("private_key_jwt", unknown, once), nil, "client_unknown_secret"},
		"by its certificate":                  {"none", svc("tls_client_auth", key), nil, told},
		"by another":                          {"none", svc("tls_client_auth", unknown), nil, "client_unknown_secret"},
		"by one that is not to be had":        {"none", svc("self_signed_tls_client_auth", session.ID{}), nil, "certificate_refused"},
		"taken by the primary":                {"none", svc("client_secret_basic", session.ID{}, vouched), nil, told},
		"taken by the primary, once":          {"none", svc("private_key_jwt", session.ID{}, vouched, once), nil, told},
		"with what was used here":             {"none", svc("private_key_jwt", session.ID{}, vouched, once), again(svc("private_key_jwt", key, once)), "assertion_replayed"},
		"ended by an operator":                {"none", svc("client_secret_basic", secret), ended(0), "client_revoked"},
		"ended, and taken by the primary":     {"none", svc("client_secret_basic", session.ID{}, vouched), ended(0), "client_revoked"},
		"ended before it was approved":        {"none", svc("client_secret_basic", secret), ended(-2 * time.Hour), told},
		"public, of its own":                  {"none", flow.Proof{ID: "app", Method: "none"}, nil, told},
		"public, of another's":                {"none", flow.Proof{ID: "svc", Method: "none"}, nil, "client_unauthenticated"},
		"as public, of a client that is not":  {"client_secret_basic", flow.Proof{ID: "app", Method: "none"}, nil, "client_unauthenticated"},
		"as public, of one that nobody knows": {"", flow.Proof{ID: "app", Method: "none"}, nil, "client_method"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for _, id := range []session.ID{key, secret} {
				m := r.learned("svc", "", r.now.Add(-time.Hour))
				m.Client, m.ClientAuth, m.SecretID = r.Sessions.Seal.Pseudonym("client", tenant, iss, "svc"), "client_secret_basic", id
				r.learn(m)
			}
			m := r.learned("rt", "", r.now.Add(-time.Hour))
			rec := &session.Record{Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", SID: "sid-1"}
			sealed, err := session.Seal(rec, nil, r.artifact("rt"), r.accessToken())
			if err != nil {
				t.Fatal(err)
			}
			m.Sealed, m.ClientAuth = *sealed, c.auth
			r.learn(m)
			if c.before != nil {
				c.before(r)
			}
			as := func(p flow.Proof) string {
				return r.ask("at", func(x *flow.Play) { x.Artifact, x.Client = r.accessToken(), p })
			}
			want := c.want
			if want == told {
				want = as(flow.Proof{}) // whoever bears it comes as far
			}
			if got := as(c.as); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// accessToken is that of a sign-in, for an hour.
func (r *rig) accessToken() session.ArtifactKeys {
	seal := r.Sessions.Seal
	return session.ArtifactKeys{
		Kind: session.AccessToken, Lookup: seal.Lookup(session.AccessToken, tenant, iss, "at"),
		Key: seal.ArtifactKey(session.AccessToken, tenant, iss, "", "at", nil), Ends: r.now.Add(time.Hour).UnixNano(),
	}
}
