// A single-page application on @azure/msal-browser as it is, in front of an OpenID provider that is none of its vendor's. Its
// tokens are in the tab's own storage: a reload finds them and renews them, a new tab asks for authorization. The library checks
// the nonce itself. state says what came of it: { user, id, access } or { error }.
const scopes = ['openid', 'profile', 'email'];
const app = new msal.PublicClientApplication({
  auth: {
    clientId: config.client,
    authority: config.issuer,
    knownAuthorities: [new URL(config.issuer).host],
    redirectUri: `${location.origin}/redirect`,
    postLogoutRedirectUri: `${location.origin}/bye`,
  },
  cache: { cacheLocation: 'sessionStorage' },
  system: { protocolMode: msal.ProtocolMode.OIDC },
});

function show(state) {
  document.getElementById('state').textContent = JSON.stringify(state);
  return state;
}

function kept(result) {
  app.setActiveAccount(result.account);
  return show({ user: result.account.username, id: result.idToken, access: result.accessToken, cached: result.fromCache });
}

const failed = (e) => show({ error: e.errorCode ?? e.message, description: e.errorMessage ?? String(e), person: e instanceof msal.InteractionRequiredAuthError });

// renew renews silently: 'refresh' by refresh token, 'iframe' by a hidden frame with prompt=none.
async function renew(how) {
  try {
    const policy = msal.CacheLookupPolicy[how === 'iframe' ? 'Skip' : 'RefreshToken'];
    return JSON.stringify(kept(await app.acquireTokenSilent({ account: app.getActiveAccount(), scopes, cacheLookupPolicy: policy })));
  } catch (e) {
    return JSON.stringify(failed(e));
  }
}

async function load() {
  await app.initialize();
  const back = await app.handleRedirectPromise();
  if (back) {
    kept(back);
    return;
  }
  const [account] = app.getAllAccounts();
  if (!account) {
    await app.loginRedirect({ scopes });
    return;
  }
  try {
    kept(await app.acquireTokenSilent({ account, scopes, forceRefresh: true }));
  } catch (e) {
    if (!(e instanceof msal.InteractionRequiredAuthError)) throw e;
    await app.acquireTokenRedirect({ account, scopes });
  }
}

load().catch(failed);
