package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// scene is one promise, played.
type scene struct {
	name string
	play func(*player, context.Context) (said string, err error)
}

// scenes are played in this order, each on what the one before left.
func scenes() []scene {
	return []scene{
		{"sign-in", (*player).signIn},
		{"learn", (*player).learn},
		{"kill", (*player).kill},
		{"outage", (*player).outage},
		{"verify", (*player).verify},
		{"black-hole", (*player).blackHole},
		{"return", (*player).comeBack},
		{"revoke", (*player).revoke},
		{"refused", (*player).refusedByPrimary},
		{"refused-in-outage", (*player).refusedInOutage},
		{"revoked-in-outage", (*player).revokedInOutage},
	}
}

// player is an application with two people, alice and bob.
type player struct {
	s     *stage
	c     *client
	alice *tokens
	bob   *tokens
	// held is the refresh token that alice's application had when the primary died.
	held    string
	answers []*tokens // of the backup, in the outage
}

// errScene is how a scene that does not keep its promise ends the demo.
type errScene struct {
	name string
	err  error
}

func (e *errScene) Error() string { return fmt.Sprintf("scene %q failed: %v", e.name, e.err) }
func (e *errScene) Unwrap() error { return e.err }

// playScenes plays every scene until one fails, prints a line for each, and a summary as the last line.
func playScenes(ctx context.Context, s *stage, out io.Writer) error {
	began := time.Now()
	p := &player{s: s}
	all := scenes()
	fmt.Fprintf(out, "primary: %s, at %s; understudy at %s\n", s.primary.name, s.primary.URL(), s.gateway)
	for i, sc := range all {
		at := time.Now()
		said, err := sc.play(p, ctx)
		took := time.Since(at).Seconds()
		if err != nil {
			fmt.Fprintf(out, "FAIL  %-18s %5.1f s  %v\n", sc.name, took, err)
			fmt.Fprintf(out, "failed at scene %q; the %d before it passed, the %d after it were not played (%.1f s)\n",
				sc.name, i, len(all)-i-1, time.Since(began).Seconds())
			return &errScene{sc.name, err}
		}
		fmt.Fprintf(out, "ok    %-18s %5.1f s  %s\n", sc.name, took, said)
	}
	fmt.Fprintf(out, "all %d scenes passed (%.1f s)\n", len(all), time.Since(began).Seconds())
	return nil
}

// signIn signs alice and bob in at the primary's own page, through the gateway.
func (p *player) signIn(ctx context.Context) (string, error) {
	var err error
	if p.c, err = newClient(ctx, p.s.gateway, p.s.primary, p.s.redirect); err != nil {
		return "", err
	}
	for user, t := range map[string]**tokens{"alice": &p.alice, "bob": &p.bob} {
		if *t, err = p.c.person(ctx, p.s.primary, user); err != nil {
			return "", fmt.Errorf("%s: %w", user, err)
		}
		if (*t).byBackup() {
			return "", fmt.Errorf("%s: the backup signed a first sign-in", user)
		}
		if (*t).refresh == "" {
			return "", fmt.Errorf("%s: no refresh token", user)
		}
	}
	return fmt.Sprintf("alice and bob signed in through the gateway; ID tokens verified, key %.12s… of the primary", p.alice.kid), nil
}

// learn refreshes once while the primary serves, and waits until all of it is remembered.
func (p *player) learn(ctx context.Context) (string, error) {
	t, err := p.c.refreshed(ctx, p.alice.refresh)
	if err != nil {
		return "", err
	}
	if err := p.c.verify(ctx, t); err != nil {
		return "", err
	}
	if t.byBackup() {
		return "", errors.New("the backup answered while the primary serves")
	}
	p.alice = t
	if err := p.s.awaitLearned(ctx, 3); err != nil {
		return "", err
	}
	return fmt.Sprintf("alice refreshed at the primary; %d approved exchanges are sealed and remembered", p.s.learnedSoFar()), nil
}

func (p *player) kill(context.Context) (string, error) {
	return p.killed()
}

