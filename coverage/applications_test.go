package coverage_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"understudy/coverage"
	"understudy/serve"
)

var update = flag.Bool("update", false, "write docs/applications.md anew")

const applicationsFile = "../docs/applications.md"

const applicationsHead = `# For the owners of applications

<!-- Made from the list of flows and coverage/known.json: go test ./coverage -run Applications -update -->

Your identity provider has a backup: where it does not answer, Understudy goes on with what it approved in the last three days, on the
same device, for the same application. Nobody has to change anything for that to work, but some habits help and some keep it from
working. Ask the operator for your application's row of ` + "`understudy status --coverage`" + `: what was measured there beats what is written here.

## Use

- **A library that follows the standards** (MSAL, openid-client, oidc-client-ts, AppAuth, go-oidc, Spring Security) and does not mind a new key
  in the key set: look the key up by its ` + "`kid`" + `, and fetch the set again where it is not there.
- **Token caches of up to three days.** Keep refresh tokens where they outlive the application's restart: the device's token cache, or a
  database. What you no longer hold nobody can continue; what was not used for three days is over.
- **Fixed scopes.** Ask for one set of scopes and resources each time. What was not approved before the outage is not given in it.
- **Silent calls.** Renew without a person: ` + "`acquireTokenSilent`" + `, the refresh grant, or a request with ` + "`prompt=none`" + `; ask a person only where that says so.
- **PKCE with S256**, ` + "`state`" + ` and, with ID tokens, a nonce.
- **One client authentication**: the same method, the same secret or registered key. Give the operator the public keys for ` + "`private_key_jwt`" + ` and signed requests.
- **The ID token** for who somebody is, or UserInfo asked once after each sign-in.
- **Patience.** "Not now" is ` + "`temporarily_unavailable`" + ` (503 with ` + "`Retry-After`" + `, or at the redirect URI): keep the session, keep the tokens, try again. It is not
  ` + "`invalid_grant`" + ` and not ` + "`login_required`" + `. It is no reason to sign anybody out.

## Avoid

- The password grant: whatever it began is never continued.
- ` + "`prompt=login`" + `, ` + "`max_age=0`" + ` or fresh ` + "`acr_values`" + ` with every request: a person cannot be asked while the provider is away.
- ID tokens signed with HS256 or encrypted, access tokens that only the provider can read, request objects encrypted to the provider.
- Values that change in parameters of your own: carry them in ` + "`state`" + `.
- Pinning one signing key, or keeping the key set for more than a day.
- Waiting for a refresh token in every reply: a code that was redeemed in an outage gives none. Go on with the one that you hold.

## Flow by flow

| flow | what it is for | so that it goes on in an outage |
|---|---|---|
`

// The page for the owners of applications is made from the list of flows, and is current.
func TestApplications(t *testing.T) {
	var b strings.Builder
	b.WriteString(applicationsHead)
	for _, f := range serve.Flows() {
		a, ok := coverage.Flow(f.Name())
		if !ok {
			t.Errorf("coverage/known.json says nothing of the flow %s", f.Name())
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name(), cell(a.For), cell(a.Use))
	}
	b.WriteString("\n## Well-known applications\n\nWhat is to be expected where nothing was measured yet.\n\n| application | expected | mend |\n|---|---|---|\n")
	for _, k := range coverage.Applications() {
		text, mend, _ := strings.Cut(k.Expected(), ": ")
		fmt.Fprintf(&b, "| %s | %s: %s | %s |\n", cell(k.Name), word(k.Served()), cell(text), cell(mend))
	}
	b.WriteString("\n## Well-known resources\n\n| resource | expected | mend |\n|---|---|---|\n")
	for _, k := range coverage.Resources() {
		text, mend, _ := strings.Cut(k.Expected(), ": ")
		fmt.Fprintf(&b, "| %s | %s: %s | %s |\n", cell(k.Name), word(k.Served()), cell(text), cell(mend))
	}
	if *update {
		if err := os.WriteFile(applicationsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(applicationsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not current: go test ./coverage -run Applications -update", applicationsFile)
	}
}

func word(served bool) string {
	if served {
		return "served"
	}
	return "not served"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
