// openid-client with every flow that it has, for many applications at once. Each command names its application by `as`:
// open { issuer, clientId, secret, auth, key, cert, certKey, ca, metadata, dpop, response } makes one: auth is its
// token_endpoint_auth_method, key its private key (PKCS #8, base64), cert, certKey and ca are PEM, dpop says that it proves
// possession, response is "code", "jwt" (JARM), "code id_token" or "id_token".
// begin { parameters, pushed, signed, objects } → { url }: with objects, a port, the signed request lies there; finish { url, posted } and the grants → the tokens; see below for the others.
// All of the library's own checks are on, and ID tokens are verified with the published keys.
import * as http from 'node:http';
import * as https from 'node:https';
import * as client from 'openid-client';
import { serve } from './lines.js';

const apps = new Map();

// lying puts a request object at a port of the application's own, and returns its URL.
const lying = async (app, port, object) => {
  if (!app.objects) {
    app.objects = new Map();
    const host = http.createServer((request, reply) => {
      const found = app.objects.get(request.url);
      reply.writeHead(found ? 200 : 404, { 'content-type': 'application/oauth-authz-req+jwt' }).end(found);
    });
    await new Promise((done, failed) => host.on('error', failed).listen(port, '127.0.0.1', done));
  }
  const at = `/objects/${client.randomState()}`;
  app.objects.set(at, object);
  return `http://127.0.0.1:${port}${at}`;
};

// certified is a fetch that shows a certificate, which Node.js's own cannot.
const certified = ({ cert, certKey: key, ca }) => (url, options) => new Promise((done, failed) => {
  const body = options.body === undefined || options.body === null ? undefined : String(options.body);
  const headers = { ...options.headers, ...(body && { 'content-length': Buffer.byteLength(body) }) };
  const request = https.request(url, { method: options.method, headers, cert, key, ca, agent: false }, (reply) => {
    const parts = [];
    reply.on('data', (b) => parts.push(b)).on('error', failed).on('end', () => {
      const empty = [204, 304].includes(reply.statusCode);
      const lines = reply.rawHeaders.flatMap((v, i, all) => (i % 2 ? [] : [[v, all[i + 1]]]));
      done(new Response(empty ? null : Buffer.concat(parts), { status: reply.statusCode, headers: lines }));
    });
  });
  request.on('error', failed).end(body);
});

const authentication = ({ auth, secret, signing }) => {
  switch (auth) {
    case 'none': return client.None();
    case 'client_secret_basic': return client.ClientSecretBasic(secret);
    case 'client_secret_post': return client.ClientSecretPost(secret);
    case 'client_secret_jwt': return client.ClientSecretJwt(secret);
    case 'private_key_jwt': return client.PrivateKeyJwt(signing);
    case 'tls_client_auth':
    case 'self_signed_tls_client_auth': return client.TlsClientAuth();
    default: throw new Error(`no such client authentication: ${auth}`);
  }
};

const proved = (app) => (app.handle ? { DPoP: app.handle } : undefined);

const kept = (app, tokens) => {
  app.refreshToken = tokens.refresh_token ?? app.refreshToken;
  return {
    idToken: tokens.id_token, accessToken: tokens.access_token, refreshToken: app.refreshToken, tokenType: tokens.token_type, scope: tokens.scope,
  };
};

// poll asks until the person has answered, in the background.
const poll = (app, by, response) => {
  const stop = new AbortController();
  app.errors = [];
  app.polling = { stop, result: by(app.config, { ...response, interval: 1 }, undefined, { ...proved(app), signal: stop.signal }) };
  app.polling.result.catch(() => {});
};

