package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/health"
	"understudy/session"
)

// question is the way of a request that asks what an access token of the primary's is (RFC 7662; OpenID Connect Core, section
// 5.3), and changes nothing: the primary's to answer, and the backup's where it does not, or not in time.
func (t *trip) question(ctx context.Context) (*http.Response, error) {
	dark := t.monitor.Share() == 0
	if dark {
		if resp, ok := t.aboutToken(ctx, "breaker"); ok {
			return resp, nil
		}
	}
	opened := t.monitor.Opened()
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan result, 1)
	t.sent = t.g.c.Now()
	go func() {
		o, resp := t.send(up, t.v.request.Body)
		done <- result{o, resp}
	}()
	deadline := time.NewTimer(t.monitor.Deadline())
	defer deadline.Stop()
	for {
		trigger := "deadline"
		select {
		case r := <-done:
			rule := classify(t.g.rules, r.o)
			t.tell(rule, r.o)
			if rule != nil && (rule.Origin == health.Beyond || rule.Origin == health.Doubt && t.doubtsOf(ctx, rule.Probe)) {
				if resp, ok := t.aboutToken(ctx, rule.Name); ok {
					return resp, nil
				}
			}
			if rule == nil && r.o.status == http.StatusOK && t.v.endpoint == flow.UserInfo {
				t.v.tenant.failing[flow.UserInfo].forget()
			}
			if rule == nil && t.saysOver(r.o) && !t.tokenOver(ctx) {
				return t.notKept(), nil
			}
			return t.delivered(ctx, rule, r.o, r.resp)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			if !t.doubtsOf(ctx, false) {
				continue
			}
		case <-opened:
			opened, trigger, dark = nil, "breaker", true
			deadline.Reset(t.monitor.Deadline())
		}
		if resp, ok := t.aboutToken(ctx, trigger); ok {
			return resp, nil
		}
		if dark && trigger == "deadline" { // whoever asks for every request that it serves must not wait for all of them
			t.g.note(t.v, "refused", "primary_away", trigger)
			return t.refuse(flow.NotNow("primary_away")), nil
		}
	}
}

// answers says whether the primary said what a token is, or whose.
func (t *trip) answers(o *outcome) bool {
	switch t.v.endpoint {
	case flow.Introspection:
		return string(o.object.Get("active")) == "true"
	case flow.UserInfo:
		return o.object.Text("sub") != ""
	}
	return false
}

// saysOver says whether the primary's answer is that the token is over.
func (t *trip) saysOver(o *outcome) bool {
	if t.v.endpoint == flow.Introspection {
		return o.status == http.StatusOK && string(o.object.Get("active")) == "false"
	}
	return o.status == http.StatusUnauthorized && !refusesProof(o.header)
}

// refusesProof says whether a challenge is about the proof of possession, or the nonce in it (RFC 9449, sections 7.1 and 9): it says
// nothing of the token.
func refusesProof(h http.Header) bool {
	return slices.ContainsFunc(h.Values("WWW-Authenticate"), func(s string) bool {
		s = strings.ReplaceAll(s, `"`, "")
		return strings.Contains(s, "error=use_dpop_nonce") || strings.Contains(s, "error=invalid_dpop_proof")
	})
}

// tokenOver keeps durably, before the client is told, that the primary said of a token that it is over: to this caller where one
// asked, because others may be told more. It is false where that cannot be kept. Nothing is kept of what no primary issued, nor
// of what the primary refuses for the lack of a proof.
func (t *trip) tokenOver(ctx context.Context) bool {
	if t.ask.Artifact.Kind != session.AccessToken || t.ask.Unplayable != "" || t.ask.Client.DPoP && !t.possess() {
		return true
	}
	at := t.at(t.ask.Artifact)
	if tok, err := oauth.ParseJWT(t.ask.Artifact.Value); err == nil {
		if !t.says(tok) || !oauth.Lives(tok, t.g.c.Now()) || t.v.endpoint == flow.UserInfo && !t.bears(tok) {
			return true
		}
	} else if st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, at); err != nil || !st.Known {
		return true
	}
	m := session.Mark{
		Of: session.OfGrant, ID: t.g.c.Seal.Told(t.v.tenant.Name, t.v.issuer.ID, at, t.ask.Client.ID), At: t.sent.UnixNano(), Cause: "refused", Told: true,
	}
	if !t.g.over.due(m.ID, t.g.c.Now()) {
		return true
	}
	err := t.g.c.Backup.Mark(ctx, t.v.tenant.Name, m)
	if err != nil {
		t.g.over.forget(m.ID)
		t.g.c.Log.Error("the primary's refusal is not kept", "tenant", t.v.tenant.Name, "error", err)
	}
	return err == nil || errors.Is(err, backup.ErrStopped)
}
