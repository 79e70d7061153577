// Package config is the configuration of an understudy: one YAML file, the environment over it, flags over both.
//
// It owns the meaning of every setting and says of a wrong one where it stands and what to do. It holds no secret: a
// secret is always the name of a file. It refuses unknown keys. It may not import any other package of this program;
// serve turns a Config into running parts.
//
// docs/configuration.md is made from the comments of the structs in this file (go test ./config -run Manual -update).
package config

import "time"

// Roles of a process.
const (
	RoleAll     = "all"
	RoleGateway = "gateway"
	RoleBackup  = "backup"
)

// Config is the whole file. Every setting may be left out but for the tenants.
type Config struct {
	// What this process runs: `all` for the gateway and the backup, `gateway` for the gateway alone (backup.url says
	// where the backup is), `backup` for the backup alone (backup.listen says where it listens). Default: `all`.
	Role string `yaml:"role"`

	// Directory of everything that must not be forgotten: records, marks, signing keys, metadata, the sign-in log. Only
	// this program may read it (mode 0700). Relative paths in this file begin at the working directory. Default: `understudy-data`.
	DataDir string `yaml:"data_dir"`

	// File with the deployment's sealing key: 32 or more random bytes. It must not lie in the data directory, so that
	// whoever steals that can open nothing. Made with mode 0600 where it is missing and the store is new; back it up apart
	// from the data. Gateways and backups of one deployment share it. Default: the data directory's name with `.key` behind it.
	SealingKeyFile string `yaml:"sealing_key_file"`

	// File with the key that encrypts the backup's signing keys: 32 or more random bytes, outside the data directory.
	// Default: derived from the sealing key.
	KeyEncryptionKeyFile string `yaml:"key_encryption_key_file"`

	// Where sign-in traffic arrives.
	Listeners []Listener `yaml:"listeners"`

	// Path on the traffic listeners that answers a load balancer, for any host name and for HTTP/1.0 without one. It says
	// that this process serves, never whether the primary does. Default: `/.understudy/health`.
	HealthPath string `yaml:"health_path"`

	// The admin listener over TCP. The commands use a unix socket in the data directory and need none.
	Admin Admin `yaml:"admin"`

	// The sign-in log.
	Audit Audit `yaml:"audit"`

	// What the process says of itself, on standard error.
	Log Log `yaml:"log"`

	// How gateway and backup reach each other where they are separate processes.
	Backup Backup `yaml:"backup"`

	// The primaries, each with the names under which it is known. At least one for the roles `all` and `gateway`.
	Tenants []Tenant `yaml:"tenants"`
}

// Listener is one address for sign-in traffic.
type Listener struct {
	// Address and port, for example `:443` or `127.0.0.1:8080`. A socket that the service manager passed is used where
	// its address is the same.
	Address string `yaml:"address"`

	// Certificate of the public host names. The files are read again when they change. Without it the listener speaks
	// plain HTTP.
	TLS Certificate `yaml:"tls"`

	// Ask clients for a certificate (mutual TLS, RFC 8705); a tenant's `client_certificates` says what becomes of it. Browsers ask
	// their users, so give such clients an address of their own. Default: false.
	AskCertificate bool `yaml:"ask_certificate"`

	// Plain HTTP on an address that is not loopback: only where something in front ends TLS, and nobody else can reach
	// this port. Default: false.
	AllowPlain bool `yaml:"allow_plain"`
}

// Certificate is a certificate with its key, in PEM files.
type Certificate struct {
	// The certificate and its chain (PEM).
	CertFile string `yaml:"cert_file"`

	// Its private key (PEM), readable only by this program.
	KeyFile string `yaml:"key_file"`
}

// Admin is the admin API, the metrics and the health endpoints over TCP. It always speaks TLS and asks for a token.
type Admin struct {
	// Address and port, for example `127.0.0.1:9443`. Default: none, there is only the unix socket.
	Listen string `yaml:"listen"`

	// Its certificate; required with `listen`.
	TLS Certificate `yaml:"tls"`

	// File with the bearer token that every request must carry, but for those to the health endpoints; at least 16
	// characters. Required with `listen`.
	TokenFile string `yaml:"token_file"`
}

