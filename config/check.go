package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// defaults of a tenant.
func (t *Tenant) defaults() {
	orElse(&t.Limits.InFlight, 1000)
	h := &t.Health
	orElse(&h.DeadlineMin, 500*time.Millisecond)
	orElse(&h.DeadlineMax, max(5*time.Second, h.DeadlineMin))
	orElse(&h.ProbeServing, 5*time.Second)
	orElse(&h.ProbeAway, 500*time.Millisecond)
	orElse(&h.ProbeDeadline, 2*time.Second)
	orElse(&h.Grants, 3)
	orElse(&h.Requesters, 3)
	orElse(&h.Window, time.Minute)
	orElse(&h.GoodProbes, 3)
	orElse(&h.RampStep, 3500*time.Millisecond)
	orElse(&h.RefusedShare, 20)
	orElse(&h.HaltWindow, 30*time.Second)
	orElse(&h.MaxAbsence, time.Hour)
	if len(h.Ramp) == 0 {
		h.Ramp = []int{10, 25, 50, 100}
	}
	if t.ShadowPercent == nil {
		five := 5.0
		t.ShadowPercent = &five
	}
}

// checker gathers problems.
type checker struct {
	s    *Source
	errs []error
}

func (k *checker) bad(path, format string, a ...any) {
	k.errs = append(k.errs, k.s.problem(path, format, a...))
}

// oneOf reports a text that is none of those allowed.
func (k *checker) oneOf(path, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		k.bad(path, "%.64q is none of %s", v, strings.Join(allowed, ", "))
	}
}

// Problem describes what is wrong with the setting at a path, for what only shows when it is used.
func (s *Source) Problem(path, format string, a ...any) error { return s.problem(path, format, a...) }

// Check says everything that is wrong with a configuration whose defaults are filled in. It looks at no file and asks
// nobody.
func (c *Config) Check(s *Source) error {
	k := &checker{s: s}
	k.oneOf("role", c.Role, RoleAll, RoleGateway, RoleBackup)
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	if !strings.HasPrefix(c.HealthPath, "/") || len(c.HealthPath) < 2 || strings.ContainsAny(c.HealthPath, "?# ") {
		k.bad("health_path", "it must be a path such as /.understudy/health that the primary does not use")
	}
	if c.Audit.KeepDays < -1 {
		k.bad("audit.keep_days", "it must be 1 or more, or -1 to keep everything; leave it out for 90")
	}
	if c.Audit.MaxFileBytes < 1<<16 {
		k.bad("audit.max_file_bytes", "it must be 65536 or more; leave it out for 256 MiB")
	}
	k.listeners(c)
	k.admin(&c.Admin)
	k.backup(c)
	k.tenants(c)
	return errors.Join(k.errs...)
}

// Loopback says whether an address to listen on can only be reached from this machine.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func (k *checker) address(path, v string) {
	if _, port, err := net.SplitHostPort(v); err != nil || port == "" {
		k.bad(path, "%.64q is no address to listen on: write host:port, for example 127.0.0.1:8080 or :443", v)
	}
}

func (k *checker) pair(path string, c Certificate) {
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		k.bad(path, "cert_file is given without key_file: give both")
	case c.CertFile == "" && c.KeyFile != "":
		k.bad(path, "key_file is given without cert_file: give both")
	}
}

func (k *checker) listeners(c *Config) {
	if len(c.Listeners) == 0 && c.Role != RoleBackup {
		k.bad("listeners", "there is no listener: give one, for example listeners: [{address: \":443\", tls: {cert_file: …, key_file: …}}], or --listen")
	}
	seen := map[string]bool{}
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		k.address(at+".address", l.Address)
		if seen[l.Address] {
			k.bad(at+".address", "two listeners have the address %.64q: remove one", l.Address)
		}
		seen[l.Address] = true
		k.pair(at+".tls", l.TLS)
		if l.TLS.CertFile == "" && !l.AllowPlain && !Loopback(l.Address) {
			k.bad(at, "tokens would cross the network unencrypted: give tls, or, where something in front ends TLS and nobody else reaches this port, allow_plain: true (--allow-plain)")
		}
	}
}

