package main

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// proxyChild is the peer of P3: httputil.ReverseProxy with nothing around it, tuned as people tune it (keep-alive
// connections for the whole load, pooled buffers, no compression). It listens on args[0] in front of args[1]; args[2] is by how much
// its heap may grow before garbage is collected, in percent.
func proxyChild(args []string) error {
	to, err := url.Parse(args[1])
	if err != nil {
		return err
	}
	growth, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	debug.SetGCPercent(growth)
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:  (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		BufferPool: &pool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}},
	}
	return listenAndServe(args[0], p)
}

type pool struct{ p sync.Pool }

func (p *pool) Get() []byte  { return *p.p.Get().(*[]byte) }
func (p *pool) Put(b []byte) { p.p.Put(&b) }
