package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
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
// a Service with externalTrafficPolicy Local (spec.healthCheckNodePort): in each
// family those of that family, as kube-proxy does it. Safe for concurrent use.
type healthChecks struct {
	// const after newHealthChecks
	healthy func() bool // whether changes reach the kernel
	report  func(...diag.Problem)
	log     logr.Logger
	changed chan struct{} // has one value while servers may be to change

	mu        sync.Mutex // protects the following
	wanted    map[checkKey]*check
	nodePorts l4.NodePorts // where to listen
}

// checkKey names a check: a Service in one family.
type checkKey struct {
	service l4.Name
	ipv6    bool
}

// check is one Service's. Key and port never change.
type check struct {
	checkKey
	port  uint16
	local atomic.Int64 // endpoints on this node
}

func newHealthChecks(healthy func() bool, report func(...diag.Problem), log logr.Logger) *healthChecks {
	return &healthChecks{
		healthy: healthy, report: report, log: log, changed: make(chan struct{}, 1),
		wanted: map[checkKey]*check{}, nodePorts: l4.NodePorts{All: true},
	}
}

// set takes over a Service; nil: it is gone.
func (h *healthChecks) set(n l4.Name, s *l4.Service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ipv6 := range []bool{false, true} {
		k := checkKey{n, ipv6}
		old := h.wanted[k]
		switch {
		case s == nil || s.HealthCheckNodePort == 0 || !s.Answers(ipv6):
			if old == nil {
				continue
			}
			delete(h.wanted, k)
		case old != nil && old.port == s.HealthCheckNodePort:
			old.local.Store(int64(s.LocalReady(ipv6)))
			continue
		default:
			c := &check{checkKey: k, port: s.HealthCheckNodePort}
			c.local.Store(int64(s.LocalReady(ipv6)))
			h.wanted[k] = c
		}
		h.wake()
	}
}

// listenOn says at which addresses to answer: where NodePorts do, which may be
// none.
func (h *healthChecks) listenOn(n l4.NodePorts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodePorts.All == n.All && slices.Equal(h.nodePorts.Addresses, n.Addresses) {
		return
	}
	h.nodePorts = n
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
	server *http.Server
}

// run opens and closes ports until ctx is done.
func (h *healthChecks) run(ctx context.Context) {
	open := map[netip.AddrPort]*listener{}
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
func (h *healthChecks) reconcile(open map[netip.AddrPort]*listener) bool {
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
		switch {
		case errors.Is(err, syscall.EAFNOSUPPORT): // nobody can ask
		case err != nil:
			all = false
			h.report(diag.Problem{
				Object: diag.Ref{Kind: "Service", Namespace: c.service.Namespace, Name: c.service.Name},
				Field:  "spec.healthCheckNodePort", Reason: ReasonHealthPortTaken,
				Message: fmt.Sprintf("the health check for load balancers cannot listen: %v", err),
				Remedy:  "Stop what uses the port on this node; it is tried again",
			})
		default:
			open[at] = l
		}
	}
	return all
}

// places lists where to listen for which check: at the unspecified address of
// its family for all.
func (h *healthChecks) places() map[netip.AddrPort]*check {
	h.mu.Lock()
	defer h.mu.Unlock()
	addresses := h.nodePorts.Addresses
	if h.nodePorts.All {
		addresses = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	out := map[netip.AddrPort]*check{}
	for _, c := range h.wanted {
		for _, a := range addresses {
			if a.Is6() == c.ipv6 {
				out[netip.AddrPortFrom(a, c.port)] = c
			}
		}
	}
	return out
}

// listen opens a port in the address's own family: an IPv6 socket takes no IPv4
// connections.
func (h *healthChecks) listen(at netip.AddrPort, c *check) (*listener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	socket, err := net.Listen(network, at.String())
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h.page(c), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 4 << 10}
	go func() {
		if err := s.Serve(socket); err != http.ErrServerClosed {
			h.log.Error(err, "health check of a Service", "service", c.service.String(), "address", at.String())
		}
	}()
	return &listener{check: c, server: s}, nil
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
		}{service{c.service.Namespace, c.service.Name}, local, healthy})
	})
}
