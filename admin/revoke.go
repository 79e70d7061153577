package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"understudy/audit"
	"understudy/backup"
	"understudy/session"
)

// Revoke is a request to end sign-ins. Exactly one of Subject, Session, Client, Device and All says whose.
type Revoke struct {
	Tenant string `json:"tenant,omitempty"` // "": every tenant
	Issuer string `json:"issuer,omitempty"` // "": every issuer of the tenant

	Subject string `json:"subject,omitempty"` // the tokens' sub
	Session string `json:"session,omitempty"` // the tokens' sid
	Client  string `json:"client,omitempty"`  // client_id
	// Device is a refresh token: it and every other of its family end.
	Device string `json:"device,omitempty"`
	All    bool   `json:"all,omitempty"` // everything that was remembered until now
}

// Revoked says what was ended. It is sent only when every mark is durable.
type Revoked struct {
	At      time.Time `json:"at"` // everything that began until then is over
	Marks   int       `json:"marks"`
	Tenants []string  `json:"tenants"`
	Issuers []string  `json:"issuers,omitempty"`
	Told    []string  `json:"told,omitempty"` // clients that are told of it over the back channel
}

// tenants are those that a request is about.
func (s *Server) tenants(name string) ([]string, error) {
	if s.p.Gateway == nil {
		if name == "" {
			return nil, bad("this process has no gateway and does not know the tenants: name one (--tenant)")
		}
		return []string{name}, nil
	}
	var all []string
	for _, t := range s.p.Gateway().Tenants() {
		all = append(all, t.Name)
	}
	if name == "" {
		return all, nil
	}
	if !slices.Contains(all, name) {
		return nil, absent("there is no tenant %.64q; there are %q", name, all)
	}
	return []string{name}, nil
}

