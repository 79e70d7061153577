package gateway

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/flow"
	"understudy/session"
)

// issuer is one issuer of a tenant: its metadata as last found good, and its keys. It is never changed once it is
// published; a change is a copy.
type issuer struct {
	ID       string // the issuer identifier
	at       string // its discovery path
	document []byte // the primary's own, byte for byte
	object   session.Object
	paths    map[string]flow.Endpoint // unescaped path → endpoint
	rawKeys  []byte                   // the primary's key set, byte for byte
	keyset   []json.RawMessage        // its members
	keys     map[string]primaryKey    // by kid
	vanished map[string]vanishedKey   // keys that left the primary's set a short while ago, by kid
	algs     []string                 // algorithms of the primary's signing keys
	fetched  time.Time
	merged   []byte // the published key set
	etag     string // of merged
	docETag  string
	problem  string // why the keys cannot be merged, "" where they are
	ours     []jose.JSONWebKey
	bare     bool // the backup could not be asked for its keys; ours are those of before
}

// primaryKey is a verification key of the primary. It never meets a backup key: the types differ.
type primaryKey struct {
	alg string // "" where the key names none
	pub crypto.PublicKey
}

// vanishedKey is a key that left the primary's set. It is honoured no longer, unless the primary itself still signs
// with it: then its key set is poisoned, and the key is held for a while (design, section 2).
type vanishedKey struct {
	raw   json.RawMessage
	key   primaryKey
	since time.Time
	held  bool
}

// holdTime is how long a vanished key with which the primary still signs is held.
const holdTime = 10 * time.Minute

const wellKnown = "/.well-known/openid-configuration"

// discoveryPath is the path at which an issuer's metadata lies (OpenID Connect Discovery, section 4).
func discoveryPath(iss string) string {
	u, err := url.Parse(iss)
	if err != nil {
		return wellKnown
	}
	return strings.TrimSuffix(u.Path, "/") + wellKnown
}

// endpointMembers are the members of a discovery document that name endpoints.
func endpointMembers() map[string]flow.Endpoint {
	return map[string]flow.Endpoint{
		"token_endpoint": flow.Token, "authorization_endpoint": flow.Authorization,
		"pushed_authorization_request_endpoint": flow.Pushed, "userinfo_endpoint": flow.UserInfo, "introspection_endpoint": flow.Introspection,
		"revocation_endpoint": flow.Revocation, "end_session_endpoint": flow.EndSession, "jwks_uri": flow.JWKS,
	}
}

// parseIssuer parses a discovery document found at a path, and refuses one that must not replace a good copy.
func parseIssuer(t *Tenant, doc []byte, at string) (*issuer, error) {
	o, err := session.ParseObject(doc)
	if err != nil {
		return nil, err
	}
	is := &issuer{ID: o.Text("issuer"), at: at, document: doc, object: o, paths: map[string]flow.Endpoint{}, vanished: map[string]vanishedKey{}}
	u, err := url.Parse(is.ID)
	if err != nil || u.Host == "" {
		return nil, errors.New("issuer is no URL")
	}
	if len(t.Issuers) > 0 && !slices.Contains(t.Issuers, is.ID) {
		return nil, fmt.Errorf("issuer %q is none of the configured ones", is.ID)
	}
	if !t.publicHost(u.Host) {
		return nil, fmt.Errorf("issuer %q is on a host that is none of the tenant's: let the primary see the public host name, or add the host to the tenant's hosts", is.ID)
	}
	if discoveryPath(is.ID) != at {
		return nil, fmt.Errorf("issuer %q does not belong to this path", is.ID)
	}
	for name, e := range endpointMembers() {
		if u, err := url.Parse(o.Text(name)); err == nil && u.Path != "" && t.publicHost(u.Host) {
			is.paths[u.Path] = e // on another host it does not come through here; check reports it
		}
	}
	if u, err := url.Parse(o.Text("token_endpoint")); err != nil || is.paths[u.Path] != flow.Token {
		return nil, errors.New("no token_endpoint on a host of the tenant's")
	}
	is.paths[at] = flow.Discovery
	is.docETag = etag(doc)
	return is, nil
}