func (k *checker) admin(a *Admin) {
	k.pair("admin.tls", a.TLS)
	if a.Listen == "" {
		return
	}
	k.address("admin.listen", a.Listen)
	if a.TLS.CertFile == "" {
		k.bad("admin.tls", "an admin listener over TCP needs a certificate: give cert_file and key_file, or leave admin.listen out and use the unix socket")
	}
	if a.TokenFile == "" {
		k.bad("admin.token_file", "an admin listener over TCP needs a token: write 16 or more random characters into a file (mode 0600) and name it here")
	}
}

func (k *checker) backup(c *Config) {
	b := &c.Backup
	switch c.Role {
	case RoleGateway:
		if b.URL == "" {
			k.bad("backup.url", "role gateway needs to know where the backup is: give its URL")
		}
	case RoleBackup:
		if b.Listen == "" {
			k.bad("backup.listen", "role backup needs an address for its gateways: give host:port")
		}
	}
	if c.Role != RoleGateway && b.URL != "" {
		k.bad("backup.url", "this process has a backup of its own (role %s): remove it, or say role: gateway", c.Role)
	}
	if c.Role == RoleGateway && b.Listen != "" {
		k.bad("backup.listen", "role gateway has no backup to offer: remove it, or say role: all")
	}
	if b.Listen != "" {
		k.address("backup.listen", b.Listen)
	}
	if b.Listen != "" && (len(b.AllowedNames) == 0 || slices.Contains(b.AllowedNames, "")) {
		k.bad("backup.allowed_names", "list the names in the gateways' certificates: otherwise every certificate of the authority would be a gateway's")
	}
	if b.SpoolMaxBytes < 1<<20 {
		k.bad("backup.spool_max_bytes", "it must be 1048576 or more; leave it out for 256 MiB")
	}
	if b.URL != "" {
		if u := k.url("backup.url", b.URL); u != nil && u.Scheme != "https" {
			k.bad("backup.url", "gateway and backup speak HTTP/2 with mutual TLS: the URL must begin with https://")
		}
	}
	if (b.Listen != "" || b.URL != "") && (b.TLS.CertFile == "" || b.TLS.KeyFile == "" || b.TLS.CAFile == "") {
		k.bad("backup.tls", "gateway and backup must know each other: give cert_file, key_file and ca_file")
	}
}

// url reads a URL of scheme and host. Its messages repeat no password.
func (k *checker) url(path, v string) *url.URL {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		k.bad(path, "it is no URL of the form https://host:port")
	case u.User != nil:
		k.bad(path, "there is a user or password in the URL: remove it")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		k.bad(path, "it must be scheme and host only, as in https://host:port: paths pass as they come")
	default:
		return u
	}
	return nil
}

var (
	tenantName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	cookieToken = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$") // RFC 6265, section 4.1.1
	hostName    = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
)