func (p *player) killed() (string, error) {
	pid, err := p.s.kill()
	if err != nil {
		return "", err
	}
	if pid == 0 {
		return "", errors.New("there was no process to kill")
	}
	u, err := url.Parse(p.s.primary.URL())
	if err != nil {
		return "", err
	}
	if c, err := net.DialTimeout("tcp", u.Host, time.Second); err == nil {
		c.Close()
		return "", fmt.Errorf("something still listens at %s", u.Host)
	}
	return fmt.Sprintf("SIGKILL: process %d is gone from the process table, and its port is closed", pid), nil
}

// outage refreshes three times with the primary dead.
func (p *player) outage(ctx context.Context) (string, error) {
	p.held = p.alice.refresh
	var slowest time.Duration
	for i := range 3 {
		if err := p.nextSecond(ctx); err != nil {
			return "", err
		}
		t, err := p.c.refreshed(ctx, p.held)
		if err != nil {
			return "", fmt.Errorf("refresh %d: %w", i+1, err)
		}
		if !t.byBackup() {
			return "", fmt.Errorf("refresh %d: signed by key %q, which is not the backup's", i+1, t.kid)
		}
		if t.refresh != p.held {
			return "", fmt.Errorf("refresh %d: the backup gave another refresh token, which the primary does not know", i+1)
		}
		slowest = max(slowest, t.latency)
		p.answers = append(p.answers, t)
	}
	return fmt.Sprintf("%d refreshes answered by the backup, key %.12s…, the slowest in %d ms", len(p.answers), p.answers[0].kid, slowest.Milliseconds()), nil
}

// verify holds each of the backup's answers against the key set that the gateway serves, and against what the primary said.
func (p *player) verify(ctx context.Context) (string, error) {
	last := p.alice
	for i, t := range p.answers {
		if err := p.c.verify(ctx, t); err != nil {
			return "", fmt.Errorf("answer %d: %w", i+1, err)
		}
		if err := continues(last, t); err != nil {
			return "", fmt.Errorf("answer %d: %w", i+1, err)
		}
		last = t
	}
	p.alice = last
	return fmt.Sprintf("all %d verified by go-oidc against the gateway's key set: same sub (%.12s…), new iat each", len(p.answers), last.id.Subject), nil
}

// continues says whether t is of the same person and session as was, and newer.
func continues(was, t *tokens) error {
	switch {
	case t.id.Subject != was.id.Subject:
		return errors.New("another sub")
	case t.claims.SID != was.claims.SID:
		return errors.New("another sid")
	case t.id.Issuer != was.id.Issuer:
		return errors.New("another issuer")
	case !t.id.IssuedAt.After(was.id.IssuedAt):
		return fmt.Errorf("iat %d is not after %d", t.id.IssuedAt.Unix(), was.id.IssuedAt.Unix())
	}
	return nil
}

// blackHole brings the primary back and then stops its process: connections are taken, and nothing is answered.
func (p *player) blackHole(ctx context.Context) (string, error) {
	if err := p.s.bringBack(ctx); err != nil {
		return "", err
	}
	if _, err := p.untilPrimary(ctx); err != nil {
		return "", fmt.Errorf("before the black hole: %w", err)
	}
	time.Sleep(p.s.primary.settle)
	pid, err := p.s.freeze(ctx)
	if err != nil {
		return "", err
	}
	p.held = p.alice.refresh
	var waits []string
	for i := range 3 {
		if err := p.nextSecond(ctx); err != nil {
			return "", err
		}
		t, err := p.c.refreshed(ctx, p.held)
		if err != nil {
			return "", fmt.Errorf("refresh %d: %w", i+1, err)
		}
		if err := p.c.verify(ctx, t); err != nil {
			return "", fmt.Errorf("refresh %d: %w", i+1, err)
		}
		if !t.byBackup() {
			return "", fmt.Errorf("refresh %d: %w", i+1, errNoOutage)
		}
		if err := continues(p.alice, t); err != nil {
			return "", fmt.Errorf("refresh %d: %w", i+1, err)
		}
		p.alice = t
		waits = append(waits, fmt.Sprint(t.latency.Milliseconds()))
	}
	return fmt.Sprintf("SIGSTOP: process %d takes requests and answers none; 3 refreshes answered by the backup in %s ms", pid, strings.Join(waits, ", ")), nil
}

