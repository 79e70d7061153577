// The grant by an assertion. One of the provider's own: the grant by which a service that was called asks for a token for who called it, as Entra ID has it (RFC 7523 with
// requested_token_use=on_behalf_of): the assertion is an access token of this provider's own, for the calling client or its
// resource, and what is issued is for the person, with the scope that is asked for. Without requested_token_use: one of a
// partner's, whose keys are in dir/partner.json (RFC 7523 alone).
import * as fs from 'node:fs';
import * as path from 'node:path';
import { createLocalJWKSet, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';

export const grantType = 'urn:ietf:params:oauth:grant-type:jwt-bearer';

// downstream is the audience of what is issued.
export const downstream = 'https://downstream.example.test';

// register adds the grant. owned says of which resource a client is the service.
export function register(provider, { dir, jwks, owned, findAccount }) {
  const published = createLocalJWKSet({ keys: jwks.keys.map(({ d, p, q, dp, dq, qi, ...key }) => key) });

  provider.registerGrantType(grantType, async (ctx) => {
    const { client, params } = ctx.oidc;
    let claims;
    try {
      if (params.requested_token_use === 'on_behalf_of') {
        ({ payload: claims } = await jwtVerify(params.assertion ?? '', published, { issuer: provider.issuer, typ: 'at+jwt' }));
      } else {
        const partner = createLocalJWKSet(JSON.parse(fs.readFileSync(path.join(dir, 'partner.json'), 'utf8')));
        ({ payload: claims } = await jwtVerify(params.assertion ?? '', partner, { issuer: 'https://partner.example' }));
      }
    } catch {
      throw new errors.InvalidGrant('the assertion is not valid');
    }
    if (![].concat(claims.aud).some((aud) => aud === client.clientId || aud === owned[client.clientId])) {
      throw new errors.InvalidGrant('the assertion is for another audience');
    }
    const scopes = ctx.oidc.requestParamScopes;
    const account = await findAccount(ctx, claims.sub);
    if (!account) throw new errors.InvalidGrant('no such account');
    ctx.oidc.entity('Account', account);

    const grant = new provider.Grant({ accountId: claims.sub, clientId: client.clientId }); // an administrator consented
    grant.addOIDCScope(params.scope ?? '');
    grant.addResourceScope(downstream, params.scope ?? '');
    const grantId = await grant.save();
    // MSAL Go keeps no token on behalf of somebody that ends within five minutes.
    const at = new provider.AccessToken({ accountId: claims.sub, client, grantId, gty: 'jwt-bearer', expiresIn: 3600 });
    at.resourceServer = new provider.ResourceServer(downstream, {
      scope: 'openid offline_access profile email api', audience: downstream, accessTokenFormat: 'jwt', jwt: { sign: { alg: jwks.keys[0].alg } },
    });
    at.scope = grant.getResourceScopeFiltered(downstream, [...scopes].filter((s) => at.resourceServer.scopes.has(s)));
    ctx.oidc.entity('AccessToken', at);
    const body = { access_token: await at.save(), expires_in: at.expiration, scope: at.scope, token_type: 'Bearer' };
    if (scopes.has('offline_access')) {
      body.refresh_token = await new provider.RefreshToken({
        accountId: claims.sub, client, grantId, gty: 'jwt-bearer', rotations: 0, scope: params.scope, resource: downstream,
      }).save();
    }
    if (scopes.has('openid')) {
      const id = new provider.IdToken({ sub: claims.sub, ...await account.claims('id_token', params.scope, {}, []) }, { ctx });
      id.scope = params.scope;
      body.id_token = await id.issue({ use: 'idtoken' });
    }
    ctx.body = body;
  }, ['assertion', 'requested_token_use', 'scope']);
}
