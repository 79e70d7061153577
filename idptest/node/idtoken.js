// express-openid-connect in a server-side application that wants an ID token only, by form_post, as the library does of itself:
// serve { issuer, clientId, origin, cert, key } → { port }. It listens on loopback only. Its session says who came; it is shown
// once, and each further page sends the browser to sign in anew. The page's #state says what came of it.
import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import * as https from 'node:https';
import express from 'express';
import openid from 'express-openid-connect';
import { serve } from './lines.js';
import './loopback.js';

const page = (res, state) => {
  const text = JSON.stringify(state).replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  res.set('Cache-Control', 'no-store');
  res.send(`<!doctype html><html lang="en"><title>express-openid-connect</title><h1>express-openid-connect</h1><pre id="state">${text}</pre>`);
};

serve({
  async serve(args) {
    const app = express();
    app.use(openid.auth({
      issuerBaseURL: args.issuer, baseURL: args.origin, clientID: args.clientId, secret: crypto.randomBytes(32).toString('hex'), authRequired: false,
      afterCallback: (req, res, session) => ({ ...session, seen: false }),
    }));
    app.get('/', async (req, res) => {
      if (!req.oidc.isAuthenticated() || req.appSession.seen) {
        await res.oidc.login({ returnTo: '/' });
        return;
      }
      req.appSession.seen = true;
      page(res, { user: req.oidc.user.preferred_username, id: req.oidc.idToken });
    });
    app.use((e, req, res, next) => page(res, { error: e.error ?? e.code ?? e.message, description: e.error_description ?? String(e.cause?.message ?? e.message) }));
    const server = https.createServer({ cert: fs.readFileSync(args.cert), key: fs.readFileSync(args.key) }, app);
    await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
    return { port: server.address().port };
  },
});
