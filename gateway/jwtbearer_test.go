package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/audit"
	"understudy/idptest"
	"understudy/session"
)

const (
	jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	apiScope  = "api openid profile offline_access"
)

// serviceRig is an oidc-provider with services that ask on behalf of who called them.
type serviceRig struct {
	*rig
	op  *idptest.OIDCProvider
	dir string          // its own
	key jose.JSONWebKey // of the provider's own: what it signs is as good as an access token of its own
}

func newServiceRig(t *testing.T) *serviceRig {
	t.Helper()
	if err := idptest.InstallNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := must(idptest.FreePort())
	dir := t.TempDir()
	op, err := idptest.StartOIDCProvider(t.Context(), dir, idptest.OIDCProviderOptions{Issuer: fmt.Sprintf("http://127.0.0.1:%d", port), AccessTokens: "jwt"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Kill)
	var secrets struct {
		JWKS jose.JSONWebKeySet `json:"jwks"`
	}
	must(0, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "secrets.json"))), &secrets))
	return &serviceRig{newRigAt(t, port, op.URL()), op, dir, secrets.JWKS.Keys[0]}
}

// assertion is one to be: what an access token of the provider's says that the single-page application has for the service "api".
type assertion struct {
	header map[jose.HeaderKey]any
	claims map[string]any
	key    any
	alg    jose.SignatureAlgorithm
}

// assert signs an assertion, with the provider's own key where nobody changes that.
func (s *serviceRig) assert(change ...func(*assertion)) string {
	s.t.Helper()
	now := time.Now()
	a := &assertion{
		header: map[jose.HeaderKey]any{"typ": "at+jwt", "kid": s.key.KeyID}, key: s.key.Key, alg: jose.RS256,
		claims: map[string]any{
			"iss": s.url, "sub": "alice", "aud": "https://api.example.test", "client_id": "spa", "scope": "api profile", "sid": "sid-of-alice", "acr": "2",
			"amr": []string{"pwd", "otp"}, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		},
	}
	for _, c := range change {
		c(a)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: a.alg, Key: a.key}, &jose.SignerOptions{ExtraHeaders: a.header})
	if err != nil {
		s.t.Fatal(err)
	}
	return must(must(signer.Sign(must(json.Marshal(a.claims)))).CompactSerialize())
}

// says is an assertion that says something else; nil: it does not say.
func says(name string, v any) func(*assertion) {
	return func(a *assertion) {
		a.claims[name] = v
		if v == nil {
			delete(a.claims, name)
		}
	}
}

// ask asks as the service "api" for a token for who an assertion is of.
func (s *serviceRig) ask(assertion string, change ...func(url.Values)) *tokens {
	s.t.Helper()
	form := url.Values{
		"grant_type": {jwtBearer}, "requested_token_use": {"on_behalf_of"}, "assertion": {assertion}, "scope": {apiScope},
		"client_id": {"api"}, "client_secret": {"api-secret"},
	}
	for _, c := range change {
		c(form)
	}
	return s.post(form)
}

func (s *serviceRig) post(form url.Values) *tokens {
	s.t.Helper()
	resp, err := http.PostForm(s.url+"/token", form)
	if err != nil {
		return &tokens{Error: "transport", Description: err.Error()}
	}
	defer resp.Body.Close()
	k := &tokens{status: resp.StatusCode}
	if err := json.NewDecoder(resp.Body).Decode(k); err != nil {
		k.Error = "not JSON"
	}
	return k
}

// signIn signs somebody in at the single-page application whose calls the service takes.
func (s *serviceRig) signIn(user string) *tokens {
	s.t.Helper()
	verifier := rand43()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {"spa"}, "response_type": {"code"}, "scope": {"openid offline_access api"}, "prompt": {"consent"}, "state": {"s"},
		"redirect_uri": {callback}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	at, err := (&idptest.Browser{}).Visit(s.t.Context(), s.url+"/auth?"+q.Encode(), callback, map[string]string{"login": user, "password": "pw"})
	if err != nil {
		s.t.Fatal(err)
	}
	k := s.post(url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"spa"}, "code_verifier": {verifier}})
	if k.RefreshToken == "" {
		s.t.Fatalf("sign-in: %v", k)
	}
	s.learnedAt(s.url, k.RefreshToken)
	return k
}

// renews asks for another access token with a refresh token.
func (s *serviceRig) renews(client, refreshToken string) *tokens {
	f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "client_id": {client}}
	if client != "spa" {
		f.Set("client_secret", client+"-secret")
	}
	return s.post(f)
}

