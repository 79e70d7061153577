package backup_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/notice"
	"understudy/flow/oauth"
)

// Of a logout those are told who took part, who are configured, and whose ID tokens are known; one that wants the session is told only
// where it is named. Nobody else's session, subject, issuer or tenant counts.
func TestWhoIsToldOfALogout(t *testing.T) {
	type ask func(*backup.SignOut)
	for name, c := range map[string]struct {
		ask  ask
		took []string
		told []string
	}{
		"of the session":           {func(*backup.SignOut) {}, []string{"app", "mute", "picky"}, []string{"app", "picky"}},
		"of the subject":           {func(s *backup.SignOut) { s.SID = "" }, []string{"app", "mute", "picky"}, []string{"app"}},
		"of another session":       {func(s *backup.SignOut) { s.SID = "sid-2" }, nil, nil},
		"of another subject":       {func(s *backup.SignOut) { s.SID, s.Subject = "", "bob" }, nil, nil},
		"of another issuer":        {func(s *backup.SignOut) { s.Issuer += "/other" }, nil, nil},
		"of another tenant":        {func(s *backup.SignOut) { s.Tenant = "evil" }, nil, nil},
		"and the gateway knows of": {func(s *backup.SignOut) { s.Clients = []string{"front", "stranger", "app"} }, []string{"app", "front", "mute", "picky"}, []string{"app", "picky"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.Notices = &notice.Outbox{
				Dir: t.TempDir(), Seal: r.Sessions.Seal, Now: r.Now, Warn: func(string, ...any) {}, Over: func(*notice.Notice, bool, string) {},
				Sign: func(*notice.Notice) (string, string, error) { return "", "", errors.New("nobody sends") },
			}
			if err := r.Notices.Open(); err != nil {
				t.Fatal(err)
			}
			at := notice.Client{URI: "https://app.example/logout"}
			r.Notices.Use(notice.Clients{tenant: {"app": at, "mute": at, "absent": at, "picky": {URI: at.URI, SessionRequired: true}}})
			for client, alg := range map[string]string{"app": "ES256", "mute": "", "picky": "ES256", "front": "ES256"} {
				m := r.learned("rt-"+client, "", r.now.Add(-time.Minute))
				m.Client = r.Sessions.Seal.Pseudonym("client", tenant, iss, client)
				m.Notify = map[string]string{"alg": alg}
				r.learn(m)
			}
			in := &backup.SignOut{Tenant: tenant, Issuer: iss, Subject: "alice", SID: "sid-1", At: r.now.UnixNano()}
			c.ask(in)
			got, err := r.SignedOut(t.Context(), in)
			if err != nil || !slices.Equal(got.Took, c.took) || !slices.Equal(got.Told, c.told) {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// A logout token says what OpenID Connect Back-Channel Logout, section 2.4 wants, and nothing that would make it an ID token.
func TestLogoutToken(t *testing.T) {
	r := newRig(t)
	m := r.learned("rt", "", r.now)
	m.Notify = map[string]string{"alg": "ES256"}
	r.learn(m) // from then on there is a key for it
	n := &notice.Notice{Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", SID: "sid-1", Alg: "ES256", JTI: "j"}
	token, kid, err := r.LogoutToken(n)
	if err != nil || kid == "" {
		t.Fatal(err)
	}
	tok, err := oauth.ParseJWT(token)
	if err != nil {
		t.Fatal(err)
	}
	header, claims := tok.Header, tok.Claims
	if header.Text("typ") != "logout+jwt" || header.Text("alg") != "ES256" || header.Text("kid") != kid {
		t.Errorf("%v", header)
	}
	exp, _ := claims.Number("exp")
	iat, _ := claims.Number("iat")
	for name, want := range map[string]string{"iss": iss, "aud": "app", "sub": "alice", "sid": "sid-1", "jti": "j"} {
		if claims.Text(name) != want {
			t.Errorf("%s: %s", name, claims.Get(name))
		}
	}
	if claims.Has("nonce") || exp-iat != 120 || iat != r.now.Unix() || !bytes.Contains(claims.Get("events"), []byte("backchannel-logout")) {
		t.Errorf("%v", claims)
	}
	n.SID = ""
	if token, _, err = r.LogoutToken(n); err != nil {
		t.Fatal(err)
	}
	if tok, err = oauth.ParseJWT(token); err != nil || tok.Claims.Has("sid") {
		t.Error("it names a session that nobody named")
	}
}
