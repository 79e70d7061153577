// Package e2e proves the whole path on real identity providers and unmodified clients.
package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/idptest"
)

func TestKeycloakKilled(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if err := idptest.InstallKeycloak(ctx); err != nil {
		t.Fatal(err)
	}
	kc, err := idptest.StartKeycloak(ctx, dir+"/kc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kc.Kill() })
	bin, err := idptest.BuildUnderstudy(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	u, err := idptest.StartUnderstudy(ctx, bin, dir, kc.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { t.Log(u.Log()); u.Kill() })
	for _, realm := range []string{"rot", "norot"} {
		t.Run(realm, func(t *testing.T) {
			p, err := oidc.NewProvider(ctx, u.URL()+"/realms/"+realm)
			if err != nil {
				t.Fatal(err)
			}
			c := &oauth2.Config{ClientID: "web", ClientSecret: "web-secret", Endpoint: p.Endpoint(), RedirectURL: "http://127.0.0.1:9999/cb", Scopes: []string{"openid"}}
			b := &idptest.Browser{}
			at, err := b.Visit(ctx, c.AuthCodeURL("s"), c.RedirectURL, map[string]string{"username": "alice", "password": "pw-alice"})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := c.Exchange(ctx, at.Query().Get("code"))
			if err != nil {
				t.Fatal(err)
			}
			refresh := func() error {
				next, err := c.TokenSource(ctx, &oauth2.Token{RefreshToken: tok.RefreshToken, Expiry: time.Unix(1, 0)}).Token()
				if err != nil {
					return err
				}
				id, err := p.Verifier(&oidc.Config{ClientID: "web"}).Verify(ctx, next.Extra("id_token").(string))
				if err != nil {
					return err
				}
				fmt.Println(id.Subject, id.IssuedAt, next.RefreshToken == tok.RefreshToken)
				tok = next
				return nil
			}
			if err := refresh(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			kc.Kill()
			for range 3 {
				if err := refresh(); err != nil {
					t.Fatal(err)
				}
			}
			if err := kc.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(12 * time.Second)
			if err := refresh(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
