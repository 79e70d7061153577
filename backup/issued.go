package backup

import (
	"context"
	"net/http"
	"time"

	"understudy/flow"
	"understudy/session"
	"understudy/store"
)

// spend takes the use of a code of the backup's, which has one. Whoever comes a second time with all that the client must
// show ends what the first one got: one of the two stole it (RFC 6749, section 4.1.2).
func (s *Service) spend(ctx context.Context, a *attempt) *flow.Refusal {
	key := onceKey(a.play.Tenant, a.play.Artifact.Lookup[:])
	first, err := s.Sessions.KV.Claim(ctx, key, time.Unix(0, a.door.Ends).Add(time.Minute))
	switch {
	case err != nil:
		s.Log.Error("the use of a code cannot be kept", "tenant", a.play.Tenant, "error", err)
		return flow.NotNow("store_failed")
	case first:
		return nil
	}
	m := session.Mark{Of: session.OfGrant, ID: a.door.Grant, Final: true, At: a.now.UnixNano(), Cause: "reuse"}
	if err := s.Sessions.Mark(context.WithoutCancel(ctx), a.play.Tenant, m); err != nil {
		_ = s.stop(a.play.Tenant, err)
		return flow.NotNow("marks_unwritable")
	}
	return flow.No("code_replayed", http.StatusBadRequest, "invalid_grant")
}

// keepIssued makes doors for the tokens that were made, so that other endpoints can answer for them.
func (s *Service) keepIssued(ctx context.Context, a *attempt, issued []flow.Issued) error {
	var b store.Batch
	leads := int64(0)
	for _, t := range issued {
		ends := t.Ends.UnixNano()
		if t.Kind == session.OwnCode { // and the access token that it is redeemed for
			lives, _ := a.record.Response.Number("expires_in")
			ends += min(lives, maxLeads) * int64(time.Second)
		}
		leads = max(leads, ends)
		look := s.Sessions.Seal.Lookup(t.Kind, a.play.Tenant, a.play.Issuer, t.Value)
		d := *a.door
		client := ""
		if d.Bound = t.Bound; t.Kind == session.OwnCode {
			client = a.record.Client
			d.Grant = session.NewID() // what comes of it can be ended by itself
		}
		to := session.ArtifactKeys{Kind: t.Kind, Lookup: look, Key: s.Sessions.Seal.ArtifactKey(t.Kind, a.play.Tenant, a.play.Issuer, client, t.Value, nil)}
		d.Kind, d.Wrapped, d.Ends = t.Kind, session.Wrap(a.play.Tenant, a.data, to), t.Ends.UnixNano()
		if err := s.Sessions.PutDoor(&b, a.play.Tenant, look, a.now.UnixNano(), &d); err != nil {
			return err
		}
	}
	presented := *a.door
	if version, ok := presented.Leads(leads); ok {
		if err := s.Sessions.PutDoor(&b, a.play.Tenant, a.play.Artifact.Lookup, version, &presented); err != nil {
			return err
		}
	}
	return s.Sessions.KV.Apply(ctx, &b, store.Soon)
}

// maxLeads bounds, in seconds, how long a record is kept for the access token of a code.
const maxLeads = 24 * 60 * 60
