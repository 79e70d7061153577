// openid-client in a server-side application that a browser uses:
// serve { issuer, clientId, secret, origin, hybrid, cert, key } → { port }. hybrid: it asks for code and ID token by form_post.
// It keeps its sessions in memory and listens on loopback only. Where a session is there, each page renews the tokens by
// refresh token; where none is, the browser is sent to sign in. The page's #state says what came of it.
import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import * as https from 'node:https';
import * as client from 'openid-client';
import { serve } from './lines.js';
import './loopback.js';

let config;
let app;
const sessions = new Map();

const page = (res, state) => {
  const text = JSON.stringify(state).replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  res.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8', 'Cache-Control': 'no-store' });
  res.end(`<!doctype html><html lang="en"><title>openid-client</title><h1>openid-client</h1><pre id="state">${text}</pre>`);
};

const shown = async (tokens, nonce) => {
  const claims = tokens.claims();
  const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub);
  return { user: claims.preferred_username, id: tokens.id_token, access: tokens.access_token, refresh: tokens.refresh_token, nonce, info: info.email };
};

const posted = async (req, url) => {
  const body = [];
  for await (const b of req) body.push(b);
  return new Request(url, { method: req.method, headers: { 'Content-Type': req.headers['content-type'] }, body: Buffer.concat(body) });
};

async function handle(req, res) {
  const url = new URL(req.url, app.origin);
  const id = /(?:^|; )app=([0-9a-f-]+)/.exec(req.headers.cookie ?? '')?.[1];
  const session = sessions.get(id) ?? {};
  const begin = async () => {
    const fresh = crypto.randomUUID();
    const asked = { verifier: client.randomPKCECodeVerifier(), state: client.randomState(), nonce: client.randomNonce() };
    sessions.delete(id);
    sessions.set(fresh, asked);
    const to = client.buildAuthorizationUrl(config, {
      redirect_uri: `${app.origin}/cb`, scope: 'openid profile email', state: asked.state, nonce: asked.nonce,
      code_challenge: await client.calculatePKCECodeChallenge(asked.verifier), code_challenge_method: 'S256',
      ...(app.hybrid && { response_mode: 'form_post' }),
    });
    res.writeHead(302, { Location: to.href, 'Set-Cookie': `app=${fresh}; Path=/; Secure; HttpOnly; SameSite=${app.hybrid ? 'None' : 'Lax'}`, 'Cache-Control': 'no-store' }).end();
  };
  switch (url.pathname) {
    case '/':
      if (!session.tokens) {
        await begin();
        return;
      }
      if (session.seen) {
        let tokens;
        try {
          tokens = await client.refreshTokenGrant(config, session.refresh);
        } catch (e) {
          if (e.error !== 'invalid_grant') throw e;
          await begin(); // the session is over
          return;
        }
        session.tokens = tokens;
        session.refresh = tokens.refresh_token ?? session.refresh;
        session.nonce = undefined;
      }
      session.seen = session.refresh !== undefined;
      page(res, await shown(session.tokens, session.nonce));
      return;
    case '/cb':
      session.tokens = await client.authorizationCodeGrant(config, app.hybrid ? await posted(req, url) : url, {
        pkceCodeVerifier: session.verifier, expectedState: session.state, expectedNonce: session.nonce, idTokenExpected: true,
      });
      session.refresh = session.tokens.refresh_token;
      res.writeHead(302, { Location: '/' }).end();
      return;
    default:
      res.writeHead(404).end();
  }
}

serve({
  async serve(args) {
    app = args;
    config = await client.discovery(new URL(app.issuer), app.clientId, { client_secret: app.secret }, client.ClientSecretBasic(app.secret));
    client.enableNonRepudiationChecks(config);
    if (app.hybrid) client.useCodeIdTokenResponseType(config);
    const server = https.createServer({ cert: fs.readFileSync(app.cert), key: fs.readFileSync(app.key) }, (req, res) => {
      handle(req, res).catch((e) => page(res, { error: e.error ?? e.code ?? e.message, description: e.error_description ?? String(e.cause?.message ?? '') }));
    });
    await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
    return { port: server.address().port };
  },
});
