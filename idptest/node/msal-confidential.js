// @azure/msal-node as a service, with no person at it: app { issuer, clientId, secret, scope } → tokens for itself (client
// credentials); behalf { …, assertion } → tokens for who called it (on-behalf-of). Its cache is not asked.
import * as msal from '@azure/msal-node';
import { serve } from './lines.js';

const applications = new Map(); // by client and issuer

function application({ issuer, clientId, secret }) {
  const key = `${clientId} ${issuer}`;
  if (!applications.has(key)) {
    applications.set(key, new msal.ConfidentialClientApplication({
      auth: { clientId, authority: issuer, knownAuthorities: [new URL(issuer).host], clientSecret: secret },
      system: { protocolMode: msal.ProtocolMode.OIDC },
    }));
  }
  return applications.get(key);
}

const given = (result) => ({ idToken: result.idToken, accessToken: result.accessToken });

serve({
  async app(args) {
    return given(await application(args).acquireTokenByClientCredential({ scopes: args.scope.split(' '), skipCache: true }));
  },
  async behalf(args) {
    return given(await application(args).acquireTokenOnBehalfOf({ scopes: args.scope.split(' '), oboAssertion: args.assertion, skipCache: true }));
  },
});
