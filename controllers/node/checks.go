package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// ReasonHealthPortTaken is the reason of the Event of a Service whose
// healthCheckNodePort cannot be opened.
const ReasonHealthPortTaken diag.Reason = "HealthCheckNodePortUnavailable"

// checkRetry is how long to wait before a port that was taken is tried again.
const checkRetry = 10 * time.Second

// healthChecks tell external load balancers whether this node has endpoints of
// a Service with externalTrafficPolicy Local (spec.healthCheckNodePort). Safe
// for concurrent use.
type healthChecks struct {
	// const after newHealthChecks
	healthy func() bool // whether changes reach the kernel
	report  func(...diag.Problem)
	log     logr.Logger
	changed chan struct{} // has one value while servers may be to change

	mu        sync.Mutex // protects the following
	wanted    map[l4.Name]*check
	addresses []netip.Addr // to listen at; empty: all
}

// check is one Service's. Port and name never change.
type check struct {
	name  l4.Name
	port  uint16
	local atomic.Int64 // endpoints on this node
}

func newHealthChecks(healthy func() bool, report func(...diag.Problem), log logr.Logger) *healthChecks {
	return &healthChecks{healthy: healthy, report: report, log: log, changed: make(chan struct{}, 1), wanted: map[l4.Name]*check{}}
}

// set takes over a Service; nil: it is gone.
func (h *healthChecks) set(n l4.Name, s *l4.Service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.wanted[n]
	switch {
	case s == nil || s.HealthCheckNodePort == 0:
		if old == nil {
			return
		}
		delete(h.wanted, n)
	case old != nil && old.port == s.HealthCheckNodePort:
		old.local.Store(int64(s.LocalReady()))
		return
	default:
		c := &check{name: n, port: s.HealthCheckNodePort}
		c.local.Store(int64(s.LocalReady()))
		h.wanted[n] = c
	}
	h.wake()
}

// listenOn says at which addresses to answer: where NodePorts do.
func (h *healthChecks) listenOn(n l4.NodePorts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(h.addresses, n.Addresses) {
		return
	}
	h.addresses = n.Addresses
	h.wake()
}

func (h *healthChecks) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// listener is an open port.
type listener struct {
	check  *check
	at     string
	server *http.Server
}

// run opens and closes ports until ctx is done.
func (h *healthChecks) run(ctx context.Context) {
	open := map[string]*listener{}
	defer func() {
		for _, l := range open {
			_ = l.server.Close()
		}
	}()
	for {
		var retry <-chan time.Time
		if !h.reconcile(open) {
			retry = time.After(checkRetry)
		}
		select {
		case <-h.changed:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// reconcile makes open what is wanted. It reports whether all of it is open.
func (h *healthChecks) reconcile(open map[string]*listener) bool {
	wanted := h.places()
	for at, l := range open {
		if wanted[at] != l.check {
			_ = l.server.Close()
			delete(open, at)
		}
	}
	all := true
	for at, c := range wanted {
		if open[at] != nil {
			continue
		}
		l, err := h.listen(at, c)
		if err != nil {
			all = false
			h.report(diag.Problem{
				Object: diag.Ref{Kind: "Service", Namespace: c.name.Namespace, Name: c.name.Name},
				Field:  "spec.healthCheckNodePort", Reason: ReasonHealthPortTaken,
				Message: fmt.Sprintf("the health check for load balancers cannot listen: %v", err),
				Remedy:  "Stop what uses the port on this node; it is tried again",
			})
			continue
		}
		open[at] = l
	}
	return all
}

// places lists where to listen for which check.
func (h *healthChecks) places() map[string]*check {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]*check{}
	for _, c := range h.wanted {
		port := strconv.Itoa(int(c.port))
		if len(h.addresses) == 0 {
			out[":"+port] = c
		}
		for _, a := range h.addresses {
			out[net.JoinHostPort(a.String(), port)] = c
		}
	}
	return out
}

func (h *healthChecks) listen(at string, c *check) (*listener, error) {
	socket, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h.page(c), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 4 << 10}
	go func() {
		if err := s.Serve(socket); err != http.ErrServerClosed {
			h.log.Error(err, "health check of a Service", "service", c.name.String(), "address", at)
		}
	}()
	return &listener{check: c, at: at, server: s}, nil
}

// page answers as kube-proxy does: with 200 if the node has endpoints that are
// ready, and changes reach the kernel.
func (h *healthChecks) page(c *check) http.Handler {
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		local, healthy := c.local.Load(), h.healthy()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
		if local == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(struct {
			Service             service `json:"service"`
			LocalEndpoints      int64   `json:"localEndpoints"`
			ServiceProxyHealthy bool    `json:"serviceProxyHealthy"`
		}{service{c.name.Namespace, c.name.Name}, local, healthy})
	})
}