// issuers are those that a request is about. Every one is taken of which anything may be remembered: those that the
// gateway knows, and those that have keys.
func (s *Server) issuers(tenant, name string) []string {
	if name != "" {
		return []string{name}
	}
	var out []string
	if s.p.Gateway != nil {
		out = s.p.Gateway().Issuers(tenant)
	}
	if s.p.Keys != nil {
		for _, k := range s.p.Keys.List() {
			if k.Tenant == tenant {
				out = append(out, k.Issuer)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *Revoke) check() (what string, of session.What, value string, err error) {
	n := 0
	for _, c := range []struct {
		what, value string
		of          session.What
	}{{"subject", r.Subject, session.OfSubject}, {"session", r.Session, session.OfSession}, {"client", r.Client, session.OfClient}, {"device", r.Device, session.OfGrant}} {
		if c.value != "" {
			n++
			what, of, value = c.what, c.of, c.value
		}
	}
	if r.All {
		n++
		what, of = "all", session.OfTenant
	}
	if n != 1 {
		return "", 0, "", bad("say whose sign-ins end: exactly one of subject, session, client, device and all")
	}
	if r.All && r.Issuer != "" {
		return "", 0, "", bad("all is everything of a tenant: it cannot be one issuer's only; leave issuer out")
	}
	return what, of, value, nil
}

// revoke keeps final marks, and acknowledges them only when they are durable (design, law 3).
func (s *Server) revoke(r *http.Request) (any, error) {
	var req Revoke
	if err := read(r, &req); err != nil {
		return nil, err
	}
	what, of, value, err := req.check()
	if err != nil {
		return nil, err
	}
	tenants, err := s.tenants(req.Tenant)
	if err != nil {
		return nil, err
	}
	// An operator who leaves does not take the revocation with them.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	now := s.p.Now()
	out := &Revoked{At: now, Tenants: tenants}
	if what == "device" {
		err = s.revokeDevice(ctx, &req, out)
	} else {
		err = s.revokeMarks(ctx, &req, of, what, value, out)
	}
	if err != nil {
		s.p.Log.Error("a revocation is not acknowledged", "of", what, "error", err)
		return nil, err
	}
	s.p.Log.Info("revoked", "of", what, "tenants", out.Tenants, "marks", out.Marks)
	for _, t := range out.Tenants {
		s.notify(ctx, t, &req, out)
		s.line(t, &req, "revoked", "operator")
	}
	return out, nil
}

// notify lets the relying parties of a session or a person be told that it is over; each has a line of its own. The marks hold
// whoever is told.
func (s *Server) notify(ctx context.Context, tenant string, req *Revoke, out *Revoked) {
	if req.Subject == "" && req.Session == "" {
		return
	}
	for _, iss := range s.issuers(tenant, req.Issuer) {
		ps, err := s.p.Backup.SignedOut(ctx, &backup.SignOut{Tenant: tenant, Issuer: iss, Subject: req.Subject, SID: req.Session, At: out.At.UnixNano()})
		if err != nil {
			s.p.Log.Error("relying parties are not told of a revocation", "tenant", tenant, "error", err)
			continue
		}
		out.Told = append(out.Told, ps.Told...)
	}
}

func (s *Server) revokeMarks(ctx context.Context, req *Revoke, of session.What, what, value string, out *Revoked) error {
	marks := map[string][]session.Mark{}
	for _, t := range out.Tenants {
		m := session.Mark{Of: of, Final: true, At: out.At.UnixNano(), Cause: "operator"}
		if of == session.OfTenant {
			marks[t] = []session.Mark{m}
			continue
		}
		for _, iss := range s.issuers(t, req.Issuer) {
			m.ID = s.p.Seal.Pseudonym(what, t, iss, value)
			marks[t] = append(marks[t], m)
			out.Issuers = append(out.Issuers, iss)
		}
		if len(marks[t]) == 0 && req.Tenant != "" {
			return absent("tenant %s has no known issuer yet: name it (--issuer), as the primary's metadata has it", t)
		}
	}
	for t, ms := range marks {
		if err := s.p.Backup.Mark(ctx, t, ms...); err != nil {
			return unavailable("the revocation is NOT in force everywhere: tenant %s: %s; mend what status shows, then revoke again", t, err)
		}
		out.Marks += len(ms)
	}
	if out.Marks == 0 {
		return absent("no issuer is known yet: name it (--issuer), as the primary's metadata has it")
	}
	return nil
}

// revokeDevice marks the family of a refresh token. The token itself is kept nowhere.
func (s *Server) revokeDevice(ctx context.Context, req *Revoke, out *Revoked) error {
	all := out.Tenants
	out.Tenants = nil
	for _, t := range all {
		for _, iss := range s.issuers(t, req.Issuer) {
			look := s.p.Seal.Lookup(session.RefreshToken, t, iss, req.Device)
			known, err := s.p.Backup.MarkGrant(ctx, &backup.GrantMark{Tenant: t, Lookup: look, At: out.At.UnixNano(), Cause: "operator"})
			if err != nil {
				return unavailable("the revocation is NOT in force: tenant %s: %s; mend what status shows, then revoke again", t, err)
			}
			if known {
				out.Marks++
				out.Issuers = append(out.Issuers, iss)
				out.Tenants = append(out.Tenants, t)
			}
		}
	}
	if out.Marks == 0 {
		return absent("this refresh token is not known here: nothing of its family was learned, or it is older than what is remembered. Revoke the subject or session instead")
	}
	return nil
}

// line leaves a line of what an operator did (design, law 9). What was done stays done where it cannot be written.
func (s *Server) line(tenant string, req *Revoke, decision, rule string) {
	if s.p.Audit == nil {
		return
	}
	e := audit.Entry{
		Time: s.p.Now(), ID: fmt.Sprintf("operator-%d", s.p.Now().UnixNano()), Tenant: tenant, Issuer: req.Issuer, Flow: "operator", Client: req.Client,
		Subject: req.Subject, Session: req.Session, TokenIssuerType: "none", Decision: decision, Rule: rule,
	}
	err := s.p.Audit.Write(e)
	if err == nil {
		err = s.p.Audit.Sync() // it must not be less durable than the act
	}
	if err != nil {
		s.p.Log.Error("an operator's act is not in the sign-in log", "decision", decision, "error", err)
	}
}

// Lift is a request to lift inferred marks: refusals of a primary that was sick. Final marks are not lifted.
type Lift struct {
	Tenant string    `json:"tenant"`
	Cause  string    `json:"cause,omitempty"` // "": every cause
	From   time.Time `json:"from"`            // marks made from here
	To     time.Time `json:"to"`              // until here
	Try    bool      `json:"try,omitempty"`   // only count
}

// Lifted says how many marks were in the batch.
type Lifted struct {
	Marks  int            `json:"marks"`
	Causes map[string]int `json:"causes"`
	Lifted bool           `json:"lifted"` // false: only counted
}

// lift lifts the inferred marks of a stretch of time as one batch.
func (s *Server) lift(r *http.Request) (any, error) {
	var req Lift
	if err := read(r, &req); err != nil {
		return nil, err
	}
	if req.Tenant == "" || req.From.IsZero() || req.To.IsZero() || !req.From.Before(req.To) {
		return nil, bad("say which batch: tenant, and from and to, the time in which the primary was sick")
	}
	if _, err := s.tenants(req.Tenant); err != nil {
		return nil, err
	}
	if s.p.Sessions == nil {
		return nil, unavailable("this process has no store of its own, or it did not open: see status, and ask the backup's process")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Minute)
	defer cancel()
	out := &Lifted{Causes: map[string]int{}}
	err := s.p.Sessions.Marks(ctx, req.Tenant, func(m session.Mark) error {
		at := time.Unix(0, m.At)
		if !m.Final && m.Lifted == 0 && !at.Before(req.From) && at.Before(req.To) && (req.Cause == "" || m.Cause == req.Cause) {
			out.Causes[m.Cause]++
			out.Marks++
		}
		return nil
	})
	if err != nil {
		return nil, unavailable("the marks cannot be read: %s", err)
	}
	if req.Try || out.Marks == 0 {
		return out, nil
	}
	if out.Marks, err = s.p.Sessions.Lift(ctx, req.Tenant, req.Cause, req.From, req.To, s.p.Now()); err != nil {
		return nil, unavailable("nothing may be lifted: %s", err)
	}
	out.Lifted = true
	s.p.Log.Warn("inferred marks are lifted", "tenant", req.Tenant, "marks", out.Marks, "from", req.From, "to", req.To)
	s.line(req.Tenant, &Revoke{}, "lifted", "operator")
	return out, nil
}
