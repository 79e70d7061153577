package flows

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"

	"understudy/idptest"
)

// keycloak is Keycloak with a realm of its own for the applications, and the channel to the phones of its people.
type keycloak struct {
	*idptest.Keycloak
	phones *phones
}

func keycloakKind() kind {
	return kind{name: "Keycloak", path: "/realms/flows", exchanges: true, fetches: true, forgets: true, start: func(ctx context.Context, dir, gateway string, apps []*app) (primary, error) {
		p := newPhones()
		kc, err := idptest.StartKeycloak(ctx, dir, "--spi-ciba-auth-channel--ciba-http-auth-channel--http-authentication-channel-uri="+p.URL)
		if err != nil {
			p.Close()
			return nil, err
		}
		k := &keycloak{kc, p}
		realm, err := realmOf(apps)
		if err == nil {
			_, err = k.administer(ctx, http.MethodPost, "", realm)
		}
		if err != nil {
			k.Kill()
			return nil, err
		}
		return k, nil
	}}
}

// realmOf is the realm "flows". Its refresh tokens rotate.
func realmOf(apps []*app) (map[string]any, error) {
	var people, clients []any
	for _, user := range []string{"alice", "bob"} {
		people = append(people, map[string]any{
			"username": user, "enabled": true, "emailVerified": true, "email": user + "@example.test", "firstName": strings.ToUpper(user[:1]) + user[1:], "lastName": "Test",
			"credentials": []any{map[string]any{"type": "password", "value": "pw-" + user, "temporary": false}},
		})
	}
	for _, a := range apps {
		c, err := a.atKeycloak()
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return map[string]any{
		"realm": "flows", "enabled": true, "sslRequired": "none", "accessTokenLifespan": 300, "accessTokenLifespanForImplicitFlow": 300,
		"revokeRefreshToken": true, "refreshTokenMaxReuse": 0, "oauth2DevicePollingInterval": 1, "users": people, "clients": clients,
		"attributes": map[string]any{"cibaBackchannelTokenDeliveryMode": "poll", "cibaExpiresIn": "300", "cibaInterval": "1", "cibaAuthRequestedUserHint": "login_hint"},
	}, nil
}

// atKeycloak is the application's registration.
func (a *app) atKeycloak() (map[string]any, error) {
	attributes := map[string]string{"post.logout.redirect.uris": bye}
	c := map[string]any{
		"clientId": a.id, "enabled": true, "protocol": "openid-connect", "publicClient": a.auth == "none", "redirectUris": []string{a.redirect()},
		"standardFlowEnabled": slices.Contains(a.grants, code), "implicitFlowEnabled": strings.Contains(a.response, "id_token"),
		"serviceAccountsEnabled": slices.Contains(a.grants, credentials), "directAccessGrantsEnabled": false, "attributes": attributes,
	}
	if a.secret != "" {
		c["secret"] = a.secret
	}
	if a.signs() {
		set, err := shared.keys.registered(nil)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(set)
		if err != nil {
			return nil, err
		}
		attributes["use.jwks.string"], attributes["jwks.string"] = "true", string(b)
	}
	switch a.auth {
	case "client_secret_basic", "client_secret_post":
		c["clientAuthenticatorType"] = "client-secret"
	case "client_secret_jwt":
		c["clientAuthenticatorType"], attributes["token.endpoint.auth.signing.alg"] = "client-secret-jwt", "HS256"
	case "private_key_jwt":
		c["clientAuthenticatorType"], attributes["token.endpoint.auth.signing.alg"] = "client-jwt", "RS256"
	case "tls_client_auth", "self_signed_tls_client_auth":
		c["clientAuthenticatorType"], attributes["x509.subjectdn"] = "client-x509", "CN="+a.id
		attributes["tls.client.certificate.bound.access.tokens"] = "true"
	}
	for attribute, on := range map[string]bool{
		"dpop.bound.access.tokens": a.dpop, "require.pushed.authorization.requests": a.pushed,
		"oauth2.device.authorization.grant.enabled": slices.Contains(a.grants, device), "oidc.ciba.grant.enabled": slices.Contains(a.grants, ciba),
		"standard.token.exchange.enabled": slices.Contains(a.grants, exchange),
	} {
		if on {
			attributes[attribute] = "true"
		}
	}
	if a.signed {
		attributes["request.object.required"], attributes["request.object.signature.alg"] = "request or request_uri", "RS256"
	}
	if a.referenced {
		attributes["request.object.required"], attributes["request.uris"] = "request_uri only", a.lies()
	}
	if a.jwtInfo {
		attributes["user.info.response.signature.alg"], attributes["client.use.lightweight.access.token.enabled"] = "RS256", "false"
	}
	if a.back != "" {
		attributes["backchannel.logout.url"], attributes["backchannel.logout.session.required"] = a.back, "true"
	}
	// Keycloak introspects for who is in the token's audience.
	var audiences []any
	for _, to := range []string{a.id, a.audience} {
		if to != "" {
			audiences = append(audiences, map[string]any{
				"name": "for " + to, "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
				"config": map[string]string{"included.client.audience": to, "access.token.claim": "true", "id.token.claim": "false"},
			})
		}
	}
	c["protocolMappers"] = audiences
	return c, nil
}

// administer asks Keycloak's administration of its realms, past the gateway.
func (k *keycloak) administer(ctx context.Context, method, path string, body any) ([]byte, error) {
	do := func(method, path, token, kind string, body []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, k.URL()+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode/100 != 2 {
			err = fmt.Errorf("%s %s: %d %.500s", method, path, resp.StatusCode, b)
		}
		return b, err
	}
	form := url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"}}
	b, err := do(http.MethodPost, "/realms/master/protocol/openid-connect/token", "", "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil {
		return nil, err
	}
	var admin struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(b, &admin); err != nil {
		return nil, err
	}
	var content []byte
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	return do(method, "/admin/realms"+path, admin.Token, "application/json", content)
}

// phones is the channel over which Keycloak asks people for a CIBA sign-in.
type phones struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]string // user → the token with which the phone answers
}

func newPhones() *phones {
	p := &phones{asked: map[string]string{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			User string `json:"login_hint"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked[q.User] = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusCreated)
	}))
	return p
}

// approve is a person's yes.
func (p *phones) approve(ctx context.Context, s *stage, user string) error {
	p.mu.Lock()
	token := p.asked[user]
	p.mu.Unlock()
	if token == "" {
		return fmt.Errorf("%s was not asked", user)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.issuer+"/protocol/openid-connect/ext/ciba/auth/callback", strings.NewReader(`{"status":"SUCCEED"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.u.Client().Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the phone's answer: status %d", resp.StatusCode)
	}
	return nil
}