// Audit is the sign-in log.
type Audit struct {
	// Its directory. Default: `audit` in the data directory.
	Dir string `yaml:"dir"`

	// Days after which files are removed; -1: never. Default: 90.
	KeepDays int `yaml:"keep_days"`

	// Bytes after which a new file is begun within a day. Default: 268435456.
	MaxFileBytes int64 `yaml:"max_file_bytes"`
}

// Log is the process's own log.
type Log struct {
	// `debug`, `info`, `warn` or `error`. Default: `info`.
	Level string `yaml:"level"`

	// `text` or `json`. Default: `text`.
	Format string `yaml:"format"`
}

// Backup is the way between gateway and backup where they are separate processes: HTTP/2 with mutual TLS.
type Backup struct {
	// Address on which the backup listens for its gateways (role `backup`, and `all` where other gateways use it).
	Listen string `yaml:"listen"`

	// URL of the backup, for example `https://backup.example.net:7443` (role `gateway`).
	URL string `yaml:"url"`

	// DNS names or URIs (SPIFFE IDs) of which a gateway's certificate must carry one. Required with `listen`: another
	// certificate of the same authority is no gateway.
	AllowedNames []string `yaml:"allowed_names"`

	// Bytes that may wait on the gateway's disk while the backup does not answer (role `gateway`). The oldest of what was
	// learned goes first, marks never. Default: 268435456.
	SpoolMaxBytes int64 `yaml:"spool_max_bytes"`

	// This side's certificate and key, and the authority that vouches for the other side. Required with `listen` or `url`.
	TLS MutualTLS `yaml:"tls"`
}

// MutualTLS is a certificate with its key, and who vouches for the peer's.
type MutualTLS struct {
	// This side's certificate and chain (PEM).
	CertFile string `yaml:"cert_file"`

	// Its private key (PEM), readable only by this program.
	KeyFile string `yaml:"key_file"`

	// Certificates of the authority that signs the peers' certificates (PEM); no other peer is spoken to.
	CAFile string `yaml:"ca_file"`

	// Name in the backup's certificate, where it is another than the URL's host (role `gateway`).
	ServerName string `yaml:"server_name"`
}

// Tenant is one primary and the names under which it is known.
type Tenant struct {
	// Name of the tenant in logs, metrics and commands: letters, digits, `-`, `_` and `.`. What is remembered hangs on it:
	// another name is another tenant. Default: `default` where there is only one.
	Name string `yaml:"name"`

	// What people know the sign-in by, on the pages that they see while the primary is away. Default: the host name.
	DisplayName string `yaml:"display_name"`

	// Whom they may turn to: a mail address, a URL, or a short text. Default: nobody is named.
	Contact string `yaml:"contact"`

	// The primary's public host names, which lead here, with the port where it is not the scheme's. The first is the
	// name by which the primary is asked for its metadata.
	Hosts []string `yaml:"hosts"`

	// Scheme of the public URLs, `https` or `http`. Default: `https` where a listener has a certificate or `trusted_proxies` is
	// set, else `http`.
	Scheme string `yaml:"scheme"`

	// The primary itself.
	Upstream Upstream `yaml:"upstream"`

	// Issuer identifiers of the primary, as its metadata gives them. Default: those whose metadata the primary has on one of
	// the host names, found when they are first used.
	Issuers []string `yaml:"issuers"`

	// Addresses or networks of proxies in front whose `X-Forwarded-*` headers count, for example `10.0.0.0/8`. Default: none.
	TrustedProxies []string `yaml:"trusted_proxies"`

	// What the tenant may use.
	Limits Limits `yaml:"limits"`

	// How it is found out whether the primary serves.
	Health Health `yaml:"health"`

	// Share of healthy requests, in percent, for which the backup's answer is computed beside the primary's and compared;
	// 0 turns it off. Default: 5.
	ShadowPercent *float64 `yaml:"shadow_percent"`

	// What is known of clients beside what is learned. Default: nothing.
	Clients []Client `yaml:"clients"`

	// Certificates with which clients prove themselves, or to which tokens are bound (RFC 8705). Default: none are taken.
	ClientCertificates ClientCertificates `yaml:"client_certificates"`

	// Names of the cookies that carry the primary's sessions. Browsers go on being signed in while the primary is away by what
	// they hold: these cookies together with one of the gateway's own. Default: those of Keycloak, oidc-provider, SimpleSAMLphp,
	// LemonLDAP::NG, Hydra, Dex, Shibboleth and ADFS. An empty list continues no browser.
	SessionCookies []string `yaml:"session_cookies"`

	// Whether a sign-in is refused that was ended (by a logout or a revocation) with the primary's knowledge, although the
	// primary goes on approving it. Default: false, which passes it with an alarm. What was ended while the primary was away,
	// or by an operator here, is always refused.
	RefuseRevoked bool `yaml:"refuse_revoked"`
}