// served checks that a token is there, signed by the backup or by the primary.
func served(t *testing.T, what string, k *tokens, byBackup bool) {
	t.Helper()
	if k.AccessToken == "" || k.IDToken == "" || strings.HasPrefix(kid(k.AccessToken), "bk-") != byBackup || k.byBackup() != byBackup {
		t.Errorf("%s: %v, access token by %q", what, k, kid(k.AccessToken))
	}
}

// A service goes on asking on behalf of people who call it, with the primary's tokens and with those that the backup gave their
// applications meanwhile, and what it was given goes on.
func TestOnBehalfOf(t *testing.T) {
	s := newServiceRig(t)
	bob, alice := s.signIn("bob"), s.signIn("alice")
	was := s.ask(bob.AccessToken)
	served(t, "the primary", was, false)
	if was.RefreshToken == "" {
		t.Fatalf("the primary: %v", was)
	}
	waitFor(t, "it is learned", func() bool { return s.learnedFlow("jwt_bearer") > 1 })
	s.learnedAt(s.url, was.RefreshToken)
	again := s.ask(bob.AccessToken) // at once: what it gives beside is another family
	s.learnedAt(s.url, again.RefreshToken)
	s.op.Kill()

	now := s.ask(bob.AccessToken)
	served(t, "the primary's token", now, true)
	if now.RefreshToken != "" {
		t.Error("the backup begins a family that the primary does not know")
	}
	for _, n := range []string{"sub", "aud", "client_id", "scope", "iss"} {
		if a, b := claimOf(strings.Split(was.AccessToken, ".")[1], n), claimOf(strings.Split(now.AccessToken, ".")[1], n); a == "" || a != b {
			t.Errorf("%s is %q, the primary's %q", n, b, a)
		}
	}
	s.line(t, "the answer", func(e audit.Entry) bool {
		return e.Flow == "jwt_bearer" && e.Client == "api" && e.Decision == "issued" && e.Subject == "bob"
	})
	served(t, "what it was given", s.renews("api", was.RefreshToken), true)
	served(t, "what it was given then", s.renews("api", again.RefreshToken), true)
	own := s.renews("spa", bob.RefreshToken)
	served(t, "the application's", own, true)
	served(t, "the backup's token", s.ask(own.AccessToken), true)
	alices := s.renews("spa", alice.RefreshToken)
	for what, k := range map[string]string{"somebody for whom it never asked": alice.AccessToken, "the same, by the backup": alices.AccessToken, "an ID token": own.IDToken} {
		if k := s.ask(k); k.AccessToken != "" || k.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %v", what, k)
		}
	}
	s.restart()
	served(t, "after a restart", s.ask(bob.AccessToken), true)
	served(t, "after a restart, the backup's", s.ask(own.AccessToken), true)

	t.Run("a token that was revoked", func(t *testing.T) {
		form := url.Values{"token": {bob.AccessToken}, "client_id": {"spa"}}
		resp, err := http.PostForm(s.url+"/token/revocation", form)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", resp, err)
		}
		resp.Body.Close()
		if k := s.ask(bob.AccessToken); k.Error != "invalid_grant" {
			t.Errorf("%v", k)
		}
		served(t, "another token of the same person", s.ask(own.AccessToken), true)
	})
	t.Run("the session it came of was ended", func(t *testing.T) {
		resp, err := http.PostForm(s.url+"/token/revocation", url.Values{"token": {bob.RefreshToken}, "client_id": {"spa"}})
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", resp, err)
		}
		resp.Body.Close()
		if k := s.ask(own.AccessToken); k.Error != "invalid_grant" {
			t.Errorf("%v", k)
		}
		s.line(t, "the refusal", func(e audit.Entry) bool { return e.Flow == "jwt_bearer" && e.Rule == "revoked" })
	})

	if err := s.op.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.back()
	n := s.learnedFlow("jwt_bearer")
	served(t, "the primary is back", s.ask(alice.AccessToken), false)
	waitFor(t, "it is learned", func() bool { return s.learnedFlow("jwt_bearer") > n })
	served(t, "a token of the backup's, which the primary does not know", s.ask(alices.AccessToken), true)
	if k := s.ask(alices.AccessToken, func(f url.Values) { f.Add("scope", "email") }); k.AccessToken != "" || k.status != http.StatusServiceUnavailable {
		t.Errorf("a token of the backup's for which it cannot answer: %v", k)
	}
	s.line(t, "the same", func(e audit.Entry) bool { return e.Rule == "own_token" && e.Trigger == "repeated_parameters" })
	if k := s.ask(bob.AccessToken); k.AccessToken != "" || k.Error != "invalid_grant" {
		t.Errorf("the primary has not heard that it was revoked: %v", k)
	}
	served(t, "what it was given, at the primary", s.renews("api", again.RefreshToken), false)
}

