//go:build linux && root

package nft_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
)

// TestPackets sends what the packet-flow tables describe through a kernel. What
// they say of TCP must hold for UDP and SCTP.
func TestPackets(t *testing.T) {
	eachTable(t, func(t *testing.T, r *rig, c flows.Case) {
		k := open(t, r.node)
		r.run(t, k, &c)
		for _, p := range []l4.Protocol{l4.UDP, l4.SCTP} {
			if other, ok := as(p, c); ok && strings.Contains(c.Name, "/base/") {
				r.run(t, k, &other)
			}
		}
	})
}

// eachTable runs a test on every packet-flow table, with a rig of its own.
func eachTable(t *testing.T, test func(t *testing.T, r *rig, c flows.Case)) {
	cases, err := flows.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			test(t, newRig(t, c.Flows[0].Packet.Destination.Addr().Is6()), c)
		})
	}
}

func (r *rig) run(t *testing.T, k *kernel, c *flows.Case) {
	t.Helper()
	r.furnish(t, c)
	p := l4.NewPlanner(c.Node)
	for _, s := range c.Services {
		p.Set(s)
	}
	k.replace(t, p.Plan())
	for _, f := range c.Flows {
		if err := r.try(f); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// as returns a case with another protocol in place of TCP; false if it has
// others already.
func as(p l4.Protocol, c flows.Case) (flows.Case, bool) {
	var services []*l4.Service
	for _, s := range c.Services {
		copied := *s
		copied.Ports = append([]l4.Port(nil), s.Ports...)
		for i := range copied.Ports {
			if copied.Ports[i].Protocol != l4.TCP {
				return c, false
			}
			copied.Ports[i].Protocol = p
		}
		services = append(services, &copied)
	}
	tried := append([]flows.Flow(nil), c.Flows...)
	for i := range tried {
		tried[i].Packet.Protocol = p
		tried[i].Name = p.String() + ": " + tried[i].Name
	}
	c.Services, c.Flows = services, tried
	return c, true
}

// TestDirectToSelf: what the node sends to an endpoint of its own network,
// without a Service, keeps its source.
func TestDirectToSelf(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("ipv6=%t", ipv6), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, ipv6)
			self := netip.AddrPortFrom(r.addr("192.168.7.2"), 8080)
			vip := netip.AddrPortFrom(r.addr("172.30.0.1"), 80)
			r.own(t, r.node, self.Addr())
			r.serve(t, r.node, l4.TCP, self)
			p := l4.NewPlanner(l4.Node{Name: "node1", NodePorts: l4.NodePorts{All: true}})
			p.Set(&l4.Service{Name: l4.Name{Namespace: "x", Name: "y"}, ClusterIPs: []netip.Addr{vip.Addr()},
				Ports: []l4.Port{{Protocol: l4.TCP, Port: vip.Port(), Groups: []*l4.Group{{IPv6: ipv6, Endpoints: []l4.Endpoint{{Address: self, Ready: true, Serving: true, Local: true}}}}}}})
			open(t, r.node).replace(t, p.Plan())
			send := func(to netip.AddrPort) string {
				return r.send(l4.Host, l4.Packet{Protocol: l4.TCP, Source: self.Addr(), Destination: to}, false)
			}
			if got := send(self); got != l4.Pass.String() {
				t.Errorf("directly: %s", got)
			}
			if got := send(vip); !strings.HasPrefix(got, self.String()) {
				t.Errorf("through the Service: %s", got)
			}
		})
	}
}