const commands = {
  async open(app, { issuer, metadata, key, cert, dpop, response, ...rest }) {
    Object.assign(app, rest);
    if (key) {
      const algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
      app.signing = await crypto.subtle.importKey('pkcs8', Buffer.from(key, 'base64'), algorithm, false, ['sign']);
    }
    const over = cert ? certified({ cert, ...rest }) : fetch;
    const told = async (url, options) => {
      const reply = await over(url, options);
      if (app.errors && reply.status >= 400) app.errors.push((await reply.clone().json().catch(() => ({}))).error ?? String(reply.status));
      return reply;
    };
    app.config = await client.discovery(new URL(issuer), app.clientId, { client_secret: app.secret, ...metadata }, authentication(app), { [client.customFetch]: told });
    app.response = response ?? 'code';
    switch (app.response) {
      case 'code': break;
      case 'jwt': client.useJwtResponseMode(app.config); break;
      case 'code id_token': client.useCodeIdTokenResponseType(app.config); break;
      case 'id_token': client.useIdTokenResponseType(app.config); break;
      default: throw new Error(`no such response: ${app.response}`);
    }
    client.enableNonRepudiationChecks(app.config);
    if (dpop) app.handle = client.getDPoPHandle(app.config, await client.randomDPoPKeyPair());
  },

  async begin(app, { parameters, pushed, signed, objects }) {
    app.asked = { verifier: client.randomPKCECodeVerifier(), state: client.randomState(), nonce: client.randomNonce() };
    const all = {
      ...parameters, state: app.asked.state, nonce: app.asked.nonce,
      ...(app.response !== 'id_token' && { code_challenge: await client.calculatePKCECodeChallenge(app.asked.verifier), code_challenge_method: 'S256' }),
    };
    let url;
    if (pushed && signed) {
      const { searchParams } = await client.buildAuthorizationUrlWithJAR(app.config, all, app.signing);
      url = await client.buildAuthorizationUrlWithPAR(app.config, searchParams, proved(app));
    } else if (pushed) url = await client.buildAuthorizationUrlWithPAR(app.config, all, proved(app));
    else if (objects) {
      const { searchParams } = await client.buildAuthorizationUrlWithJAR(app.config, all, app.signing);
      url = client.buildAuthorizationUrl(app.config, { request_uri: await lying(app, objects, searchParams.get('request')) });
    } else if (signed) url = await client.buildAuthorizationUrlWithJAR(app.config, all, app.signing);
    else url = client.buildAuthorizationUrl(app.config, all);
    return { url: url.href };
  },

  // finish takes the response from the URL, or from a form that was posted to it.
  async finish(app, { url, posted }) {
    const at = posted === undefined ? new URL(url)
      : new Request(url, { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: posted });
    const { verifier, state, nonce } = app.asked;
    if (app.response === 'id_token') {
      await client.implicitAuthentication(app.config, at, nonce, { expectedState: state });
      return { idToken: new URLSearchParams(posted ?? new URL(url).hash.slice(1)).get('id_token') };
    }
    return kept(app, await client.authorizationCodeGrant(app.config, at, {
      pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true,
    }, undefined, proved(app)));
  },

  async refresh(app) {
    return kept(app, await client.refreshTokenGrant(app.config, app.refreshToken, undefined, proved(app)));
  },

  async service(app, { parameters }) {
    return kept(app, await client.clientCredentialsGrant(app.config, parameters, proved(app)));
  },

  async grant(app, { type, parameters }) {
    return kept(app, await client.genericGrantRequest(app.config, type, parameters, proved(app)));
  },

  async userinfo(app, { token, subject }) {
    return { claims: await client.fetchUserInfo(app.config, token, subject, proved(app)) };
  },

  async introspect(app, { token }) {
    return { claims: await client.tokenIntrospection(app.config, token) };
  },

  async revoke(app, { token }) {
    await client.tokenRevocation(app.config, token);
    return {};
  },

  async device(app, { parameters }) {
    const response = await client.initiateDeviceAuthorization(app.config, parameters);
    poll(app, client.pollDeviceAuthorizationGrant, response);
    return { url: response.verification_uri_complete };
  },

  async ciba(app, { parameters }) {
    const response = await client.initiateBackchannelAuthentication(app.config, parameters);
    poll(app, client.pollBackchannelAuthenticationGrant, response);
    return { request: response.auth_req_id };
  },

  // errors are the replies that told the application to wait, since it was asked last.
  async errors(app) {
    return { errors: app.errors.splice(0) };
  },

  async polled(app) {
    return kept(app, await app.polling.result);
  },

  async logout(app, { parameters }) {
    return { url: client.buildEndSessionUrl(app.config, parameters).href };
  },
};

serve(Object.fromEntries(Object.entries(commands).map(([name, f]) => [name, async ({ as, ...args }) => {
  if (!apps.has(as)) apps.set(as, {});
  return await f(apps.get(as), args) ?? {};
}])));
