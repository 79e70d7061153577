// A single-page application on oidc-client-ts as it is. Tokens are in memory only: each load of the page asks for authorization.
// state says what came of it: { user, id, access, refresh, nonce, info } or { error }.
const here = location.origin;
const manager = new oidc.UserManager({
  authority: config.issuer,
  client_id: config.client,
  redirect_uri: `${here}/callback`,
  silent_redirect_uri: `${here}/silent`,
  post_logout_redirect_uri: `${here}/bye`,
  scope: 'openid profile email',
  loadUserInfo: true,
  automaticSilentRenew: false,
  silentRequestTimeoutInSeconds: 10,
  userStore: new oidc.WebStorageStateStore({ store: new oidc.InMemoryWebStorage() }),
});

function show(state) {
  document.getElementById('state').textContent = JSON.stringify(state);
  return state;
}

function kept(user, nonce) {
  return show({ user: user.profile.preferred_username, id: user.id_token, access: user.access_token, refresh: user.refresh_token, nonce, info: user.profile.email });
}

const failed = (e) => show({ error: e.error ?? e.message, description: e.error_description ?? '' });

// renew renews silently: 'refresh' by refresh token, 'iframe' by a hidden frame with prompt=none.
async function renew(how) {
  try {
    if (how === 'refresh') return JSON.stringify(kept(await manager.signinSilent()));
    const user = await manager.getUser();
    await manager.removeUser(); // the library prefers a refresh token where it has one
    try {
      const nonce = crypto.randomUUID();
      return JSON.stringify(kept(await manager.signinSilent({ nonce }), nonce));
    } finally {
      if (user) await manager.storeUser(user);
    }
  } catch (e) {
    return JSON.stringify(failed(e));
  }
}

const signOut = () => manager.signoutRedirect();

async function load() {
  switch (location.pathname) {
    case '/callback': {
      const user = await manager.signinCallback();
      history.replaceState(null, '', '/');
      kept(user, user.state);
      break;
    }
    case '/silent':
      await manager.signinSilentCallback();
      break;
    case '/bye':
      show({ bye: true });
      break;
    case '/idle': // opens without asking for anything
      show({ idle: true });
      break;
    default: {
      const nonce = crypto.randomUUID();
      await manager.signinRedirect({ nonce, state: nonce });
    }
  }
}

load().catch(failed);
