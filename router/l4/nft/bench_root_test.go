//go:build linux && root

package nft_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/netns"
)

func benchEndpoint(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080)
}

func benchService(i, endpoints int, affinity time.Duration) *l4.Service {
	s := &l4.Service{
		Name:       l4.Name{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)},
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30 + byte(i>>16), byte(i >> 8), byte(i)})}, Affinity: affinity,
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 80}},
	}
	for e := 0; e < endpoints; e += 100 {
		g := &l4.Group{}
		for j := e; j < min(e+100, endpoints); j++ {
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: benchEndpoint(i*10 + j), Ready: true, Serving: true, Local: j%10 == 0})
		}
		s.Ports[0].Groups = append(s.Ports[0].Groups, g)
	}
	return s
}

// swapOne returns the Service with one endpoint replaced, in a new group.
func swapOne(s *l4.Service, n int) *l4.Service {
	out := *s
	out.Ports = slices.Clone(s.Ports)
	groups := slices.Clone(s.Ports[0].Groups)
	at := n % len(groups)
	g := &l4.Group{Endpoints: slices.Clone(groups[at].Endpoints)}
	g.Endpoints[n%len(g.Endpoints)].Address = benchEndpoint(1<<23 + n%(1<<20))
	groups[at] = g
	out.Ports[0].Groups = groups
	return &out
}

func benchPlanner() *l4.Planner {
	return l4.NewPlanner(l4.Node{Name: "node1", NodePorts: l4.NodePorts{All: true}, Pods: l4.Detector{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
}

// growOne returns the Service with one endpoint more, or one less if it is not as
// it was made.
func growOne(s *l4.Service, n int) *l4.Service {
	out := *s
	out.Ports = slices.Clone(s.Ports)
	groups := slices.Clone(s.Ports[0].Groups)
	if last := len(groups) - 1; groups[last].Endpoints[0].Address.Port() == 81 {
		groups = groups[:last]
	} else {
		more := netip.AddrPortFrom(benchEndpoint(1<<23+n%(1<<20)).Addr(), 81)
		groups = append(groups, &l4.Group{Endpoints: []l4.Endpoint{{Address: more, Ready: true, Serving: true}}})
	}
	out.Ports[0].Groups = groups
	return &out
}

// BenchmarkChange replaces one endpoint, or adds one and takes it away in turns,
// from what the Service is now to the commit: the cost must not depend on the
// number of Services or endpoints.
func BenchmarkChange(b *testing.B) {
	for _, size := range []struct {
		services, endpoints int
		affinity            time.Duration
		kind                string
		change              func(*l4.Service, int) *l4.Service
	}{
		{100, 5, 0, "swap", swapOne}, {10_000, 5, 0, "swap", swapOne}, {50_000, 10, 0, "swap", swapOne}, {1, 100_000, 0, "swap", swapOne},
		{100, 5, time.Hour, "swap", swapOne}, {10_000, 5, time.Hour, "swap", swapOne},
		{100, 5, time.Hour, "grow", growOne}, {10_000, 5, time.Hour, "grow", growOne},
		{1, 50_000, time.Hour, "swap", swapOne}, {1, 50_000, time.Hour, "grow", growOne},
	} {
		b.Run(fmt.Sprintf("%dx%d affinity=%s %s", size.services, size.endpoints, size.affinity, size.kind), func(b *testing.B) {
			k, p := open(b, netns.New(b)), benchPlanner()
			all := make([]*l4.Service, size.services)
			for i := range all {
				all[i] = benchService(i, size.endpoints, size.affinity)
				p.Set(all[i])
			}
			k.replace(b, p.Plan())
			var took []time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := i / 2 * 7919 % len(all)
				all[at] = size.change(all[at], i)
				began := time.Now()
				p.Set(all[at])
				k.apply(b, p.Take())
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkReplace programs everything, as a start does: into an empty kernel,
// and over what is there.
func BenchmarkReplace(b *testing.B) {
	for _, size := range []struct {
		services, endpoints int
		affinity            time.Duration
	}{{1000, 5, 0}, {10_000, 5, 0}, {50_000, 10, 0}, {1000, 5, time.Hour}, {10_000, 5, time.Hour}} {
		for _, empty := range []bool{true, false} {
			b.Run(fmt.Sprintf("%dx%d affinity=%s empty=%t", size.services, size.endpoints, size.affinity, empty), func(b *testing.B) {
				p := benchPlanner()
				for i := range size.services {
					p.Set(benchService(i, size.endpoints, size.affinity))
				}
				plan := p.Plan()
				k := open(b, netns.New(b))
				k.replace(b, plan)
				for b.Loop() {
					if empty {
						b.StopTimer()
						k.delete(b)
						b.StartTimer()
					}
					k.replace(b, plan)
				}
			})
		}
	}
}
