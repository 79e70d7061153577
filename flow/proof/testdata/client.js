// Unmodified client libraries make what they send; their requests are caught before the network. One JSON array out:
// { library, method, alg, jwk, jkt, body, dpop, htm, url, accessToken, object }.
import * as oauth from 'oauth4webapi';
import * as client from 'openid-client';
import * as jose from 'jose';
import * as msal from '@azure/msal-node';
import { createHash, X509Certificate } from 'node:crypto';

const { issuer, clientId, secret, certificate, privateKey } = JSON.parse(process.env.PROOF_CLIENT);
const as = {
  issuer, token_endpoint: `${issuer}/token`, authorization_endpoint: `${issuer}/auth`,
  pushed_authorization_request_endpoint: `${issuer}/par`, userinfo_endpoint: `${issuer}/userinfo`,
};
const out = [];
const json = (o) => new Response(JSON.stringify(o), { status: 200, headers: { 'content-type': 'application/json' } });
const caught = (kept) => async (url, { method, headers, body }) => {
  kept.push({ url: String(url), htm: method, dpop: new Headers(headers).get('dpop'), body: body ? String(body) : '' });
  return json({ access_token: 'the-access-token', token_type: 'DPoP', sub: 'alice' });
};
const algs = {
  RS256: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, RS512: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-512' },
  PS256: { name: 'RSA-PSS', hash: 'SHA-256' },
  ES256: { name: 'ECDSA', namedCurve: 'P-256' }, ES384: { name: 'ECDSA', namedCurve: 'P-384' }, ES512: { name: 'ECDSA', namedCurve: 'P-521' },
  Ed25519: { name: 'Ed25519' },
};

for (const [alg, a] of Object.entries(algs)) {
  const params = a.hash ? { ...a, modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) } : a;
  const pair = await crypto.subtle.generateKey(params, true, ['sign', 'verify']);
  const jwk = await crypto.subtle.exportKey('jwk', pair.publicKey);
  const common = { alg, jwk: { ...jwk, kid: 'k1' }, jkt: await jose.calculateJwkThumbprint(jwk) };

  // oauth4webapi: client credentials with private_key_jwt and DPoP, then UserInfo with the token.
  let kept = [];
  const options = { [oauth.customFetch]: caught(kept) };
  const c = { client_id: clientId };
  const dpop = oauth.DPoP(c, pair);
  await oauth.clientCredentialsGrantRequest(as, c, oauth.PrivateKeyJwt({ key: pair.privateKey, kid: 'k1' }), {}, { ...options, DPoP: dpop });
  out.push({ library: 'oauth4webapi', method: 'private_key_jwt', ...common, ...kept[0] });
  await oauth.userInfoRequest(as, c, 'the-access-token', { ...options, DPoP: dpop });
  out.push({ library: 'oauth4webapi', method: 'none', ...common, ...kept[1], accessToken: 'the-access-token' });
  const request = new URLSearchParams({ response_type: 'code', redirect_uri: 'https://app.example/cb', scope: 'openid', max_age: '60' });
  out.push({ library: 'oauth4webapi', method: 'jar', ...common, object: await oauth.issueRequestObject(as, c, request, { key: pair.privateKey, kid: 'k1' }) });

  // openid-client: the same, and a signed request object in the URL.
  kept = [];
  const config = new client.Configuration(as, clientId, {}, client.PrivateKeyJwt({ key: pair.privateKey, kid: 'k1' }));
  config[client.customFetch] = caught(kept);
  await client.clientCredentialsGrant(config, {}, { DPoP: client.getDPoPHandle(config, pair) });
  out.push({ library: 'openid-client', method: 'private_key_jwt', ...common, ...kept[0] });
  const url = await client.buildAuthorizationUrlWithJAR(config, request, { key: pair.privateKey, kid: 'k1' });
  out.push({ library: 'openid-client', method: 'jar', ...common, object: url.searchParams.get('request') });

  // jose by hand, without kid and jti.
  const now = Math.floor(Date.now() / 1000);
  const assertion = await new jose.SignJWT({ iss: clientId, sub: clientId, aud: [issuer, as.token_endpoint], exp: now + 60 })
    .setProtectedHeader({ alg, typ: 'JWT' }).sign(pair.privateKey);
  out.push({ library: 'jose', method: 'private_key_jwt', ...common, body: new URLSearchParams({ client_assertion: assertion }).toString() });
}

{
  const kept = [];
  await oauth.clientCredentialsGrantRequest(as, { client_id: clientId }, oauth.ClientSecretJwt(secret), {}, { [oauth.customFetch]: caught(kept) });
  out.push({ library: 'oauth4webapi', method: 'client_secret_jwt', alg: 'HS256', ...kept[0] });
}

{
  // MSAL signs with a certificate, names it by its hash and sends it along.
  const kept = [];
  const catching = {
    async sendGetRequestAsync() { throw new Error('no metadata is asked for'); },
    async sendPostRequestAsync(url, { body }) {
      kept.push({ url, htm: 'POST', dpop: null, body });
      return { status: 200, headers: {}, body: { access_token: 'the-access-token', token_type: 'Bearer', expires_in: 60 } };
    },
  };
  const x = new X509Certificate(certificate);
  const app = new msal.ConfidentialClientApplication({
    auth: {
      clientId, authority: issuer, knownAuthorities: [new URL(issuer).host],
      authorityMetadata: JSON.stringify({ ...as, jwks_uri: `${issuer}/jwks`, end_session_endpoint: `${issuer}/out` }),
      clientCertificate: { thumbprintSha256: createHash('sha256').update(x.raw).digest('hex'), privateKey, x5c: certificate },
    },
    system: { networkClient: catching, protocolMode: msal.ProtocolMode.OIDC },
  });
  await app.acquireTokenByClientCredential({ scopes: ['api://x/.default'] });
  out.push({ library: 'msal-node', method: 'private_key_jwt', alg: 'PS256', jwk: x.publicKey.export({ format: 'jwk' }), ...kept[0] });
}
process.stdout.write(JSON.stringify(out));
