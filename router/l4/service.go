// Package l4 decides what a node does with connections to Services: which
// addresses are answered, to which endpoints they lead, what is refused, and
// where the source address is replaced. It is the node's model, pure and
// without a word of the kernel's; router/l4/nft renders it.
//
// A Service goes in (Planner.Set), a Forwarding for each of its ports and
// families comes out (Planner.Take, Planner.Plan), and Trace follows a packet
// through a Plan. What has been handed out is never written again.
package l4

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is an IANA protocol number.
type Protocol uint8

// The protocols of Services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns "TCP", "UDP" or "SCTP", as the Service API spells them.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol reads a protocol as the Service API spells it; empty is TCP.
func ParseProtocol(s string) (Protocol, bool) {
	switch s {
	case "TCP", "":
		return TCP, true
	case "UDP":
		return UDP, true
	case "SCTP":
		return SCTP, true
	}
	return 0, false
}

// Name is the namespace and name of a Service.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

func (n Name) compare(o Name) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// Service is what the API says of one Service, with addresses parsed. It is
// never written after Planner.Set.
type Service struct {
	Name
	// Created settles equal claims: the older Service keeps an address.
	Created time.Time
	// ClusterIPs holds at most one address of each family. A family without
	// one is not forwarded at all, as in kube-proxy.
	ClusterIPs  []netip.Addr
	ExternalIPs []netip.Addr
	// LoadBalancerIPs are those of status with ipMode VIP.
	LoadBalancerIPs []netip.Addr
	// SourceRanges restrict who may use the LoadBalancerIPs of their own
	// family; with none of a family, everybody may.
	SourceRanges []netip.Prefix
	// Affinity is how long a client keeps its endpoint after its last
	// connection; 0: not at all.
	Affinity time.Duration
	// InternalLocal and ExternalLocal are the traffic policies Local.
	InternalLocal, ExternalLocal bool
	// HealthCheckNodePort is 0 unless an external load balancer asks there
	// whether this node has endpoints.
	HealthCheckNodePort uint16
	Ports               []Port
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
	// Groups hold the endpoints of both families, in any order.
	Groups []*Group
}

// Group is a set of endpoints that change together: those that one
// EndpointSlice gives one port. Groups are compared by identity: one that
// changed is a new Group, one that did not is the same pointer, and costs
// nothing. That keeps the cost of a change at the size of its slice, however
// many endpoints the Service has.
type Group struct {
	IPv6      bool // the family of every address in it
	Endpoints []Endpoint
}

// Endpoint is one address and port behind a Service port.
type Endpoint struct {
	Address netip.AddrPort
	// Ready endpoints are used. Where there is none, those that are Serving
	// and Terminating are.
	Ready, Serving, Terminating bool
	Local                       bool   // on this node
	Node                        string // may be empty
	// ForNodes and ForZones are the hints of topology-aware routing.
	ForNodes, ForZones []string
}

// LocalReady counts the addresses of a family that ready endpoints on this node
// have, each once: what the health check of external load balancers reports.
func (s *Service) LocalReady(ipv6 bool) int {
	var seen map[netip.Addr]bool
	for _, p := range s.Ports {
		for _, g := range p.Groups {
			if g.IPv6 != ipv6 {
				continue
			}
			for _, e := range g.Endpoints {
				if e.Local && e.Ready {
					if seen == nil {
						seen = map[netip.Addr]bool{}
					}
					seen[e.Address.Addr()] = true
				}
			}
		}
	}
	return len(seen)
}

// Answers reports whether the Service is forwarded in a family at all.
func (s *Service) Answers(ipv6 bool) bool {
	_, ok := s.clusterIP(ipv6)
	return ok
}

// clusterIP returns the ClusterIP of a family.
func (s *Service) clusterIP(ipv6 bool) (netip.Addr, bool) {
	i := slices.IndexFunc(s.ClusterIPs, func(a netip.Addr) bool { return a.Is6() == ipv6 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return s.ClusterIPs[i], true
}
