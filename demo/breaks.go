package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"understudy/flow"
	"understudy/gateway"
	"understudy/serve"
	"understudy/store"
)

// hooksFor returns what breaks a running part.
func hooksFor(name string) (serve.Hooks, error) {
	switch name {
	case "none":
		return serve.Hooks{}, nil
	case "backup":
		return serve.Hooks{Backup: func(b gateway.Backup) gateway.Backup { return off{b} }}, nil
	case "keys":
		return serve.Hooks{Backup: func(b gateway.Backup) gateway.Backup { return unpublished{b} }}, nil
	case "store":
		return serve.Hooks{KV: func(kv store.KV) store.KV { return flipped{kv} }}, nil
	case "revocation":
		return serve.Hooks{KV: func(kv store.KV) store.KV { return forgetful{kv} }}, nil
	}
	return serve.Hooks{}, fmt.Errorf("unknown break %q", name)
}

// off is a backup that is switched off: it learns, and never answers.
type off struct{ gateway.Backup }

func (off) Play(context.Context, *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	return nil, flow.NotNow("switched_off_by_the_demo"), nil
}

// unpublished is a backup whose keys never reach the published key set.
type unpublished struct{ gateway.Backup }

func (u unpublished) PublicKeys(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error) {
	_, err := u.Backup.PublicKeys(ctx, tenant, issuer, algs)
	return nil, err
}

// flipped is a disk that gives every record back with one bit flipped.
type flipped struct{ store.KV }

const (
	recordSpace = 'r' // the session package's key spaces
	markSpace   = 'm'
)

func (f flipped) Get(key []byte) (store.Entry, error) {
	e, err := f.KV.Get(key)
	if err == nil && len(key) > 0 && key[0] == recordSpace && len(e.Value) > 0 {
		e.Value = slices.Clone(e.Value)
		e.Value[len(e.Value)/2] ^= 1
	}
	return e, err
}

// forgetful is a store that says of a revocation mark that it is kept, and has not kept it.
type forgetful struct{ store.KV }

func (f forgetful) Apply(ctx context.Context, b *store.Batch, d store.Durability) error {
	if err := f.KV.Apply(ctx, b, d); err != nil {
		return err
	}
	var lost store.Batch
	err := f.KV.Scan(ctx, []byte{markSpace}, []byte{markSpace + 1}, func(key []byte, _ store.Entry) error {
		lost.Delete(slices.Clone(key))
		return nil
	})
	if err != nil || lost.Len() == 0 {
		return err
	}
	return f.KV.Apply(ctx, &lost, store.Durable)
}
