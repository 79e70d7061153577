package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// kind is what keys of a fence take turns at.
type kind struct{ alg, class string }

// turn is the life of keys, pure: what the keys of one fence are at now, and what must be made. lack lists kinds
// without a current key, whose new key signs at once; heirs lists kinds without a next one.
func (o Options) turn(ks []*Key, now time.Time) (out []*Key, lack, heirs []kind) {
	var kinds []kind
	for _, k := range ks {
		if kd := (kind{k.Alg, k.Class}); !slices.Contains(kinds, kd) {
			kinds = append(kinds, kd)
		}
	}
	for _, kd := range kinds {
		var c, n *Key
		for _, k := range ks {
			switch {
			case k.Alg != kd.alg || k.Class != kd.class:
			case k.State == Current:
				c = k
			case k.State == Next:
				n = k
			case now.Before(k.Ends):
				out = append(out, k)
			}
		}
		// The clock was ahead once and is right now: without this the key would sign only when that time comes again.
		if c != nil && now.Before(c.NotBefore) {
			c = c.with(func(k *Key) {
				k.Published, k.NotBefore, k.NotAfter = earlier(k.Published, now), now, now.Add(o.Window)
			})
		}
		if n != nil && now.Before(n.Published) {
			n = n.with(func(k *Key) { k.Published, k.NotBefore = now, now.Add(o.Ahead) })
		}
		dead := c != nil && !now.Before(c.NotAfter)
		ready := n != nil && !now.Before(n.NotBefore)
		if dead || c != nil && ready && !now.Before(c.NotBefore.Add(o.Period)) {
			if old := c.retire(now); now.Before(old.Ends) {
				out = append(out, old)
			}
			c = nil
		}
		if c == nil && n != nil {
			c, n = n.promote(now, o.Window), nil
		}
		if c != nil {
			out = append(out, c)
		} else {
			lack = append(lack, kd)
		}
		if n != nil {
			out = append(out, n)
		} else {
			heirs = append(heirs, kd)
		}
	}
	return out, lack, heirs
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (k *Key) with(change func(*Key)) *Key {
	c := *k
	change(&c)
	return &c
}

// retire ends a key's signing, at now or when its window ended. The private half is dropped.
func (k *Key) retire(now time.Time) *Key {
	return k.with(func(k *Key) {
		k.NotAfter = earlier(k.NotAfter, now)
		k.State, k.Ends = Retired, k.NotAfter.Add(k.Reach).Add(leeway)
		k.private, k.signer = nil, nil
	})
}

func (k *Key) promote(now time.Time, window time.Duration) *Key {
	return k.with(func(k *Key) {
		k.State, k.NotBefore, k.NotAfter = Current, now, now.Add(window)
	})
}

// change applies f to the keys of a fence and keeps the result: on disk first, so that what is published or signed
// with is still there after a restart. r.mu is not held.
func (r *Ring) change(f Fence, do func(ks []*Key) []*Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.of(f)
	ks := do(old)
	if slices.Equal(old, ks) && !r.dirty[f] {
		return nil
	}
	if err := r.save(f, ks); err != nil {
		return err
	}
	delete(r.dirty, f)
	r.put(f, ks)
	destroyGone(old, ks)
	return nil
}

// destroyGone drops the private halves of keys that sign no more.
func destroyGone(old, ks []*Key) {
	for _, o := range old {
		if k := byID(ks, o.ID); k == nil || k.signer == nil {
			o.destroy()
		}
	}
}

func (r *Ring) make(ctx context.Context, kd kind, s State) (*Key, error) {
	p, err := generate(ctx, kd.alg)
	if err != nil {
		return nil, err
	}
	id, err := thumbprint(p.Public())
	if err != nil {
		return nil, err
	}
	now := r.o.Now()
	k := &Key{ID: id, Alg: kd.alg, Class: kd.class, State: s, Published: now, Reach: minReach, public: p.Public(), private: p}
	k.NotBefore = now.Add(r.o.Ahead)
	if s == Current {
		k.NotBefore, k.NotAfter = now, now.Add(r.o.Window)
	}
	return k, r.adopt(k)
}

// add makes a key and puts it among those of the fence, unless somebody else has done so meanwhile. Making one takes a
// while and holds nobody up.
func (r *Ring) add(ctx context.Context, f Fence, kd kind, s State) error {
	k, err := r.make(ctx, kd, s)
	if err != nil {
		return fmt.Errorf("make a %s key for %s: %w", kd.alg, kd.class, err)
	}
	return r.change(f, func(ks []*Key) []*Key {
		for _, o := range ks {
			if o.State == s && o.Alg == kd.alg && o.Class == kd.class {
				return ks
			}
		}
		return append(slices.Clone(ks), k)
	})
}

// Ensure makes the keys of an algorithm that the fence lacks, one for each class; without classes, for access tokens
// and ID tokens. A fence's very first key signs at once; its Info says Young until verifiers can know it.
func (r *Ring) Ensure(f Fence, alg string, classes ...string) error {
	if len(classes) == 0 {
		classes = []string{AccessToken, IDToken}
	}
	ctx, now := context.Background(), r.o.Now()
	for _, class := range classes {
		if !known(class) {
			return fmt.Errorf("%w: token class %.32q", ErrNoKey, class)
		}
		if r.keys.Load().current(f, class, alg, now) != nil {
			continue
		}
		if err := r.turnFence(ctx, f, now, false); err != nil {
			return err
		}
		if r.keys.Load().current(f, class, alg, now) == nil {
			if err := r.add(ctx, f, kind{alg, class}, Current); err != nil {
				return err
			}
		}
		r.wake()
	}
	return nil
}

func (r *Ring) wake() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// Rotate lets time pass: next keys that were published long enough take the place of old ones, retired keys whose
// tokens have all expired are destroyed, and every kind of key gets a next one. What fails for one fence does not keep
// the others from turning.
func (r *Ring) Rotate(ctx context.Context, now time.Time) error {
	var errs []error
	for f := range *r.keys.Load() {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := r.turnFence(ctx, f, now, true); err != nil {
			errs = append(errs, fmt.Errorf("turn the keys of %s, issuer %s: %w", f.Tenant, f.Issuer, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Ring) turnFence(ctx context.Context, f Fence, now time.Time, withHeirs bool) error {
	var lack, heirs []kind
	err := r.change(f, func(ks []*Key) []*Key {
		var out []*Key
		out, lack, heirs = r.o.turn(ks, now)
		return out
	})
	if err != nil {
		return err
	}
	for _, kd := range lack {
		if err := r.add(ctx, f, kd, Current); err != nil {
			return err
		}
	}
	if !withHeirs {
		return nil
	}
	for _, kd := range heirs {
		if err := r.add(ctx, f, kd, Next); err != nil {
			return err
		}
	}
	return nil
}

// Run rotates until ctx ends. A rotation that fails (a full disk) is told and tried again a minute later; keys go on
// signing within their windows.
func (r *Ring) Run(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		if err := r.Rotate(ctx, r.o.Now()); err != nil && ctx.Err() == nil {
			r.o.Log.Error("backup keys do not rotate", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-r.nudge:
		}
	}
}

// Remove ends a key at once: nothing is signed with it, no token of it is valid, and it leaves the published set. Where
// it was the current one, the next takes its place at once, or a new one. An error that says that the file could not be
// written means that the removal holds in this process only; it is tried again at every rotation.
func (r *Ring) Remove(f Fence, id string) error {
	r.mu.Lock()
	ks := r.of(f)
	k := byID(ks, id)
	if k == nil {
		r.mu.Unlock()
		return fmt.Errorf("no key %.64q of tenant %.64q and issuer %.256q: `understudy keys` lists them", id, f.Tenant, f.Issuer)
	}
	left := without(ks, k)
	if k.State == Current {
		if i := slices.IndexFunc(left, func(n *Key) bool { return n.State == Next && n.Alg == k.Alg && n.Class == k.Class }); i >= 0 {
			left[i] = left[i].promote(r.o.Now(), r.o.Window)
		}
	}
	r.put(f, left)
	r.dirty[f] = true
	destroyGone(ks, left)
	err := r.save(f, left)
	if err == nil {
		delete(r.dirty, f)
	}
	r.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("key %s is removed here, but a restart would bring it back until the disk can be written: %w", id, err)
	}
	if k.State != Retired && r.keys.Load().current(f, k.Class, k.Alg, r.o.Now()) == nil {
		err = errors.Join(err, r.add(context.Background(), f, kind{k.Alg, k.Class}, Current))
	}
	r.wake()
	return err
}

// extend keeps that a key signs tokens of this lifetime, before it does: it stays published as long.
func (r *Ring) extend(f Fence, id string, lifetime time.Duration) error {
	const day = 24 * time.Hour
	reach := (lifetime + day - 1) / day * day
	return r.change(f, func(ks []*Key) []*Key {
		out := slices.Clone(ks)
		for i, k := range out {
			if k.ID == id && k.State == Current && k.Reach < reach {
				out[i] = k.with(func(k *Key) { k.Reach = reach })
			}
		}
		return out
	})
}