// What must not be exchanged while the primary is dead. Each assertion is signed by the primary's own key where nothing else is
// said: whoever has one for something else has no more.
func TestOnBehalfOfAttacks(t *testing.T) {
	s := newServiceRig(t)
	if k := s.ask(s.assert()); k.AccessToken == "" {
		t.Fatalf("the primary: %v", k)
	}
	foreign := must(rsa.GenerateKey(rand.Reader, 2048))
	// The primary trusts a partner too.
	plain := func(f url.Values) { f.Del("requested_token_use") }
	partners := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: foreign.Public(), KeyID: "p", Algorithm: "RS256", Use: "sig"}}}))
	must(0, os.WriteFile(filepath.Join(s.dir, "partner.json"), partners, 0o600))
	theirs := func() string {
		return s.assert(func(a *assertion) {
			a.key, a.header["kid"], a.claims["iss"], a.claims["sub"] = foreign, "p", "https://partner.example", "bob"
		})
	}
	if k := s.ask(theirs(), plain); k.AccessToken == "" {
		t.Fatalf("the primary does not take its partner's: %v", k)
	}
	for _, client := range []string{"api", "api2"} { // both are known to be approved
		f := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {client + "-secret"}, "scope": {"api"}}
		if k := s.post(f); k.AccessToken == "" {
			t.Fatalf("%v", k)
		}
	}
	waitFor(t, "it is learned", func() bool { return s.learnedFlow("jwt_bearer") > 1 && s.learnedFlow("client_credentials") > 1 })
	s.op.Kill()
	if k := s.ask(s.assert()); !k.byBackup() {
		t.Fatalf("another assertion that says the same: %v", k)
	}

	set := func(name, v string) func(url.Values) { return func(f url.Values) { f.Set(name, v) } }
	with := func(c ...func(*assertion)) func() *tokens { return func() *tokens { return s.ask(s.assert(c...)) } }
	asking := func(c ...func(url.Values)) func() *tokens { return func() *tokens { return s.ask(s.assert(), c...) } }
	parts := strings.Split(s.assert(), ".")
	with64 := func(header string) string { return base64.RawURLEncoding.EncodeToString([]byte(header)) }
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(&s.key.Key.(*rsa.PrivateKey).PublicKey))})
	mine := jose.JSONWebKey{Key: foreign.Public(), KeyID: s.key.KeyID, Algorithm: "RS256"}
	ours := must(s.backup.PublicKeys(t.Context(), "default", s.url, nil))[0].KeyID
	unix := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, x := range map[string]struct {
		ask        func() *tokens
		rule, note string // what the log names, and beside that
		status     int
	}{
		"another issuer":                {with(says("iss", "https://evil.example")), "primary_away", "subject_issuer", 503},
		"another tenant's issuer":       {with(says("iss", s.url+"/other")), "primary_away", "subject_issuer", 503},
		"a third party's assertion":     {func() *tokens { return s.ask(theirs(), plain) }, "primary_away", "subject_issuer", 503},
		"signed by the client itself":   {with(says("iss", "api"), says("sub", "api"), func(a *assertion) { a.key = foreign }), "primary_away", "subject_issuer", 503},
		"expired":                       {with(says("exp", unix(-time.Second))), "subject_token_refused", "", 400},
		"without an end":                {with(says("exp", nil)), "subject_token_refused", "", 400},
		"not yet valid":                 {with(says("nbf", unix(time.Minute))), "subject_token_refused", "", 400},
		"a key of nobody's":             {with(func(a *assertion) { a.key = foreign }), "subject_token_refused", "", 400},
		"a key that the set has not":    {with(func(a *assertion) { a.key, a.header["kid"] = foreign, "unknown" }), "subject_token_refused", "", 400},
		"the backup's key, by name":     {with(func(a *assertion) { a.key, a.header["kid"] = foreign, ours }), "subject_token_refused", "", 400},
		"the primary's key as ours":     {with(func(a *assertion) { a.header["kid"] = ours }), "subject_token_refused", "", 400},
		"no key named":                  {with(func(a *assertion) { delete(a.header, "kid") }), "subject_token_refused", "", 400},
		"another algorithm of that key": {with(func(a *assertion) { a.alg = jose.PS256 }), "subject_token_refused", "", 400},
		"HS256 with the public key":     {with(func(a *assertion) { a.alg, a.key = jose.HS256, public }), "subject_token_refused", "", 400},
		"alg none": {func() *tokens {
			return s.ask(with64(`{"alg":"none","typ":"at+jwt","kid":"`+s.key.KeyID+`"}`) + "." + parts[1] + ".")
		}, "subject_token_refused", "", 400},
		"alg none, signed": {func() *tokens {
			return s.ask(with64(`{"alg":"none","typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2])
		}, "subject_token_refused", "", 400},
		"a key that it brings (jwk)":    {with(func(a *assertion) { a.key, a.header["jwk"] = foreign, mine }), "subject_token_refused", "", 400},
		"a key that it points to (jku)": {with(func(a *assertion) { a.key, a.header["jku"] = foreign, "https://evil.example/jwks" }), "subject_token_refused", "", 400},
		"other claims": {func() *tokens {
			return s.ask(parts[0] + "." + strings.Split(s.assert(says("jti", "x")), ".")[1] + "." + parts[2])
		}, "subject_token_refused", "", 400},
		"a logout token":                 {with(says("events", map[string]any{})), "subject_token_refused", "", 400},
		"of another class":               {with(func(a *assertion) { a.header["typ"] = "JWT" }), "no_record", "", 503},
		"somebody else":                  {with(says("sub", "bob")), "no_record", "", 503},
		"nobody":                         {with(says("sub", nil)), "primary_away", "subject_issuer", 503},
		"for another audience":           {with(says("aud", "https://other.example.test")), "no_record", "", 503},
		"for one more audience":          {with(says("aud", []string{"https://api.example.test", "https://other.example.test"})), "no_record", "", 503},
		"issued to another client":       {with(says("client_id", "evil")), "no_record", "", 503},
		"azp of another client":          {with(says("azp", "evil")), "no_record", "", 503},
		"another session":                {with(says("sid", "another")), "no_record", "", 503},
		"no session":                     {with(says("sid", nil)), "no_record", "", 503},
		"a narrower scope":               {with(says("scope", "api")), "no_record", "", 503},
		"a weaker acr":                   {with(says("acr", "1")), "no_record", "", 503},
		"no acr":                         {with(says("acr", nil)), "no_record", "", 503},
		"weaker amr":                     {with(says("amr", []string{"pwd"})), "no_record", "", 503},
		"an actor":                       {with(says("act", map[string]string{"sub": "evil"})), "no_record", "", 503},
		"who may act":                    {with(says("may_act", map[string]string{"sub": "api"})), "no_record", "", 503},
		"bound to a key":                 {with(says("cnf", map[string]string{"jkt": "x"})), "primary_away", "cnf", 503},
		"more scope":                     {asking(set("scope", apiScope+" email")), "no_record", "", 503},
		"less scope":                     {asking(set("scope", "api")), "no_record", "", 503},
		"another resource":               {asking(set("resource", "https://other.example.test")), "no_record", "", 503},
		"another audience asked for":     {asking(set("audience", "web")), "no_record", "", 503},
		"not on behalf of":               {asking(func(f url.Values) { f.Del("requested_token_use") }), "no_record", "", 503},
		"another token type":             {asking(set("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")), "no_record", "", 503},
		"a claims challenge":             {asking(set("claims", `{"access_token":{"nbf":{"essential":true,"value":"1"}}}`)), "no_record", "", 503},
		"a scope twice":                  {asking(func(f url.Values) { f.Add("scope", "email") }), "primary_away", "repeated_parameters", 503},
		"two assertions":                 {asking(func(f url.Values) { f.Add("assertion", s.assert(says("sub", "bob"))) }), "primary_away", "repeated_parameters", 503},
		"another client":                 {asking(set("client_id", "api2"), set("client_secret", "api2-secret")), "no_record", "", 503},
		"another client with the secret": {asking(set("client_id", "api2")), "primary_away", "", 503},
		"a wrong secret":                 {asking(set("client_secret", "wrong")), "no_record", "", 503},
		"no secret":                      {asking(func(f url.Values) { f.Del("client_secret") }), "primary_away", "no_client_secret", 503},
		"no client":                      {asking(func(f url.Values) { f.Del("client_secret"); f.Del("client_id") }), "primary_away", "no_client", 503},
		"as a token exchange": {asking(func(f url.Values) {
			f.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
			f.Set("subject_token", f.Get("assertion"))
			f.Set("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
			f.Del("assertion")
		}), "no_record", "", 503},
	} {
		t.Run(name, func(t *testing.T) {
			n := len(s.signIns())
			k := x.ask()
			if k.AccessToken != "" || k.status != x.status {
				t.Errorf("%v, want %d", k, x.status)
			}
			if k.status == 400 && k.Error != "invalid_grant" { // RFC 7523, section 3.1
				t.Errorf("%v", k)
			}
			s.line(t, x.rule, func(e audit.Entry) bool {
				if n--; n >= 0 { // of another one
					return false
				}
				return e.Decision == "refused" && e.Rule == x.rule && (x.note == "" || e.Trigger == x.note)
			})
		})
	}
	if k := s.ask(s.assert()); !k.byBackup() {
		t.Errorf("after all that: %v", k)
	}
	t.Run("the coverage table says why", func(t *testing.T) {
		want := "api | jwt_bearer | client_secret_post | 1 of 2 | 1 subject_issuer"
		waitFor(t, want, func() bool { return slices.Contains(inShort(s.status().Tenants[0].Coverage.Applications), want) })
	})

	// An end that shows only in the assertion: its record names no session, and was approved since.
	before := s.assert(says("iat", unix(-time.Minute)))
	ends := func(what session.What, kind, id string, at time.Time) {
		t.Helper()
		m := session.Mark{Of: what, ID: s.seal.Pseudonym(kind, "default", s.url, id), Final: true, Cause: "operator", At: at.UnixNano()}
		if err := s.backup.Mark(t.Context(), "default", m); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the person was signed out before another one was approved", func(t *testing.T) {
		served(t, "before", s.ask(before), true)
		ends(session.OfSubject, "subject", "alice", time.Now().Add(-30*time.Second))
		if k := s.ask(before); k.AccessToken != "" || k.Error != "invalid_grant" {
			t.Errorf("%v", k)
		}
		served(t, "one of the session after that", s.ask(s.assert()), true)
	})
	t.Run("its session was ended", func(t *testing.T) {
		ends(session.OfSession, "session", "sid-of-alice", time.Now())
		if k := s.ask(s.assert()); k.AccessToken != "" || k.Error != "invalid_grant" {
			t.Errorf("%v", k)
		}
		s.line(t, "the refusal", func(e audit.Entry) bool { return e.Flow == "jwt_bearer" && e.Rule == "revoked" })
	})
}

// The primary knows more of an assertion than it says of itself: one that it refused is refused without it too, whatever it
// approved since. That one had expired says nothing of others.
func TestOnBehalfOfRefused(t *testing.T) {
	s := newServiceRig(t)
	gone := s.assert()
	served(t, "the primary", s.ask(gone), false)
	waitFor(t, "it is learned", func() bool { return s.learnedFlow("jwt_bearer") > 1 })
	must(0, s.op.Disable("alice"))
	if k := s.ask(gone); k.Error != "invalid_grant" {
		t.Fatalf("%v", k)
	}
	must(0, s.op.Enable("alice"))
	// For whom the primary refuses another client's, it may take this one's.
	other := s.assert()
	if k := s.ask(other, func(f url.Values) {
		f.Set("client_id", "api2")
		f.Set("client_secret", "api2-secret")
		f.Set("assertion", s.assert(says("aud", "x")))
	}); k.Error != "invalid_grant" {
		t.Fatalf("%v", k)
	}
	n := s.learnedFlow("jwt_bearer")
	served(t, "the primary, another one", s.ask(other), false)
	waitFor(t, "it is learned", func() bool { return s.learnedFlow("jwt_bearer") > n })
	if k := s.ask(s.assert(says("exp", time.Now().Add(-time.Minute).Unix()))); k.Error != "invalid_grant" {
		t.Fatalf("%v", k)
	}
	s.op.Kill()
	served(t, "another one", s.ask(other), true)
	served(t, "a third one", s.ask(s.assert()), true)
	if k := s.ask(gone); k.AccessToken != "" || k.Error != "invalid_grant" {
		t.Errorf("what the primary refused: %v", k)
	}
	s.line(t, "the refusal", func(e audit.Entry) bool { return e.Flow == "jwt_bearer" && e.Rule == "refused_by_primary" })
}