// Client is one of the primary's clients.
type Client struct {
	// Its client_id.
	ID string `yaml:"id"`

	// What people are shown of it where sign-in is limited and they can open it (OpenID Connect Registration: `client_name`); at most 80
	// characters. Default: the host name where it starts, else its client_id.
	ClientName string `yaml:"client_name"`

	// Where it starts (`client_uri`), for the same: `https`, or `http` on loopback. Default: the origin of the redirect URI that the primary
	// approved, where that is a web page.
	ClientURI string `yaml:"client_uri"`

	// File with its registered public keys, a JWK Set (RFC 7517): a client that proves itself with `private_key_jwt` is not
	// protected without them. With `self_signed_tls_client_auth` they name its certificates; without them, the one is taken that
	// the primary took.
	JWKSFile string `yaml:"jwks_file"`

	// URL of its registered public keys instead, as the primary knows it: `https`, or `http` on loopback. Redirects are not
	// followed. The last good answer is kept in the data directory, for when neither the client nor the primary is there.
	JWKSURI string `yaml:"jwks_uri"`

	// URLs of its signed request objects (RFC 9101), where it asks with a `request_uri`: `https`, or `http` on loopback, as the
	// primary knows them, without a fragment. One that ends in `/*` stands for every name of letters, digits, `.`, `_`, `~` and `-`
	// there. Nothing is fetched from any other place. This gateway reads each object too, perhaps before the primary does: it must be
	// there for both. Its keys must be known. Default: its requests by reference are not protected.
	RequestURIs []string `yaml:"request_uris"`

	// File with its secret, where it signs its assertions with that: a client that proves itself with `client_secret_jwt` is not
	// protected without. One line break at the end is no part of it; readable only by this program.
	SecretFile string `yaml:"secret_file"`

	// Where the client is told of logouts over the back channel (OpenID Connect Back-Channel Logout): `https`, or `http` on
	// loopback. The process that holds the keys posts there, and to no other place; with the roles apart its file names the tenant
	// and the client too. Default: it is not told.
	BackchannelLogoutURI string `yaml:"backchannel_logout_uri"`

	// Whether the client wants to know which session ended: one that cannot be named is then not told. Default: false.
	BackchannelLogoutSessionRequired bool `yaml:"backchannel_logout_session_required"`

	// What the page after a logout loads in a hidden frame (OpenID Connect Front-Channel Logout): `https`, or `http` on loopback.
	// Default: none.
	FrontchannelLogoutURI string `yaml:"frontchannel_logout_uri"`

	// Whether the client wants `iss` and `sid` with that. It is taken as it stands in a client's registration and changes nothing:
	// they are always given. Default: false.
	FrontchannelLogoutSessionRequired bool `yaml:"frontchannel_logout_session_required"`
}

