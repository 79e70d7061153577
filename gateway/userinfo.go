package gateway

import (
	"context"
	"slices"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oidc"
	"understudy/session"
)

// userInfoKey is the key that what UserInfo says of a sign-in is kept under: that of the refresh token which was presented, else a
// new one; nil where there is nobody about whom UserInfo says anything.
func (t *trip) userInfoKey(ctx context.Context, le *flow.Lesson) session.UserInfoKey {
	if r := le.Record; !slices.Contains(r.Scope, "openid") && r.IDToken == nil {
		return nil
	}
	if a := t.ask.Artifact; a.Kind == session.RefreshToken && t.st.Wrapped != nil && (t.ask.Client.Secret == "" || t.prove(ctx)) {
		at := session.ArtifactKeys{Lookup: t.place, Key: t.opens(a)}
		if data, err := session.Unwrap(t.v.tenant.Name, t.st.Wrapped, at); err == nil && session.UserInfoOf(data) != nil {
			return session.UserInfoOf(data)
		}
	}
	return session.NewUserInfoKey()
}

// sealUserInfo makes of what the primary said at the UserInfo endpoint the message for the backup: it goes with the sign-in that the
// access token came of, and only what opens that opens it.
func (l *learner) sealUserInfo(ctx context.Context, x *lesson) []sealed {
	t, le := x.t, x.lesson()
	if le == nil {
		return nil
	}
	v, s := t.v, l.g.c.Seal
	at := session.ArtifactKeys{Lookup: t.at(t.ask.Artifact), Key: t.opens(t.ask.Artifact)}
	held, err := l.g.c.Backup.Held(ctx, v.tenant.Name, at.Lookup)
	if err != nil || held.Wrapped == nil {
		return nil // nothing was learned that it could go with
	}
	data, err := session.Unwrap(v.tenant.Name, held.Wrapped, at)
	key := session.UserInfoOf(data)
	if err != nil || key == nil {
		return nil
	}
	of, err := s.OpenRecord(v.tenant.Name, held.Record, data, held.Data)
	if err != nil {
		l.g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	m := &backup.Learned{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: v.flow.Name(), Sent: x.sent.UnixNano(), Interactive: true, ClientAuth: "none",
		Client: held.Client, Subject: held.Subject, Session: held.Session,
		HabitKey: s.HabitOf(v.tenant.Name, v.issuer.ID, oidc.UserInfoHabit(of.Client)), Shape: le.Shape, Unlearned: l.unfit(ctx, x, le, of),
	}
	if m.Unlearned != "" { // only in which form the client is told
		l.g.Counts.Unlearned(v.tenant.Name, m.Unlearned)
		return []sealed{{Learned: m}}
	}
	rec := le.Record
	rec.Client, rec.Subject, rec.Scope, rec.Nonced = of.Client, of.Subject, of.Scope, t.nonced()
	under := s.UserInfoKeys(v.tenant.Name, v.issuer.ID, key)
	kept, err := session.Seal(rec, nil, under)
	if err != nil {
		l.g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	m.Sealed, m.Presented = *kept, under.Lookup
	if h := rec.UserInfo.Header; h != nil {
		m.Signs = map[string]string{flow.ClassUserInfo: h.Text("alg")}
	}
	return []sealed{{Learned: m}}
}

// unfit says why what UserInfo said cannot be said again of the sign-in of, "" where it can.
func (l *learner) unfit(ctx context.Context, x *lesson, le *flow.Lesson, of *session.Record) string {
	v, tok := x.t.v, x.o.token
	switch {
	case le.Unlearned != "":
		return le.Unlearned
	case x.t.ask.Client.DPoP && !x.t.possess():
		return "dpop"
	case le.Record.UserInfo.Claims.Text("sub") != of.Subject:
		return "subject_changed" // OpenID Connect Core, section 5.3.4
	case tok == nil:
		return ""
	case v.issuer.problem != "":
		return "keys_not_mergeable"
	}
	if why := l.unsigned(ctx, v, tok); why != "" {
		return why
	}
	if !v.issuer.signed(string(x.o.body), tok) {
		return "unknown_key"
	}
	return ""
}
