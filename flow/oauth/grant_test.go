package oauth

import (
	"strings"
	"testing"
)

// A code may come of a session that is hours old: when the person signed in is what the tokens say, if they do.
func TestWhenThePersonSignedIn(t *testing.T) {
	x := Grant{}.Match(post("grant_type=authorization_code&client_id=spa&code=c"))
	silent := strings.Replace(atClaims, `"auth_time":1699990000,`, "", 1)
	for _, c := range []struct {
		rule     string
		response []string
		want     int64
	}{
		{"by the ID token", []string{"access_token", quoted(jwt(joseHeader, silent))}, 1699990000},
		{"by the access token", []string{"id_token", ""}, 1699990000},
		{"not told", []string{"id_token", "", "access_token", quoted(jwt(joseHeader, silent))}, 0},
	} {
		if l := x.Learn(reply(t, c.response...)); !l.Interactive || l.AuthTime != c.want {
			t.Errorf("%s: %d, want %d", c.rule, l.AuthTime, c.want)
		}
	}
}
