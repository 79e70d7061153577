// @azure/msal-node as a driver: begin { issuer, clientId, secret, redirect, scope, prompt } → { url };
// finish { url }, refresh {} → { idToken, accessToken, refreshToken, claims }; cached {} → { refreshToken }. Its token cache lives as
// long as the process.
import * as msal from '@azure/msal-node';
import { serve } from './lines.js';

serve(() => {
  let app;
  let asked;
  let account;

  const cached = () => {
    const [refresh] = Object.values(JSON.parse(app.getTokenCache().serialize()).RefreshToken);
    return { refreshToken: refresh?.secret };
  };

  const kept = (result) => {
    account = result.account;
    return { idToken: result.idToken, accessToken: result.accessToken, ...cached(), claims: result.idTokenClaims };
  };

  return {
    async begin({ issuer, clientId, secret, redirect, scope, prompt }) {
      const config = {
        auth: { clientId, authority: issuer, knownAuthorities: [new URL(issuer).host], ...(secret && { clientSecret: secret }) },
        system: { protocolMode: msal.ProtocolMode.OIDC },
      };
      app = secret ? new msal.ConfidentialClientApplication(config) : new msal.PublicClientApplication(config);
      const crypto = new msal.CryptoProvider();
      const { verifier, challenge } = await crypto.generatePkceCodes();
      asked = { redirectUri: redirect, scopes: scope.split(' '), verifier, state: crypto.createNewGuid(), nonce: crypto.createNewGuid() };
      const url = await app.getAuthCodeUrl({
        scopes: asked.scopes, redirectUri: redirect, codeChallenge: challenge, codeChallengeMethod: 'S256', state: asked.state,
        nonce: asked.nonce, ...(prompt && { prompt }),
      });
      return { url };
    },
    async finish({ url }) {
      const params = new URL(url).searchParams;
      return kept(await app.acquireTokenByCode(
        { code: params.get('code'), scopes: asked.scopes, redirectUri: asked.redirectUri, codeVerifier: asked.verifier, state: asked.state, nonce: asked.nonce },
        { code: params.get('code'), state: params.get('state'), nonce: asked.nonce },
      ));
    },
    async refresh() {
      return kept(await app.acquireTokenSilent({ account, scopes: asked.scopes, forceRefresh: true }));
    },
    async cached() {
      return cached();
    },
  };
});
