//go:build linux && root

package nft_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/kubeproxy"
)

// differ are the destinations in the tables at which we mean to do something
// else than kube-proxy.
var differ = []struct{ to, why string }{
	{"127.0.0.1:", "packets for 127/8 from elsewhere are dropped, whatever listens there"},
	{"192.168.99.7:", "two Services ask for the address: the older one has it, not the one that was seen last"},
	{"172.30.2.7:", "the same"},
}

// TestKubeProxyAgrees sends the same packets as TestPackets past the real
// kube-proxy: what the tables say is what it does.
func TestKubeProxyAgrees(t *testing.T) {
	eachTable(t, func(t *testing.T, r *rig, c flows.Case) {
		r.furnish(t, &c)
		kubeproxy.Start(t, r.node, c.Node, c.Services)
		for _, f := range c.Flows {
			if slices.ContainsFunc(differ, func(d struct{ to, why string }) bool { return strings.Contains(f.Name, " to "+d.to) }) {
				continue
			}
			if err := r.try(f); err != nil {
				t.Errorf("%s: %v", f.Name, err)
			}
		}
	})
}

// TestKubeProxyAgreesAtRandom has kube-proxy program random Services, and tries
// every way to each of them: what the model says is what kube-proxy does.
func TestKubeProxyAgreesAtRandom(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w, p := flows.NewWorld(seed), l4.NewPlanner(l4.Node{})
			for range 25 {
				w.Step(p)
			}
			c := randomCase(w)
			r := newRig(t, false)
			r.furnish(t, &c)
			kubeproxy.Start(t, r.node, c.Node, c.Services)
			for _, f := range c.Flows {
				if err := r.tryOnce(f); err != nil {
					t.Errorf("seed %d: %s: %v", seed, f.Name, err)
				}
			}
			t.Logf("%d flows", len(c.Flows))
		})
	}
}

// randomCase is what a world asks for, with a flow of TCP and IPv4 from
// everywhere to every front that only one Service asks for.
func randomCase(w *flows.World) flows.Case {
	c := flows.Case{Node: w.Node, Addresses: w.Node.IPs[:1]}
	p := l4.NewPlanner(w.Node)
	for _, s := range w.Services {
		s = plain(s)
		if len(s.ClusterIPs) == 0 {
			continue
		}
		c.Services = append(c.Services, s)
		p.Set(s)
	}
	plan := p.Plan()
	contested := map[string]bool{}
	for _, f := range plan.Forwardings {
		for _, r := range f.Refused {
			contested[fmt.Sprint(r.Address, r.Port)] = true
		}
	}
	for _, f := range plan.Forwardings {
		for _, fr := range f.Fronts {
			to := netip.AddrPortFrom(fr.Address, fr.Port)
			if fr.Kind == l4.NodePort {
				to = netip.AddrPortFrom(c.Addresses[0], fr.Port)
			}
			if f.Key.Protocol != l4.TCP || contested[fmt.Sprint(fr.Address, fr.Port)] {
				continue
			}
			c.Flows = append(c.Flows, randomFlows(plan, to, c.Addresses[0])...)
		}
	}
	return c
}

// plain leaves of a Service what has to do with IPv4 and TCP, and of endpoints
// that are there twice the first.
func plain(s *l4.Service) *l4.Service {
	out := *s
	ipv6 := func(a netip.Addr) bool { return a.Is6() }
	out.ClusterIPs = slices.DeleteFunc(slices.Clone(s.ClusterIPs), ipv6)
	out.ExternalIPs = slices.DeleteFunc(slices.Clone(s.ExternalIPs), ipv6)
	out.LoadBalancerIPs = slices.DeleteFunc(slices.Clone(s.LoadBalancerIPs), ipv6)
	out.Ports = nil
	for _, p := range s.Ports {
		if p.Protocol != l4.TCP {
			continue
		}
		seen := map[netip.AddrPort]bool{}
		groups := p.Groups
		p.Groups = nil
		for _, g := range groups {
			if g.IPv6 {
				continue
			}
			one := &l4.Group{}
			for _, e := range g.Endpoints {
				if !seen[e.Address] {
					one.Endpoints = append(one.Endpoints, e)
				}
				seen[e.Address] = true
			}
			p.Groups = append(p.Groups, one)
		}
		out.Ports = append(out.Ports, p)
	}
	return &out
}

// randomFlows are connections to a front, from everywhere.
func randomFlows(plan *l4.Plan, to netip.AddrPort, node netip.Addr) []flows.Flow {
	var out []flows.Flow
	for _, from := range []struct {
		origin l4.Origin
		source netip.Addr
		iface  string
	}{
		{l4.Pod, netip.MustParseAddr("10.180.0.77"), flows.PodInterface},
		{l4.Pod, netip.MustParseAddr("10.180.0.1"), flows.PodInterface}, // may be an endpoint
		{l4.Host, node, ""},
		{l4.Outside, netip.MustParseAddr("203.0.113.5"), flows.OutsideInterface},
		{l4.Outside, netip.MustParseAddr("192.168.0.9"), flows.OutsideInterface}, // may be in the source ranges
	} {
		k := l4.Packet{Protocol: l4.TCP, Source: from.source, Destination: to, Interface: from.iface, SourceLocal: from.origin == l4.Host, DestinationLocal: to.Addr() == node}
		o := plan.Trace(k)
		out = append(out, flows.Flow{
			Name: fmt.Sprintf("%s to %s", from.source, to), Packet: k, From: from.origin,
			Want: o.String(), Action: o.Action, Endpoints: o.Endpoints,
		})
	}
	return out
}

// tryOnce sends a few connections; all must end where they may.
func (r *rig) tryOnce(f flows.Flow) error {
	may := strings.Split(f.Want, ", ")
	for range 1 + len(f.Endpoints) {
		if got := r.send(f.From, f.Packet, f.Action == l4.Dropped); !slices.Contains(may, got) {
			return fmt.Errorf("got %q, want one of %q", got, f.Want)
		}
	}
	return nil
}
