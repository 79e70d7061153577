// A single-page application on oidc-client as it is, the last of its line that does the implicit flow: an ID token and nothing
// else. It is in memory only: each load of the page asks for authorization. The library checks the nonce itself. state says what
// came of it: { user, id } or { error }.
const here = location.origin;
const manager = new Oidc.UserManager({
  authority: config.issuer,
  client_id: config.client,
  redirect_uri: `${here}/callback`,
  silent_redirect_uri: `${here}/silent`,
  response_type: 'id_token',
  scope: 'openid profile email',
  loadUserInfo: false,
  automaticSilentRenew: false,
  monitorSession: false,
  includeIdTokenInSilentRenew: false,
  silentRequestTimeout: 10000,
  userStore: new Oidc.WebStorageStateStore({ store: new Oidc.InMemoryWebStorage() }),
});

function show(state) {
  document.getElementById('state').textContent = JSON.stringify(state);
  return state;
}

const kept = (user) => show({ user: user.profile.preferred_username, id: user.id_token });

const failed = (e) => show({ error: e.error ?? e.message, description: e.error_description ?? '' });

// renew renews silently, by a hidden frame with prompt=none: this flow has no other way.
async function renew() {
  try {
    return JSON.stringify(kept(await manager.signinSilent()));
  } catch (e) {
    return JSON.stringify(failed(e));
  }
}

async function load() {
  switch (location.pathname) {
    case '/callback': {
      const user = await manager.signinRedirectCallback();
      history.replaceState(null, '', '/');
      kept(user);
      break;
    }
    case '/silent':
      await manager.signinSilentCallback();
      break;
    default:
      await manager.signinRedirect();
  }
}

load().catch(failed);
