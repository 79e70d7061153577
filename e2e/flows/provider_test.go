package flows

import (
	"context"
	"strings"
	"time"

	"understudy/idptest"
)

// api is the resource for which oidc-provider's access tokens are JWTs; without it they are opaque, and UserInfo takes them.
const api = "https://api.example.test"

func providerKind() kind {
	return kind{name: "oidc-provider", introspectsByJWT: true, onBehalf: true, nonces: true, start: func(ctx context.Context, dir, gateway string, apps []*app) (primary, error) {
		var clients []map[string]any
		var nonces []string
		for _, a := range apps {
			if a.nonces {
				nonces = append(nonces, a.id)
			}
			if a.there {
				continue
			}
			c, err := a.atProvider()
			if err != nil {
				return nil, err
			}
			clients = append(clients, c)
		}
		return idptest.StartOIDCProvider(ctx, dir, idptest.OIDCProviderOptions{
			Issuer: gateway, AccessTokenLifetime: 5 * time.Minute, Clients: clients, ClientCA: shared.keys.caPEM, Nonces: nonces,
		})
	}}
}

// atProvider is the application's registration (OpenID Connect Dynamic Client Registration 1.0, section 2).
func (a *app) atProvider() (map[string]any, error) {
	c := map[string]any{
		"client_id": a.id, "token_endpoint_auth_method": a.auth, "grant_types": a.grants, "response_types": []string{}, "redirect_uris": []string{},
		"id_token_signed_response_alg": "RS256",
	}
	for _, g := range a.grants {
		if g == code || g == implicit {
			kind := "code"
			if strings.Contains(a.response, "id_token") {
				kind = a.response
			}
			c["response_types"], c["redirect_uris"] = []string{kind}, []string{a.redirect()}
			if g == code {
				c["post_logout_redirect_uris"] = []string{bye}
			}
		}
		if g == ciba {
			c["backchannel_token_delivery_mode"] = "poll"
		}
	}
	if a.secret != "" {
		c["client_secret"] = a.secret
	}
	if a.signs() || strings.HasPrefix(a.auth, "self_signed") {
		set, err := shared.keys.registered(a.cert)
		if err != nil {
			return nil, err
		}
		c["jwks"] = set
	}
	if a.auth == "tls_client_auth" {
		c["tls_client_auth_subject_dn"] = "CN=" + a.id
	}
	if a.byCertificate() {
		c["tls_client_certificate_bound_access_tokens"] = true
	}
	if a.dpop {
		c["dpop_bound_access_tokens"] = true
	}
	if a.pushed {
		c["require_pushed_authorization_requests"] = true
	}
	if a.signed {
		c["require_signed_request_object"] = true
	}
	if a.jwtInfo {
		c["userinfo_signed_response_alg"], c["introspection_signed_response_alg"] = "RS256", "RS256"
	}
	if a.back != "" {
		c["backchannel_logout_uri"], c["backchannel_logout_session_required"] = a.back, true
	}
	return c, nil
}