func (k *checker) tenants(c *Config) {
	if len(c.Tenants) == 0 && c.Role != RoleBackup {
		k.bad("tenants", "there is no tenant: name the primary, for example tenants: [{hosts: [login.example.com], upstream: {url: \"https://keycloak.internal:8443\"}}], or --primary")
	}
	names, hosts := map[string]bool{}, map[string]string{}
	for i := range c.Tenants {
		t, at := &c.Tenants[i], fmt.Sprintf("tenants[%d]", i)
		switch {
		case t.Name == "":
			k.bad(at, "it has no name: where there are several tenants each needs one")
		case !tenantName.MatchString(t.Name):
			k.bad(at+".name", "it may have 1 to 63 letters, digits, -, _ and ., and begins with a letter or digit")
		case names[t.Name]:
			k.bad(at+".name", "two tenants are called %q: what is remembered hangs on the name", t.Name)
		}
		names[t.Name] = true
		k.oneOf(at+".scheme", t.Scheme, "https", "http")
		if len(t.Hosts) == 0 {
			k.bad(at+".hosts", "it has no public host name: list those under which clients know the primary")
		}
		for j, h := range t.Hosts {
			hp := fmt.Sprintf("%s.hosts[%d]", at, j)
			if h == "" || !hostName.MatchString(h) {
				k.bad(hp, "%.64q is no host name: write it without scheme and path, with the port where it is not the scheme's (or give --host)", h)
				continue
			}
			n := trimPort(strings.ToLower(h), t.Scheme)
			if other, ok := hosts[n]; ok {
				k.bad(hp, "the host %s is tenant %s's already: a host belongs to one tenant, once", h, other)
			}
			hosts[n] = t.Name
		}
		k.upstream(t, at+".upstream")
		k.issuers(t, at)
		for j, p := range t.TrustedProxies {
			pfx, err := ParseNetwork(p)
			pp := fmt.Sprintf("%s.trusted_proxies[%d]", at, j)
			switch {
			case err != nil:
				k.bad(pp, "%.64q is no address or network: write 10.1.2.3 or 10.0.0.0/8", p)
			case pfx.Bits() == 0:
				k.bad(pp, "this trusts everybody's X-Forwarded-For: name the proxies' own addresses")
			}
		}
		k.certificates(t, at)
		for j, c := range t.SessionCookies {
			if !cookieToken.MatchString(c) {
				k.bad(fmt.Sprintf("%s.session_cookies[%d]", at, j), "%.64q is no name of a cookie", c)
			}
		}
		k.clients(t, at)
		if t.Limits.InFlight < 0 {
			k.bad(at+".limits.in_flight", "it must be 1 or more; leave it out for 1000")
		}
		if p := *t.ShadowPercent; !(p >= 0 && p <= 100) {
			k.bad(at+".shadow_percent", "it must be from 0 to 100")
		}
		k.health(&t.Health, at+".health")
	}
}

// certificates checks where client certificates come from and go to.
func (k *checker) certificates(t *Tenant, at string) {
	c := &t.ClientCertificates
	if *c == (ClientCertificates{}) {
		return
	}
	at += ".client_certificates"
	if c.PrimaryFormat != "" {
		k.oneOf(at+".primary_format", c.PrimaryFormat, "nginx", "rfc9440")
	}
	if c.ProxyFormat != "" {
		k.oneOf(at+".proxy_format", c.ProxyFormat, "nginx", "envoy", "rfc9440")
	}
	switch {
	case !cookieToken.MatchString(c.PrimaryHeader):
		k.bad(at+".primary_header", "it names no header: give the one in which the primary reads the client's certificate, for example Client-Cert")
	case c.ProxyHeader != "" && !cookieToken.MatchString(c.ProxyHeader):
		k.bad(at+".proxy_header", "%.64q is no name of a header", c.ProxyHeader)
	case c.ProxyHeader != "" && len(t.TrustedProxies) == 0:
		k.bad(at+".proxy_header", "nobody is trusted to write it: name the proxies in trusted_proxies")
	}
}

// clients checks what people are shown of clients, and where these are told of logouts.
func (k *checker) clients(t *Tenant, at string) {
	for j, c := range t.Clients {
		if path := fmt.Sprintf("%s.clients[%d].client_name", at, j); utf8.RuneCountInString(c.ClientName) > 80 || strings.ContainsFunc(c.ClientName, unicode.IsControl) {
			k.bad(path, "it must have at most 80 characters, all on one line")
		}
		for _, x := range []struct{ key, uri string }{
			{"client_uri", c.ClientURI}, {"backchannel_logout_uri", c.BackchannelLogoutURI}, {"frontchannel_logout_uri", c.FrontchannelLogoutURI},
		} {
			if x.uri == "" {
				continue
			}
			path := fmt.Sprintf("%s.clients[%d].%s", at, j, x.key)
			u, err := url.Parse(x.uri)
			switch {
			case err != nil || u.Host == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http":
				k.bad(path, "it is no URL of the form https://host/path")
			case u.User != nil || u.Fragment != "" || len(x.uri) > 2000:
				k.bad(path, "a user, a password, a fragment or more than 2000 characters are in it: remove them")
			case u.Scheme == "http" && !Loopback(net.JoinHostPort(u.Hostname(), "80")) && x.key == "client_uri":
				k.bad(path, "it must begin with https://: people follow it")
			case u.Scheme == "http" && !Loopback(net.JoinHostPort(u.Hostname(), "80")):
				k.bad(path, "it must begin with https://: a logout says who was signed in")
			case x.key == "client_uri" && !hostName.MatchString(u.Host):
				k.bad(path, "it has no plain host name: write it with letters, digits, - and .")
			case x.key == "frontchannel_logout_uri" && (!hostName.MatchString(u.Host) || strings.ContainsAny(u.Host, "_[")):
				k.bad(path, "a page's policy can name no such host: write it with letters, digits, - and .")
			}
		}
	}
}

