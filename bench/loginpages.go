package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
)

const loginBrowsers = 1024

// measureP12 shows people what they see before they sign in, through understudy and through a bare proxy in turn.
func measureP12(ctx context.Context, l *lab) ([]Row, error) {
	p, err := l.startPassing(ctx)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	jars := make([]jar, loginBrowsers)
	for i := range jars {
		b := make([]byte, 32)
		rand.Read(b)
		jars[i].ours = base64.RawURLEncoding.EncodeToString(b)
	}
	parts := []string{scriptPath, imagePath}
	all := func(addr string) load {
		return inTurn(addr, make([]int, passConns), len(jars), func(i int) *call { return login(addr, jars[i], parts...) })
	}
	only := func(addr, path string, size int) load {
		c := &call{request: get(addr, path), check: sized(size)}
		return load{addr: addr, conns: passConns, next: func(int) *call { return c }}
	}
	page := func(addr string) load {
		return inTurn(addr, make([]int, passConns), len(jars), func(i int) *call { return login(addr, jars[i]) })
	}
	ours, bare := p.ours.addr, p.proxy.addr()
	pu, pb := p.u.PID(), p.proxy.PID()
	ss, err := p.interleave(ctx,
		passed{"login-bare", all(bare), pb, 0}, passed{"login-understudy", all(ours), pu, 0}, passed{"login-rare", all(p.rare.addr()), p.rare.PID(), 0},
		passed{"signin-bare", page(bare), pb, 0}, passed{"signin-understudy", page(ours), pu, 0},
		passed{"script-bare", only(bare, scriptPath, scriptSize), pb, 0}, passed{"script-understudy", only(ours, scriptPath, scriptSize), pu, 0},
		passed{"image-bare", only(bare, imagePath, imageSize), pb, 0}, passed{"image-understudy", only(ours, imagePath, imageSize), pu, 0},
	)
	if err != nil {
		return nil, err
	}
	row := p.row("a login's pages: HTML, script and image", ss[1], ss[0], ss[2], 1.10)
	row.Unit = "µs of CPU a login"
	part := func(i int) string {
		return fmt.Sprintf("%.1f and %.1f µs", median(cpus(ss[i+1])), median(cpus(ss[i])))
	}
	row.Note += fmt.Sprintf(" The authorization endpoint's page of %d KB, which the gateway has to understand, a script of %d KB and an image of %d KB; %d browsers. Each alone, through understudy and through the bare proxy: the page %s, the script %s, the image %s.",
		signInSize>>10, scriptSize>>10, imageSize>>10, len(jars), part(3), part(5), part(7))
	return []Row{row}, nil
}

// login is an authorization request whose answer is the page to sign in on, and what that page needs.
func login(addr string, j jar, parts ...string) *call {
	target := fmt.Sprintf("%s?client_id=%s&response_type=code&scope=openid+email+profile&redirect_uri=%s&state=%s&nonce=%s&code_challenge=%s&code_challenge_method=S256",
		authPath, clientID, url.QueryEscape(redirect), rand.Text(), rand.Text(), rand.Text()+rand.Text()[:17])
	c := &call{request: navigate(addr, target, j), check: sized(signInSize)}
	c.then = func() *call { return resources(addr, parts) }
	return c
}

func resources(addr string, paths []string) *call {
	if len(paths) == 0 {
		return nil
	}
	sizes := map[string]int{scriptPath: scriptSize, imagePath: imageSize}
	return &call{request: get(addr, paths[0]), check: sized(sizes[paths[0]]), then: func() *call { return resources(addr, paths[1:]) }}
}
