// A node-oidc-provider whose state survives SIGKILL. Usage: node provider.js CONFIG.json
//
// CONFIG is { port, issuer, dir, accessTokens: "opaque" | "jwt", alg, accessTokenSeconds, rotateAll, clockShiftSeconds, clients, clientCA, nonces }.
// With clients, a list of client metadata, it has these too and every feature that they may use is on: pushed and signed requests,
// JWTs for answers, DPoP, certificates (in the header Client-Cert, RFC 9440, of the authority clientCA), devices, CIBA, client
// credentials and back-channel logout; nonces names those of whom a nonce is demanded in their DPoP proofs; a POST to /approve/ID answers a CIBA request for its person. It listens on loopback only. A file dir/disabled/NAME disables an account. It ends when its standard input ends.
import * as fs from 'node:fs';
import * as http from 'node:http';
import * as path from 'node:path';
import * as crypto from 'node:crypto';

const config = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
if (config.clockShiftSeconds) {
  const RealDate = Date;
  const shift = config.clockShiftSeconds * 1000;
  globalThis.Date = class extends RealDate {
    constructor(...args) { super(...(args.length ? args : [RealDate.now() + shift])); }

    static now() { return RealDate.now() + shift; }
  };
}
const { Provider } = await import('oidc-provider');
const onBehalfOf = await import('./on-behalf-of.js');
fs.mkdirSync(path.join(config.dir, 'disabled'), { recursive: true });

// Every change is in the journal before the request that made it is answered: what the kernel has been given outlives
// the process.
const journal = path.join(config.dir, 'journal.jsonl');
const entries = new Map(); // model:id → { payload, expires }
const grants = new Map(); // grant id → set of keys
const byUid = new Map();

function apply(change) {
  const { key } = change;
  switch (change.op) {
    case 'upsert':
      entries.set(key, { payload: change.payload, expires: change.expires });
      if (change.payload.grantId && !key.startsWith('Grant:')) {
        if (!grants.has(change.payload.grantId)) grants.set(change.payload.grantId, new Set());
        grants.get(change.payload.grantId).add(key);
      }
      if (key.startsWith('Session:')) byUid.set(change.payload.uid, key);
      break;
    case 'consume':
      if (entries.has(key)) entries.get(key).payload.consumed = change.at;
      break;
    case 'destroy':
      grants.get(entries.get(key)?.payload.grantId)?.delete(key);
      entries.delete(key);
      break;
    case 'revoke':
      for (const k of grants.get(key) ?? []) entries.delete(k);
      grants.delete(key);
      break;
  }
}

if (fs.existsSync(journal)) {
  const text = fs.readFileSync(journal, 'utf8');
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  for (const line of whole.split('\n')) if (line) apply(JSON.parse(line));
  if (whole.length !== text.length) fs.truncateSync(journal, Buffer.byteLength(whole));
}
const out = fs.openSync(journal, 'a');

function commit(change) {
  fs.writeSync(out, `${JSON.stringify(change)}\n`);
  apply(change);
}

class Adapter {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload, seconds) {
    commit({ op: 'upsert', key: this.key(id), payload, expires: seconds ? Date.now() + seconds * 1000 : undefined });
  }

  async find(id) {
    const e = entries.get(this.key(id));
    if (!e || e.expires && e.expires <= Date.now()) return undefined;
    return structuredClone(e.payload);
  }

  async findByUid(uid) {
    const key = byUid.get(uid);
    return key && this.find(key.slice(this.model.length + 1));
  }

  async findByUserCode(code) {
    for (const [key, { payload }] of entries) if (key.startsWith(`${this.model}:`) && payload.userCode === code) return this.find(key.slice(this.model.length + 1));
    return undefined;
  }

  async consume(id) { commit({ op: 'consume', key: this.key(id), at: Math.floor(Date.now() / 1000) }); }

  async destroy(id) { commit({ op: 'destroy', key: this.key(id) }); }

  async revokeByGrantId(id) { commit({ op: 'revoke', key: id }); }
}

// Keys and cookie keys are made once and stay.
const secrets = path.join(config.dir, 'secrets.json');
if (!fs.existsSync(secrets)) {
  const { privateKey } = config.alg.startsWith('ES')
    ? crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
    : crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: config.alg, kid: `op-${config.alg.toLowerCase()}` };
  fs.writeFileSync(`${secrets}.new`, JSON.stringify({ jwks: { keys: [jwk] }, cookies: [crypto.randomBytes(24).toString('base64url')] }), { mode: 0o600 });
  fs.renameSync(`${secrets}.new`, secrets);
}
const { jwks, cookies } = JSON.parse(fs.readFileSync(secrets, 'utf8'));

const accounts = {
  alice: { name: 'Alice Test', given_name: 'Alice', family_name: 'Test', email: 'alice@example.test', email_verified: true, groups: ['engineering'] },
  bob: { name: 'Bob Test', given_name: 'Bob', family_name: 'Test', email: 'bob@example.test', email_verified: true, groups: [] },
};

const redirects = ['http://127.0.0.1:9999/cb', 'http://127.0.0.1:9999/silent', 'http://localhost:9999/cb'];
const client = (client_id, method, more) => ({
  client_id,
  token_endpoint_auth_method: method,
  ...(method !== 'none' && { client_secret: `${client_id}-secret` }),
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  redirect_uris: redirects,
  post_logout_redirect_uris: ['http://127.0.0.1:9999/bye'],
  id_token_signed_response_alg: config.alg,
  ...more,
});

