//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/controllers/node"
)

// page is something that is served at an address.
type page struct {
	name, addr string
	handler    http.Handler
}

func (f *runFlags) pages(c *node.Controller, m *node.Metrics) []page {
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", m.Handler())
	// What kube-proxy's says; tools tell modes apart by it.
	metrics.HandleFunc("GET /proxyMode", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "nftables") })
	debug := http.NewServeMux()
	debug.Handle("GET /", c.Inspect())
	debug.Handle("GET /readyz", c.Health())
	debug.Handle("GET /livez", c.Health())
	var out []page
	for _, p := range []page{{"health", f.healthAddr, c.Health()}, {"metrics", f.metricsAddr, metrics}, {"debug", f.debugAddr, debug}} {
		if p.addr != "" {
			out = append(out, p)
		}
	}
	return out
}

// listenAgain is how long to wait before an address that was taken is tried
// again.
const listenAgain = 5 * time.Second

// serve serves until ctx is done. An address that is taken is waited for: a
// kube-proxy that runs beside us has the same.
func (p page) serve(ctx context.Context, log logr.Logger) error {
	socket, err := net.Listen("tcp", p.addr)
	for told := false; err != nil; socket, err = net.Listen("tcp", p.addr) {
		if !told {
			log.Error(err, "the address is not free: it is tried again", "page", p.name, "address", p.addr, "advice", "kube-proxy has the same ones; it may go now")
			told = true
		}
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
			return nil
		}
	}
	s := &http.Server{Handler: p.handler, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s page: %w", p.name, err)
	}
	return nil
}