// setKeys reads the primary's key set. An empty one is refused. before is the issuer as it was, or nil.
func (is *issuer) setKeys(b []byte, before *issuer, now time.Time) error {
	o, err := session.ParseObject(b)
	if err != nil {
		return err
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(o.Get("keys"), &raw); err != nil || len(raw) == 0 || len(raw) > 100 {
		return errors.New("no keys, or more than 100")
	}
	is.rawKeys, is.keyset, is.keys = b, raw, map[string]primaryKey{}
	byID := map[string]json.RawMessage{}
	for _, r := range raw {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(r); err != nil || k.Use == "enc" || !k.Valid() || !k.IsPublic() {
			continue // not for verifying; it is published as it came
		}
		if k.KeyID == "" {
			is.problem = "a key without kid: clients cannot tell two keys apart"
			continue
		}
		if strings.HasPrefix(k.KeyID, "bk-") {
			return errors.New(`a key id of the primary begins with "bk-", which is the backup's`)
		}
		is.keys[k.KeyID] = primaryKey{k.Algorithm, k.Key}
		byID[k.KeyID] = r
		algs := []string{k.Algorithm}
		if k.Algorithm == "" {
			algs = fitting(is.object.Texts("id_token_signing_alg_values_supported"), k.Key)
		}
		for _, alg := range algs {
			if !slices.Contains(is.algs, alg) {
				is.algs = append(is.algs, alg)
			}
		}
	}
	if len(is.keys) == 0 && is.problem == "" {
		return errors.New("no signing key with a kid")
	}
	if before == nil {
		return nil
	}
	for kid, v := range before.vanished {
		if _, back := is.keys[kid]; !back && now.Sub(v.since) < holdTime {
			is.vanished[kid] = v
		}
	}
	for kid, k := range before.keys {
		if _, there := is.keys[kid]; !there {
			is.vanished[kid] = vanishedKey{raw: before.rawKey(kid), key: k, since: now}
		}
	}
	return nil
}

// rawKey is a key of the set as it came.
func (is *issuer) rawKey(kid string) json.RawMessage {
	for _, r := range is.keyset {
		if o, err := session.ParseObject(r); err == nil && o.Text("kid") == kid {
			return r
		}
	}
	return nil
}

// fitting are the signature algorithms that a key of this type can be used with, out of those supported. An RSA key
// that names none is taken for the first one of its kind, so that there is one backup key and no other algorithm.
func fitting(supported []string, pub crypto.PublicKey) []string {
	for _, alg := range supported {
		if algFits(alg, pub) {
			return []string{alg}
		}
	}
	return nil
}

// merge makes the published set: the primary's keys as they came, those held, and the backup's.
func (is *issuer) merge(ours []jose.JSONWebKey, now time.Time) error {
	set := slices.Clone(is.keyset)
	for _, kid := range slices.Sorted(maps.Keys(is.vanished)) {
		if v := is.vanished[kid]; v.held && now.Sub(v.since) < holdTime {
			set = append(set, v.raw)
		}
	}
	if is.problem == "" {
		for _, k := range ours {
			if _, ok := is.keys[k.KeyID]; ok {
				return fmt.Errorf("key id %s is the primary's too", k.KeyID)
			}
			b, err := k.MarshalJSON()
			if err != nil {
				return err
			}
			set = append(set, b)
		}
	}
	b, err := json.Marshal(map[string]any{"keys": set})
	if err != nil {
		return err
	}
	is.merged, is.etag = b, etag(b)
	return nil
}

func etag(b []byte) string {
	h := sha256.Sum256(b)
	return `"` + base64.RawURLEncoding.EncodeToString(h[:12]) + `"`
}

// tokenPath is the request URI of the token endpoint.
func (is *issuer) tokenPath() string {
	u, err := url.Parse(is.object.Text("token_endpoint"))
	if err != nil {
		return ""
	}
	return u.RequestURI()
}
