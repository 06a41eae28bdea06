// Package upstream is the way to the backends: pools of endpoints, balancers,
// and the connections that requests are forwarded on. Live state is keyed by
// pool and address and outlives routing tables.
package upstream

import (
	"net/netip"

	"github.com/portico-ingress/portico/router/policy"
)

// Key names a pool: the endpoints behind one Service port. Port is as the
// Ingress spells it, a decimal number or a port name; "80" and "http" may lead
// to two pools with the same endpoints, so that a change of the Service never
// recompiles routes. Comparable.
type Key struct {
	Namespace string
	Service   string
	Port      string
}

// String returns "namespace/service:port".
func (k Key) String() string { return k.Namespace + "/" + k.Service + ":" + k.Port }

// Endpoint is one address that a pool may be served from.
type Endpoint struct {
	Addr netip.AddrPort
	// Host is set instead of Addr for an ExternalName backend: a DNS name
	// that is resolved, checked and re-resolved by TTL when it is dialled.
	Host string
	Port uint16 // with Host
	// Ready, Serving and Terminating are the EndpointSlice conditions.
	Ready       bool
	Serving     bool
	Terminating bool
	// Node and Zone say where the endpoint runs; may be empty.
	Node string
	Zone string
	// Target is the object behind the address, e.g. "Pod shop/web-1"; may be
	// empty.
	Target string
}

// State is what is known of one pool. Once handed over it is never written.
type State struct {
	// Endpoints in a canonical order (by address), unready ones included.
	Endpoints []Endpoint
	// Reason says in a sentence why there is nothing to serve from, e.g.
	// "Service shop/web does not exist"; empty if there is.
	Reason string
	// Misconfigured tells that Reason is a fault in the configuration (no
	// such Service or port), not in the health of the backend; Remedy says
	// what to do about it.
	Misconfigured bool
	Remedy        string
	// Protocol is what the Service port says that is spoken.
	Protocol policy.Protocol
	// Names are the Service's DNS names: what its certificate is for unless a
	// route says otherwise.
	Names []string
}

// Usable returns the endpoints that traffic may go to: the ready ones; if
// there is none, those that are serving while they terminate (KEP-1669).
func (s *State) Usable() []Endpoint {
	ready := filter(s.Endpoints, func(e Endpoint) bool { return e.Ready })
	if len(ready) > 0 {
		return ready
	}
	return filter(s.Endpoints, func(e Endpoint) bool { return e.Serving && e.Terminating })
}

func filter(in []Endpoint, keep func(Endpoint) bool) []Endpoint {
	var out []Endpoint
	for _, e := range in {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}
