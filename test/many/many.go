// Package many makes Services in numbers, for benchmarks.
package many

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/portico-ingress/portico/router/l4"
)

// Services are alike. Their endpoints lie in 10.0.0.0/8, the ClusterIPs in
// 172.16.0.0/12.
type Services struct {
	Endpoints int // of each Service
	// Group is how many endpoints an EndpointSlice has; 0: 100.
	Group int
	// Local is how many of ten endpoints are on the node.
	Local int
}

// perGroup is how many endpoints the controller of EndpointSlices puts into one.
const perGroup = 100

// Service returns the i-th.
func (m Services) Service(i int) *l4.Service {
	s := &l4.Service{
		Name:       l4.Name{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)},
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})},
		Ports:      []l4.Port{{Protocol: l4.TCP, Port: 80}},
	}
	size := m.Group
	if size == 0 {
		size = perGroup
	}
	for e := 0; e < m.Endpoints; e += size {
		g := &l4.Group{}
		for j := e; j < min(e+size, m.Endpoints); j++ {
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: Endpoint(i*m.Endpoints + j), Ready: true, Serving: true, Local: j%10 < m.Local})
		}
		s.Ports[0].Groups = append(s.Ports[0].Groups, g)
	}
	return s
}

// Endpoint returns the n-th endpoint of all.
func Endpoint(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080)
}

// unused is a number from which on no Service has endpoints.
const unused = 1 << 23

// SwapOne returns a Service with one endpoint replaced, the n-th time, in a new
// group.
func SwapOne(s *l4.Service, n int) *l4.Service {
	out := *s
	out.Ports = slices.Clone(s.Ports)
	groups := slices.Clone(s.Ports[0].Groups)
	at := n % len(groups)
	g := &l4.Group{Endpoints: slices.Clone(groups[at].Endpoints)}
	g.Endpoints[n%len(g.Endpoints)].Address = Endpoint(unused + n%(1<<20))
	groups[at] = g
	out.Ports[0].Groups = groups
	return &out
}

// GrowOne returns a Service with one endpoint more, or one less if it is not as it
// was made.
func GrowOne(s *l4.Service, n int) *l4.Service {
	const port = 81 // of those that were added
	out := *s
	out.Ports = slices.Clone(s.Ports)
	groups := slices.Clone(s.Ports[0].Groups)
	if last := len(groups) - 1; groups[last].Endpoints[0].Address.Port() == port {
		groups = groups[:last]
	} else {
		more := netip.AddrPortFrom(Endpoint(unused+n%(1<<20)).Addr(), port)
		groups = append(groups, &l4.Group{Endpoints: []l4.Endpoint{{Address: more, Ready: true, Serving: true}}})
	}
	out.Ports[0].Groups = groups
	return &out
}

// Node is the node that they are for.
func Node() l4.Node {
	return l4.Node{
		Name: "node1", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, NodePorts: l4.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}, Pods: l4.Detector{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	}
}