const resource = 'https://api.example.test';
const certificate = (ctx) => {
  const value = /^:([A-Za-z0-9+/=]+):$/.exec(ctx.get('client-cert'))?.[1];
  return value && new crypto.X509Certificate(Buffer.from(value, 'base64'));
};
// asks is who a request with a proof is from: at UserInfo whoever the token was issued to.
const asks = (ctx) => ctx.oidc.client?.clientId ?? entries.get(`AccessToken:${ctx.get('authorization').split(' ')[1]}`)?.payload.clientId;
const every = {
  clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth'],
  issueRefreshToken: (ctx, c) => c.grantTypeAllowed('refresh_token'),
  fetch: (url, { dispatcher, ...options }) => fetch(url, options), // its own goes to no loopback address
  features: {
    backchannelLogout: { enabled: true },
    ciba: {
      enabled: true,
      processLoginHint: (ctx, hint) => hint,
      processLoginHintToken: () => undefined,
      validateBindingMessage() {},
      validateRequestContext() {},
      verifyUserCode() {},
      triggerAuthenticationDevice() {},
    },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    dPoP: {
      enabled: true,
      ...(config.nonces && {
        nonceSecret: crypto.createHash('sha256').update(cookies[0]).digest(),
        requireNonce: (ctx) => config.nonces.includes(asks(ctx)),
      }),
    },
    jwtIntrospection: { enabled: true },
    jwtResponseModes: { enabled: true },
    jwtUserinfo: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      tlsClientAuth: true,
      getCertificate: certificate,
      certificateAuthorized: (ctx) => certificate(ctx).verify(new crypto.X509Certificate(config.clientCA).publicKey),
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn' && certificate(ctx).subject === expected,
    },
    pushedAuthorizationRequests: { enabled: true },
    requestObjects: { enabled: true },
  },
};
const findAccount = (ctx, sub) => {
  if (fs.existsSync(path.join(config.dir, 'disabled', path.basename(sub)))) return undefined;
  return { accountId: sub, claims: () => ({ sub, ...accounts[sub] }) };
};
const provider = new Provider(config.issuer, {
  adapter: Adapter,
  clients: [
    client('spa', 'none'), client('spa2', 'none'), client('web', 'client_secret_basic'),
    client('webpost', 'client_secret_post'), client('web2', 'client_secret_basic'),
    client('api', 'client_secret_post', { grant_types: ['authorization_code', 'refresh_token', 'client_credentials', onBehalfOf.grantType] }),
    client('api2', 'client_secret_post', { grant_types: ['client_credentials', onBehalfOf.grantType], response_types: [], redirect_uris: [] }),
    ...(config.clients ?? []),
  ],
  jwks,
  cookies: { keys: cookies },
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  claims: { openid: ['sub'], profile: ['name', 'given_name', 'family_name', 'groups'], email: ['email', 'email_verified'] },
  // Claims of the asked scopes go into the ID token too: there is more to learn.
  conformIdTokenClaims: false,
  findAccount,
  clientBasedCORS: (ctx, origin) => origin === 'http://127.0.0.1:9999',
  pkce: { required: (ctx, c) => c.clientAuthMethod === 'none' },
  ...(config.rotateAll && { rotateRefreshToken: true }),
  ttl: {
    AccessToken: config.accessTokenSeconds || 3600, IdToken: 3600, Session: 14 * 86400, Grant: 14 * 86400, Interaction: 3600, AuthorizationCode: 60,
    RefreshToken: 14 * 86400, ClientCredentials: config.accessTokenSeconds || 3600,
  },
  ...(config.clients && every),
  features: {
    ...(config.clients && every.features),
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      ...((config.accessTokens === 'jwt' || config.clients) && {
        defaultResource: (ctx, c, granted) => {
          if (granted?.length === 1) return granted[0];
          return config.accessTokens === 'jwt' ? resource : undefined;
        },
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, asked) => ({
          scope: 'openid offline_access profile email api', audience: asked === onBehalfOf.downstream ? asked : resource, accessTokenFormat: 'jwt',
          accessTokenTTL: config.accessTokenSeconds || 3600, jwt: { sign: { alg: config.alg } },
        }),
      }),
    },
  },
});
onBehalfOf.register(provider, {
  dir: config.dir, jwks, owned: { api: resource, api2: resource }, findAccount,
});
provider.proxy = true; // its public URL is the gateway's
provider.on('server_error', (ctx, err) => console.error(err));

// approve is the person's yes on the device that a CIBA request went to.
async function approve(id, res) {
  const request = await provider.BackchannelAuthenticationRequest.find(id);
  const grant = new provider.Grant({ accountId: request.accountId, clientId: request.clientId });
  grant.addOIDCScope(request.scope);
  await grant.save();
  await provider.backchannelResult(request, grant);
  res.writeHead(204).end();
}

const prefix = new URL(config.issuer).pathname.replace(/\/$/, '');
const handle = provider.callback();
const server = http.createServer((req, res) => {
  if (config.clients && req.method === 'POST' && req.url.startsWith('/approve/')) {
    approve(req.url.slice('/approve/'.length), res).catch((e) => res.writeHead(500).end(String(e)));
    return;
  }
  if (prefix) {
    if (!req.url.startsWith(`${prefix}/`)) {
      res.writeHead(404).end();
      return;
    }
    req.originalUrl = req.url;
    req.url = req.url.slice(prefix.length);
  }
  handle(req, res);
});
server.listen(config.port, '127.0.0.1');
process.stdin.resume().on('end', () => process.exit(0));
