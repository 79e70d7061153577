package e2e

import (
	"net/http"
	"net/url"
	"testing"

	"understudy/idptest"
)

// TestTwoTenants: an understudy serves two tenants. What is good at the one's host (refresh token, client secret, access
// token, the backup's too) is good for nothing at the other's, whether the primaries serve or not.
func TestTwoTenants(t *testing.T) {
	keycloak, opaque := shared.shapes()[0], shared.shapes()[2]
	for _, c := range []struct {
		name          string
		first, second shape
	}{
		{"of one primary", keycloak, keycloak},
		{"of two primaries", opaque, keycloak},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.first.deployment.use(t)
			one := c.first.deployment == c.second.deployment
			if !one {
				c.second.deployment.use(t)
			}
			u, err := idptest.StartUnderstudyConfig(t.Context(), idptest.UnderstudyOptions{
				Bin: shared.bin, Dir: t.TempDir(), Port: c.first.deployment.port, Authority: shared.authority, Tenant: fastRamp,
				Primary: c.first.deployment.fault.URL(), Second: c.second.deployment.fault.URL(),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				u.Kill()
				if t.Failed() {
					t.Logf("understudy's own log:\n%s", u.Log())
				}
			})
			first, second := newTenant(t, c.first, u, "default"), newTenant(t, c.second, u.Second(), "second")
			if first.issuer(first.u) == second.issuer(second.u) {
				t.Fatal("the tenants have one issuer")
			}
			// One primary is right to know its client by both names: then the services are the backup's to tell apart.
			first.service(t, false)
			if !one {
				second.service(t, false)
			}
			first.learned(t)
			second.learned(t)
			for _, way := range []struct{ from, to *tenant }{{first, second}, {second, first}} {
				way.from.crossed(t, way.to, !one)
			}
			for _, d := range []*deployment{c.first.deployment, c.second.deployment} {
				if err := d.fault.Set(idptest.Fault{Kind: idptest.Refuse}); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time after all that was crossed
				for _, x := range []*tenant{first, second} {
					x.atHome(t)
				}
				first.service(t, true)
				if !one {
					second.service(t, true)
				}
				// Of one primary's service only the first tenant has learned.
				first.crossed(t, second, true)
				second.crossed(t, first, !one)
			}
		})
	}
}

// tenant is a site with people, and a client that only it has.
type tenant struct {
	*site
	people []*person // the last one's client is confidential
	access []string  // the people's
	own    *person   // the client that only it has
}

func newTenant(t *testing.T, s shape, u *idptest.Understudy, name string) *tenant {
	t.Helper()
	st, err := s.at(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	st.tenant = name
	x := &tenant{site: st, own: &person{s: st, id: "svc", secret: "svc-secret"}}
	if s.consent { // oidc-provider
		x.own = newPerson(t, st, "web2", "web2-secret", "bob")
	}
	x.people = []*person{newPerson(t, st, "spa", "", "alice"), newPerson(t, st, "web", "web-secret", "alice")}
	for _, p := range x.people {
		x.access = append(x.access, p.learned.body.Text("access_token"))
	}
	return x
}

// service gets the own client's token at its tenant: a service's where it is one, else a person's.
func (x *tenant) service(t *testing.T, backup bool) {
	t.Helper()
	if x.own.refresh != "" {
		x.own.until(t, backup)
		return
	}
	r, err := x.own.post(t.Context(), x.provider.Endpoint().TokenURL, url.Values{"grant_type": {"client_credentials"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.status != http.StatusOK || isBackup(r.body.Text("access_token")) != backup {
		t.Fatalf("%s: %s: status %d, want a token (of the backup: %v): %s", x.site.tenant, x.own.id, r.status, backup, r.raw)
	}
	if !backup {
		x.approved.Add(1)
	}
}

// atHome: in the outage the tenant's own get tokens of the backup, and UserInfo for them.
func (x *tenant) atHome(t *testing.T) {
	t.Helper()
	for i, p := range x.people {
		x.access[i] = p.until(t, true).body.Text("access_token")
		r, err := bearer(t.Context(), shared.transport(), x.endpoint("userinfo_endpoint"), x.access[i])
		if err != nil {
			t.Fatal(err)
		}
		if r.status != http.StatusOK || r.body.Text("sub") == "" {
			t.Fatalf("%s: UserInfo: status %d: %s", x.site.tenant, r.status, r.raw)
		}
	}
}

// crossed presents everything of a tenant at another's host, services too where the other's primary must refuse them.
func (x *tenant) crossed(t *testing.T, to *tenant, services bool) {
	t.Helper()
	token := to.provider.Endpoint().TokenURL
	refuses := func(what string, r *reply, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if r.status < 400 || r.body.Has("access_token") || r.body.Has("sub") {
			t.Errorf("%s of %s is good at %s: status %d: %.300s", what, x.site.tenant, to.site.tenant, r.status, r.raw)
		}
	}
	refresh := func(p *person, refresh string) (*reply, error) {
		return p.post(t.Context(), token, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
	}
	for i, p := range x.people {
		r, err := refresh(p, p.refresh)
		refuses("the refresh token of "+p.id, r, err)
		r, err = bearer(t.Context(), shared.transport(), to.endpoint("userinfo_endpoint"), x.access[i])
		refuses("the access token of "+p.id, r, err)
	}
	// A client of the other tenant's, with its own secret and a token from here; a client from here, with a token of the other's.
	there := to.people[len(to.people)-1]
	r, err := refresh(there, x.people[len(x.people)-1].refresh)
	refuses("a refresh token", r, err)
	r, err = refresh(x.own, there.refresh)
	refuses("the secret of "+x.own.id, r, err)
	if services {
		r, err = x.own.post(t.Context(), token, url.Values{"grant_type": {"client_credentials"}})
		refuses("the service "+x.own.id, r, err)
	}
}