// ClientCertificates says where the certificates of clients come from, and how the primary gets them. TLS ends here: the primary
// sees a certificate only in a header, and nobody but this gateway may be able to reach it there.
type ClientCertificates struct {
	// Certificates of the authorities that vouch for the clients' certificates (PEM). One for which none of them does is not
	// handed on, unless a client registered it (`clients`). Default: they are taken as they come, and the primary judges; then a
	// renewed certificate is known only when the primary has taken it.
	CAFile string `yaml:"ca_file"`

	// Header in which the `trusted_proxies` forward a client's certificate. From anybody else it is dropped. Default: none do.
	ProxyHeader string `yaml:"proxy_header"`

	// How they write it: `nginx` (percent-encoded PEM, `$ssl_client_escaped_cert`), `envoy` (`X-Forwarded-Client-Cert` with its
	// `Cert`, as the nearest proxy saw it) or `rfc9440`. Default: `rfc9440`.
	ProxyFormat string `yaml:"proxy_format"`

	// Header in which the primary reads it, for example `Client-Cert`. Required: without, the primary sees none.
	PrimaryHeader string `yaml:"primary_header"`

	// How the primary reads it: `nginx` or `rfc9440`. Default: `rfc9440`.
	PrimaryFormat string `yaml:"primary_format"`
}

// Upstream is where the primary really is.
type Upstream struct {
	// Scheme and host, for example `https://keycloak.internal:8443`; no path, paths pass as they come.
	URL string `yaml:"url"`

	// Certificates of the authority that signs the primary's certificate (PEM). Default: the system's.
	CAFile string `yaml:"ca_file"`

	// Name that is asked for and must be in the primary's certificate. Default: the host of `url`.
	ServerName string `yaml:"server_name"`

	// Certificate with which the gateway shows itself to the primary (PEM).
	ClientCertFile string `yaml:"client_cert_file"`

	// Its private key (PEM), readable only by this program.
	ClientKeyFile string `yaml:"client_key_file"`
}

// Limits bound what a tenant may use of this process.
type Limits struct {
	// Concurrent requests to the primary; beyond it clients get 503 with Retry-After. Default: 1000.
	InFlight int `yaml:"in_flight"`
}

// Health says how it is found out whether the primary serves. Durations are written `500ms`, `5s`, `1m`.
type Health struct {
	// Bounds of the wait for a reply where the backup could answer; between them it follows the primary's own latency.
	// Default: 500ms.
	DeadlineMin time.Duration `yaml:"deadline_min"`

	// The upper bound. Default: 5s.
	DeadlineMax time.Duration `yaml:"deadline_max"`

	// Time between probes while the primary serves. Default: 5s.
	ProbeServing time.Duration `yaml:"probe_serving"`

	// Time between probes while it does not. Default: 500ms.
	ProbeAway time.Duration `yaml:"probe_away"`

	// When a probe has failed. Default: 2s.
	ProbeDeadline time.Duration `yaml:"probe_deadline"`

	// The client_id that probes name, for a primary that answers a nameless probe in a way that is no answer. A client made for
	// it and of no use otherwise. Default: none.
	ProbeClient string `yaml:"probe_client"`

	// How many distinct grants must fail before the breaker opens without a failed probe; at least 3. Default: 3.
	Grants int `yaml:"grants"`

	// How many distinct requesters these must come from; at least 2. Default: 3.
	Requesters int `yaml:"requesters"`

	// How long a failure counts. Default: 1m.
	Window time.Duration `yaml:"window"`

	// How many probes in a row must be good before traffic returns. Default: 3.
	GoodProbes int `yaml:"good_probes"`

	// Shares of traffic, in percent, that go back to the primary step by step; rising, the last is 100. Default: 10, 25, 50, 100.
	Ramp []int `yaml:"ramp"`

	// How long a step lasts. Default: 3.5s.
	RampStep time.Duration `yaml:"ramp_step"`

	// Share of returning sessions, in percent, whose refusal by the primary halts the ramp. Default: 20.
	RefusedShare int `yaml:"refused_share"`

	// How long there must be no such refusal for a halted ramp to go on by itself. Default: 30s.
	HaltWindow time.Duration `yaml:"halt_window"`

	// How long this process may have been away for the time at which it last saw the primary serve to be believed. Default: 1h.
	MaxAbsence time.Duration `yaml:"max_absence"`
}
