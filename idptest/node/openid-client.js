// openid-client as a driver: begin { issuer, clientId, secret, auth, redirect, scope, prompt } → { url };
// finish { url }, refresh {} → { idToken, accessToken, refreshToken }; userInfo {} → { email }. ID tokens are verified with the published keys.
import * as client from 'openid-client';
import { serve } from './lines.js';

serve(() => {
  let config;
  let asked;
  let refreshToken;
  let last;

  const kept = (tokens) => {
    last = tokens;
    refreshToken = tokens.refresh_token ?? refreshToken;
    return { idToken: tokens.id_token, accessToken: tokens.access_token, refreshToken };
  };

  return {
    async begin({ issuer, clientId, secret, auth, redirect, scope, prompt }) {
      const method = !secret ? client.None() : auth === 'client_secret_post' ? client.ClientSecretPost(secret) : client.ClientSecretBasic(secret);
      config = await client.discovery(new URL(issuer), clientId, { client_secret: secret }, method);
      client.enableNonRepudiationChecks(config);
      asked = { verifier: client.randomPKCECodeVerifier(), state: client.randomState(), nonce: client.randomNonce() };
      const url = client.buildAuthorizationUrl(config, {
        redirect_uri: redirect, scope, state: asked.state, nonce: asked.nonce, ...(prompt && { prompt }),
        code_challenge: await client.calculatePKCECodeChallenge(asked.verifier), code_challenge_method: 'S256',
      });
      return { url: url.href };
    },
    async finish({ url }) {
      return kept(await client.authorizationCodeGrant(config, new URL(url), {
        pkceCodeVerifier: asked.verifier, expectedState: asked.state, expectedNonce: asked.nonce, idTokenExpected: true,
      }));
    },
    async refresh() {
      return kept(await client.refreshTokenGrant(config, refreshToken));
    },
    async userInfo() {
      const { email } = await client.fetchUserInfo(config, last.access_token, last.claims().sub);
      return { email };
    },
  };
});
