package l4_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
)

// endpointAddr numbers endpoints.
func endpointAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080)
}

func benchService(i, endpoints, perGroup int) *l4.Service {
	s := &l4.Service{
		Name:       l4.Name{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)},
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30 + byte(i>>16), byte(i >> 8), byte(i)})},
		Ports:      []l4.Port{{Protocol: l4.TCP, Port: 80, NodePort: uint16(1 + i%60000)}},
	}
	for e := 0; e < endpoints; e += perGroup {
		g := &l4.Group{}
		for j := e; j < min(e+perGroup, endpoints); j++ {
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: endpointAddr(i*10 + j), Ready: true, Serving: true, Local: j%10 == 0})
		}
		s.Ports[0].Groups = append(s.Ports[0].Groups, g)
	}
	return s
}

// swapOne returns the Service with one endpoint replaced, in a new group.
func swapOne(s *l4.Service, n int) *l4.Service {
	out := *s
	port := s.Ports[0]
	port.Groups = append([]*l4.Group(nil), port.Groups...)
	at := n % len(port.Groups)
	g := &l4.Group{Endpoints: append([]l4.Endpoint(nil), port.Groups[at].Endpoints...)}
	g.Endpoints[n%len(g.Endpoints)].Address = endpointAddr(1<<23 + n%(1<<20))
	port.Groups[at] = g
	out.Ports = []l4.Port{port}
	return &out
}

func benchNode() l4.Node {
	return l4.Node{Name: "node1", NodePorts: l4.NodePorts{All: true}, Pods: l4.Detector{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
}

// BenchmarkChange replaces one endpoint: the cost must not depend on the
// number of Services.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 10_000, 50_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p := l4.NewPlanner(benchNode())
			all := make([]*l4.Service, n)
			for i := range all {
				all[i] = benchService(i, 5, 100)
				p.Set(all[i])
			}
			p.Plan()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := i * 7919 % n
				all[at] = swapOne(all[at], i)
				p.Set(all[at])
				if c := p.Take(); len(c.Set) != 1 {
					b.Fatalf("%d updates, want 1", len(c.Set))
				}
			}
		})
	}
}

// BenchmarkChangeLarge replaces one of the many endpoints of one Service.
func BenchmarkChangeLarge(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			p := l4.NewPlanner(benchNode())
			s := benchService(0, n, 100)
			p.Set(s)
			p.Plan()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s = swapOne(s, i)
				p.Set(s)
				if c := p.Take(); len(c.Set) != 1 || len(c.Set[0].ClusterDelta.Added) != 1 {
					b.Fatal("not one endpoint")
				}
			}
		})
	}
}

// BenchmarkPlan decides everything, as at a start.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct{ services, endpoints int }{{10_000, 5}, {50_000, 10}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.endpoints), func(b *testing.B) {
			all := make([]*l4.Service, size.services)
			for i := range all {
				all[i] = benchService(i, size.endpoints, 100)
			}
			b.ReportAllocs()
			for b.Loop() {
				p := l4.NewPlanner(benchNode())
				for _, s := range all {
					p.Set(s)
				}
				if plan := p.Plan(); len(plan.Forwardings) != size.services {
					b.Fatal(len(plan.Forwardings))
				}
			}
		})
	}
}
