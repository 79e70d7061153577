package serve

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/gateway"
	"understudy/session"
)

const (
	askTime     = 10 * time.Second
	maxDocument = 1 << 20
	wellKnown   = "/.well-known/openid-configuration"
	// clockSlack is how far two clocks may differ before tokens are refused somewhere.
	clockSlack = 30 * time.Second
)

// primary asks one tenant's primary.
func (r *Report) primary(ctx context.Context, t *gateway.Tenant) {
	q := &question{r: r, t: t, http: &http.Client{
		Timeout:       askTime,
		Transport:     &http.Transport{TLSClientConfig: t.TLS, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if len(t.Issuers) == 0 {
		doc, _, err := q.get(ctx, wellKnown)
		switch {
		case q.unreachable(err):
			return
		case err != nil:
			q.find(Warning, "no_issuer", "", fmt.Sprintf("there is no metadata at %s (%s)", wellKnown, err), "name the issuers (issuers) to have them looked at here; others are found when they are first used")
			return
		}
		q.issuer(ctx, doc, "", wellKnown)
		return
	}
	for _, iss := range t.Issuers {
		u, err := url.Parse(iss)
		if err != nil {
			continue // reported with the configuration
		}
		path := strings.TrimSuffix(u.EscapedPath(), "/") + wellKnown
		doc, _, err := q.get(ctx, path)
		switch {
		case q.unreachable(err):
			return
		case err != nil:
			q.find(Wrong, "metadata", iss, fmt.Sprintf("the primary has no metadata at %s: %s", path, err), "see whether the issuer is spelled as the primary spells it, and whether the primary believes X-Forwarded-Host and -Proto from here")
			continue
		}
		q.issuer(ctx, doc, iss, path)
	}
}

// question is what is asked of one primary.
type question struct {
	r       *Report
	t       *gateway.Tenant
	http    *http.Client
	clocked bool
}

func (q *question) find(level, code, issuer, text, mend string) {
	q.r.Findings = append(q.r.Findings, Finding{Level: level, Code: code, Tenant: q.t.Name, Issuer: issuer, Text: text, Mend: mend})
}

// errStatus is an answer that is no document.
type errStatus struct{ status string }

func (e *errStatus) Error() string { return "it answers " + e.status }

// unreachable reports a primary that gives no answer at all.
func (q *question) unreachable(err error) bool {
	var s *errStatus
	if err == nil || errors.As(err, &s) {
		return false
	}
	mend := "see that it runs and can be reached from here; understudy serve starts without it all the same"
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		mend = "see the host name in upstream.url and this machine's DNS"
	case strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls:"):
		mend = "give upstream.ca_file and upstream.server_name so that its certificate can be believed"
	}
	q.find(Wrong, "primary_away", "", fmt.Sprintf("the primary %s does not answer: %s", q.t.Upstream, err), mend)
	return true
}

// get asks for a document.
func (q *question) get(ctx context.Context, path string) (b []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.t.Upstream.String()+path, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, b, err := q.do(req)
	switch {
	case err != nil:
		return nil, 0, err
	case resp.StatusCode != http.StatusOK:
		return nil, resp.StatusCode, &errStatus{resp.Status}
	case len(b) > maxDocument:
		return nil, resp.StatusCode, &errStatus{"with over 1 MiB"}
	}
	return b, resp.StatusCode, nil
}

// do asks as the gateway does, and reads the reply up to one byte more than maxDocument.
func (q *question) do(req *http.Request) (*http.Response, []byte, error) {
	req.Host = q.t.Hosts[0]
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-Forwarded-Host", q.t.Hosts[0])
	req.Header.Set("X-Forwarded-Proto", q.t.Scheme)
	port := map[string]string{"https": "443", "http": "80"}[q.t.Scheme]
	if _, p, err := net.SplitHostPort(q.t.Hosts[0]); err == nil {
		port = p
	}
	req.Header.Set("X-Forwarded-Port", port)
	sent := time.Now()
	resp, err := q.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	q.clock(sent, resp.Header.Get("Date"))
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 && !q.seen("upstream_certificate") {
		q.r.end("primary of "+q.t.Name, resp.TLS.PeerCertificates[0])
		q.find(OK, "upstream_certificate", "", "the primary's certificate is believed", "")
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	return resp, b, err
}

func (q *question) seen(code string) bool {
	return slices.ContainsFunc(q.r.Findings, func(f Finding) bool { return f.Code == code && f.Tenant == q.t.Name })
}

// clock compares the primary's clock with this machine's. The header has whole seconds.
func (q *question) clock(sent time.Time, date string) {
	if q.clocked {
		return
	}
	q.clocked = true
	at, err := http.ParseTime(date)
	if err != nil {
		q.find(Warning, "clock", "", "the primary sends no Date: its clock cannot be compared", "see that both machines' clocks are synchronised")
		return
	}
	took := time.Since(sent)
	off := at.Sub(sent.Add(took / 2)).Round(time.Second)
	if off.Abs() > clockSlack+took {
		q.find(Wrong, "clock", "", fmt.Sprintf("the primary's clock and this machine's differ by %s: the backup's tokens would be refused, or live too long", off.Abs()), "synchronise both (NTP)")
		return
	}
	q.find(OK, "clock", "", fmt.Sprintf("the primary's clock and this machine's differ by less than %s", max(off.Abs(), time.Second)+time.Second), "")
}

// metadata is the part of a discovery document that matters here (OpenID Connect Discovery, section 3).
type metadata struct {
	Issuer  string   `json:"issuer"`
	Token   string   `json:"token_endpoint"`
	JWKS    string   `json:"jwks_uri"`
	Algs    []string `json:"id_token_signing_alg_values_supported"`
	Enc     []string `json:"id_token_encryption_alg_values_supported"`
	Methods []string `json:"token_endpoint_auth_methods_supported"`
}

func (q *question) public(u *url.URL) bool {
	strip := func(h, scheme string) string {
		return strings.ToLower(strings.TrimSuffix(h, map[string]string{"https": ":443", "http": ":80"}[scheme]))
	}
	return slices.ContainsFunc(q.t.Hosts, func(h string) bool { return strip(h, q.t.Scheme) == strip(u.Host, q.t.Scheme) })
}

// issuer looks at one issuer's metadata and keys. want is "" where any issuer is fine.
func (q *question) issuer(ctx context.Context, doc []byte, want, path string) {
	var m metadata
	if err := json.Unmarshal(doc, &m); err != nil {
		q.find(Wrong, "metadata", want, "the metadata at "+path+" is no JSON", "see what the primary sends there")
		return
	}
	id, err := url.Parse(m.Issuer)
	switch {
	case err != nil || id.Host == "":
		q.find(Wrong, "metadata", want, "the metadata at "+path+" names no issuer", "see the primary's configuration")
		return
	case want != "" && m.Issuer != want:
		q.find(Wrong, "issuer", want, fmt.Sprintf("the primary says that its issuer is %q", m.Issuer), "write it so under issuers; where the host or scheme is wrong, let the primary believe X-Forwarded-Host and -Proto, or set its public URL")
		return
	case !q.public(id):
		q.find(Wrong, "issuer", m.Issuer, fmt.Sprintf("the issuer is on the host %s, which is none of the tenant's", id.Host), "add the host to hosts and let it lead here, or set the primary's public URL")
		return
	case strings.TrimSuffix(id.EscapedPath(), "/")+wellKnown != path:
		q.find(Wrong, "issuer", m.Issuer, "the issuer does not belong to the path "+path, "see the primary's configuration")
		return
	}
	q.find(OK, "metadata", m.Issuer, "the metadata is found and names this issuer", "")
	for _, e := range []struct{ name, v string }{{"token_endpoint", m.Token}, {"jwks_uri", m.JWKS}} {
		u, err := url.Parse(e.v)
		switch {
		case e.v == "" || err != nil || u.Host == "":
			q.find(NotProtected, e.name, m.Issuer, e.name+" is missing in the metadata", "see the primary's configuration")
			return
		case !q.public(u):
			q.find(NotProtected, e.name, m.Issuer, fmt.Sprintf("%s is on the host %s, which does not lead here: %s", e.name, u.Host,
				map[string]string{"token_endpoint": "sign-ins would pass by", "jwks_uri": "the backup's keys cannot be published there"}[e.name]),
				"let the primary publish it on a public host name of this tenant, or add the host to hosts and let it lead here")
			return
		}
	}
	q.token(ctx, &m)
	u, _ := url.Parse(m.JWKS)
	b, _, err := q.get(ctx, u.RequestURI())
	if err != nil {
		q.find(NotProtected, "jwks", m.Issuer, "the primary's keys cannot be fetched: "+err.Error(), "see the primary")
		return
	}
	q.keys(b, &m)
}

// token does the exchange with the token endpoint that the gateway probes with. What is no answer to it there would open
// the breaker, and the backup would play beside a primary that is well.
func (q *question) token(ctx context.Context, m *metadata) {
	u, err := url.Parse(m.Token)
	if err != nil {
		return // reported before
	}
	body := "grant_type=urn%3Aunderstudy%3Aprobe"
	if q.t.ProbeClient != "" {
		body += "&client_id=" + url.QueryEscape(q.t.ProbeClient)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.t.Upstream.String()+u.EscapedPath(), strings.NewReader(body))
	if err != nil {
		q.find(Wrong, "token_probe", m.Issuer, "the token endpoint cannot be asked: "+err.Error(), "see the primary's configuration")
		return
	}
	req.GetBody = nil // sent once
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, b, err := q.do(req)
	if err != nil {
		q.find(Wrong, "token_probe", m.Issuer, "the token endpoint does not answer a POST: "+err.Error(), "see the primary, and what stands before it")
		return
	}
	o, _ := session.ParseObject(b)
	code := o.Text("error")
	switch refused := resp.StatusCode >= 400 && resp.StatusCode < 500; {
	case resp.StatusCode == http.StatusTooManyRequests:
		q.find(Warning, "token_probe", m.Issuer, "the token endpoint answers 429: too many requests come from here", "let the primary, and what stands before it, take more from this address; then check again")
	case code == "temporarily_unavailable" || code == "server_error":
		q.find(Wrong, "token_probe", m.Issuer, fmt.Sprintf("the token endpoint says %s (%s)", code, resp.Status), "see the primary: it is ill, and the backup plays")
	case refused && code != "", resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("WWW-Authenticate") != "":
		q.find(OK, "token_probe", m.Issuer, "the token endpoint answers in the protocol's words", "")
	default:
		q.find(Wrong, "token_probe", m.Issuer, fmt.Sprintf("the token endpoint answers %s with %s where an OAuth error in JSON is due: the gateway's probe takes that for a failure, and the backup plays while the primary is well", resp.Status, kind(resp, b)),
			"see what stands before the primary (a proxy, a firewall, an error page) and let POST "+u.EscapedPath()+" through; where the primary does not answer a request without a client so, name one as health.probe_client")
	}
}

// kind names what a reply holds, not its content.
func kind(resp *http.Response, b []byte) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case len(b) == 0:
		return "nothing"
	case err != nil:
		return "something that has no type"
	}
	return fmt.Sprintf("%.40q", t)
}

// symmetric says whether an algorithm signs with a shared secret.
func symmetric(alg string) bool { return strings.HasPrefix(alg, "HS") }

// fits says whether a backup key of this algorithm can stand for a key of the primary's.
func fits(alg string, pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, alg)
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// supports says whether a key can sign with an algorithm that the metadata names. Where that names none, the key must.
func (m *metadata) supports(k *jose.JSONWebKey) bool {
	if len(m.Algs) == 0 {
		return fits(k.Algorithm, k.Key)
	}
	return slices.ContainsFunc(m.Algs, func(alg string) bool {
		return fits(alg, k.Key) && (k.Algorithm == "" || k.Algorithm == alg)
	})
}

// keys looks whether backup keys can stand beside the primary's.
func (q *question) keys(b []byte, m *metadata) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil || len(set.Keys) == 0 {
		q.find(NotProtected, "jwks", m.Issuer, "the primary's key set is empty or no JSON", "see the primary: its own tokens cannot be verified either")
		return
	}
	signing, nameless, fitting := 0, 0, 0
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || k.Use == "enc" || !k.Valid() || !k.IsPublic() {
			continue
		}
		signing++
		if k.KeyID == "" {
			nameless++
		}
		if m.supports(&k) {
			fitting++
		}
	}
	asymmetric := slices.ContainsFunc(m.Algs, func(a string) bool { return !symmetric(a) && a != "none" })
	switch {
	case len(m.Algs) > 0 && !asymmetric:
		q.find(NotProtected, "symmetric_signature", m.Issuer, fmt.Sprintf("ID tokens are signed with %s only, with secrets that only the primary has", strings.Join(m.Algs, ", ")), "let the primary sign with RS256 or ES256")
	case signing == 0:
		q.find(NotProtected, "jwks", m.Issuer, "there is no public signing key in the primary's key set", "let the primary sign with RS256 or ES256")
	case nameless > 0:
		q.find(NotProtected, "no_kid", m.Issuer, fmt.Sprintf("%d of %d signing keys have no kid: clients could not tell the backup's keys from them", nameless, signing), "let the primary publish its keys with a kid and name it in its tokens")
	case fitting == 0 && len(m.Algs) == 0:
		q.find(NotProtected, "algorithms", m.Issuer, "neither id_token_signing_alg_values_supported in the metadata nor a key of the key set says how tokens are signed: no backup key can be made", "let the primary name its algorithms in the metadata, or the alg of each key")
	case fitting == 0:
		q.find(NotProtected, "algorithms", m.Issuer, fmt.Sprintf("none of the %d signing keys is one for an algorithm that the metadata names (id_token_signing_alg_values_supported: %.200s): no backup key can be made that clients take", signing, strings.Join(m.Algs, ", ")), "let the primary name the algorithm that it signs with, or publish the keys of those that it names")
	default:
		q.find(OK, "keys", m.Issuer, fmt.Sprintf("%d signing keys, all with a kid: the backup's can stand beside them", signing), "")
	}
	if slices.ContainsFunc(m.Algs, symmetric) && asymmetric {
		q.find(Note, "symmetric_signature", m.Issuer, "clients that are set to HS256 at the primary are not protected: those secrets are the primary's", "let them use RS256 or ES256")
	}
	if len(m.Enc) > 0 {
		q.find(Note, "id_token_encrypted", m.Issuer, "the primary can encrypt ID tokens; clients for which it does are not protected", "turn ID token encryption off for them; understudy status counts them")
	}
}