func trimPort(host, scheme string) string {
	if scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

func (k *checker) upstream(t *Tenant, at string) {
	u := &t.Upstream
	if u.URL == "" {
		k.bad(at+".url", "it is missing: where is the primary itself? for example https://keycloak.internal:8443")
	} else if p := k.url(at+".url", u.URL); p != nil {
		if p.Scheme == "http" && (u.CAFile != "" || u.ServerName != "" || u.ClientCertFile != "") {
			k.bad(at, "ca_file, server_name and client_cert_file mean nothing for an http:// URL: remove them, or write https://")
		}
		if slices.ContainsFunc(t.Hosts, func(h string) bool {
			return trimPort(h, t.Scheme) == trimPort(p.Host, t.Scheme) && p.Scheme == t.Scheme
		}) {
			k.bad(at+".url", "it is one of the tenant's public host names, which lead here: requests would go in circles; give the primary's own address")
		}
	}
	if (u.ClientCertFile == "") != (u.ClientKeyFile == "") {
		k.bad(at, "client_cert_file and client_key_file belong together: give both")
	}
}

func (k *checker) issuers(t *Tenant, at string) {
	for j, v := range t.Issuers {
		ip := fmt.Sprintf("%s.issuers[%d]", at, j)
		u, err := url.Parse(v)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			k.bad(ip, "it is no issuer identifier: write it as it stands in the primary's metadata, for example https://login.example.com/realms/main")
		case !slices.ContainsFunc(t.Hosts, func(h string) bool {
			return strings.EqualFold(trimPort(h, t.Scheme), trimPort(u.Host, t.Scheme))
		}):
			k.bad(ip, "it is on the host %.64q, which is none of the tenant's: add that to hosts", u.Host)
		}
		if slices.Index(t.Issuers, v) < j {
			k.bad(ip, "it stands twice in the list: remove one")
		}
	}
}

// ParseNetwork reads a network, or an address as the network of one.
func ParseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Unmap().Prefix(a.Unmap().BitLen())
}

func (k *checker) health(h *Health, at string) {
	for _, d := range []struct {
		key string
		v   time.Duration
		min time.Duration
	}{
		{"deadline_min", h.DeadlineMin, 10 * time.Millisecond}, {"deadline_max", h.DeadlineMax, 10 * time.Millisecond},
		{"probe_serving", h.ProbeServing, 100 * time.Millisecond}, {"probe_away", h.ProbeAway, 100 * time.Millisecond},
		{"ramp_step", h.RampStep, 10 * time.Millisecond}, {"probe_deadline", h.ProbeDeadline, 50 * time.Millisecond},
		{"window", h.Window, time.Second}, {"halt_window", h.HaltWindow, 10 * time.Millisecond}, {"max_absence", h.MaxAbsence, time.Second},
	} {
		if d.v < d.min {
			k.bad(at+"."+d.key, "it must be %s or more", d.min)
		}
	}
	if h.DeadlineMin > h.DeadlineMax {
		k.bad(at+".deadline_min", "it is greater than deadline_max: swap them")
	}
	if h.Grants < 3 {
		k.bad(at+".grants", "it must be 3 or more: fewer clients must not be able to take the primary out of service")
	}
	if h.Requesters < 2 {
		k.bad(at+".requesters", "it must be 2 or more: one requester must not be able to take the primary out of service")
	}
	if h.GoodProbes < 1 {
		k.bad(at+".good_probes", "it must be 1 or more")
	}
	if h.RefusedShare < 1 || h.RefusedShare > 100 {
		k.bad(at+".refused_share", "it must be from 1 to 100")
	}
	last := 0
	for _, p := range h.Ramp {
		if p <= last || p > 100 {
			last = -1
			break
		}
		last = p
	}
	if last != 100 {
		k.bad(at+".ramp", "the shares must rise from over 0 and end with 100, for example [10, 25, 50, 100]")
	}
}