// comeBack lets the primary go on, and refreshes there with the refresh token of before.
func (p *player) comeBack(ctx context.Context) (string, error) {
	if err := p.s.bringBack(ctx); err != nil {
		return "", err
	}
	n, err := p.untilPrimary(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the primary serves again, and the same refresh token works there: key %.12s… (%d refreshes on the way back, none failed)", p.alice.kid, n), nil
}

// untilPrimary refreshes until the primary has answered. Every answer on the way must be good, and the refresh token is
// the one that was held in the outage until the primary itself gives another.
func (p *player) untilPrimary(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for n = 1; ; n++ {
		if err := p.nextSecond(ctx); err != nil {
			return n, fmt.Errorf("the primary has not answered: %w", err)
		}
		if p.alice.refresh != p.held {
			return n, errors.New("the refresh token changed in the outage")
		}
		t, err := p.c.refreshed(ctx, p.held)
		if err != nil {
			return n, fmt.Errorf("refresh %d on the way back: %w", n, err)
		}
		if err := p.c.verify(ctx, t); err != nil {
			return n, fmt.Errorf("refresh %d on the way back: %w", n, err)
		}
		if err := continues(p.alice, t); err != nil {
			return n, fmt.Errorf("refresh %d on the way back: %w", n, err)
		}
		p.alice = t
		if !t.byBackup() {
			return n, nil
		}
	}
}

// revoke revokes alice's refresh token (RFC 7009) through the gateway. Bob stays signed in.
func (p *player) revoke(ctx context.Context) (string, error) {
	if err := p.c.revoke(ctx, p.alice.refresh); err != nil {
		return "", err
	}
	return "alice's refresh token was revoked at the primary, through the gateway", nil
}

func (p *player) refusedByPrimary(ctx context.Context) (string, error) {
	return "with the primary up: 400 invalid_grant", p.mustRefuse(ctx, p.alice)
}

func (p *player) mustRefuse(ctx context.Context, who *tokens) error {
	t, err := p.c.refreshed(ctx, who.refresh)
	switch {
	case err == nil && t.byBackup():
		return errors.New("the backup gave a token to a revoked session")
	case err == nil:
		return errors.New("the primary gave a token to a revoked session")
	case !refused(err):
		return fmt.Errorf("not refused as the protocol says: %w", err)
	}
	return nil
}

// refusedInOutage kills the primary once more: the backup answers bob, and refuses alice.
func (p *player) refusedInOutage(ctx context.Context) (string, error) {
	if _, err := p.killed(); err != nil {
		return "", err
	}
	t, err := p.c.refreshed(ctx, p.bob.refresh)
	if err != nil {
		return "", fmt.Errorf("bob, who was not revoked: %w", err)
	}
	if err := p.c.verify(ctx, t); err != nil {
		return "", fmt.Errorf("bob, who was not revoked: %w", err)
	}
	if !t.byBackup() {
		return "", errNoOutage
	}
	p.bob = t
	return "killed again: the backup answers bob, and alice gets 400 invalid_grant", p.mustRefuse(ctx, p.alice)
}

// revokedInOutage revokes bob as an operator does, while the primary is dead.
func (p *player) revokedInOutage(ctx context.Context) (string, error) {
	if err := p.s.revoke(ctx, p.bob.id.Subject); err != nil {
		return "", err
	}
	return "an operator revoked bob here, with the primary dead: 400 invalid_grant at once", p.mustRefuse(ctx, p.bob)
}

// nextSecond waits until a new token has a new iat, which counts seconds.
func (p *player) nextSecond(ctx context.Context) error {
	if p.alice == nil {
		return nil
	}
	last := p.alice.received
	if n := len(p.answers); n > 0 && p.answers[n-1].received.After(last) {
		last = p.answers[n-1].received
	}
	select {
	case <-time.After(time.Until(last.Truncate(time.Second).Add(1010 * time.Millisecond))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
