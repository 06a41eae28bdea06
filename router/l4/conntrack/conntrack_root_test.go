//go:build linux && root

package conntrack_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/router/l4/conntrack"
	"github.com/portico-ingress/portico/test/netns"
)

// TestClean: of the flows to a Service, those to endpoints that are gone are
// forgotten, and no others.
func TestClean(t *testing.T) {
	for _, test := range []struct {
		family, node, vip, a, b, other string
	}{
		{"ip", "192.168.0.2", "172.30.0.10", "10.180.0.5", "10.180.1.5", "172.30.0.11"},
		{"ip6", "fd00::2", "fd01::10", "fd02::5", "fd02::15", "fd01::11"},
	} {
		t.Run(test.family, func(t *testing.T) {
			ns := netns.New(t)
			n := &node{T: t, ns: ns, family: test.family}
			for _, a := range []string{test.node, test.vip, test.a, test.b, test.other} {
				n.own(a)
			}
			vip, other := addrPort(test.vip, 53), addrPort(test.other, 53)
			a, b := addrPort(test.a, 5353), addrPort(test.b, 5353)
			onNode := addrPort(test.node, 30053)
			n.rules(vip, a, b, other, onNode)
			var table *conntrack.Table
			var err error
			ns.Do(func() {
				table, err = conntrack.Open(func() ([]netip.Addr, error) { return []netip.Addr{onNode.Addr()}, nil })
			})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()

			stale := l4.Stale{
				Key: l4.PortKey{Protocol: l4.UDP, IPv6: test.family == "ip6"}, Destinations: []netip.AddrPort{vip}, NodePort: 30053,
				Gone: []netip.AddrPort{a}, Serving: []netip.AddrPort{b},
			}
			n.send(1, vip)    // to a
			n.send(2, vip)    // to b
			n.send(3, other)  // to a as well, by another Service
			n.send(1, onNode) // to a
			n.expect(4)
			n.clean(table.Clean(context.Background(), []l4.Stale{stale}))(2)
			n.expect(2)
			n.clean(table.Clean(context.Background(), []l4.Stale{stale}))(0)

			// Flows that began before the Service was there.
			early := addrPort(test.vip, 54)
			n.send(1, early)
			n.expect(3)
			n.clean(table.Clean(context.Background(), []l4.Stale{{Key: stale.Key, Destinations: []netip.AddrPort{early}, Untranslated: true, Serving: []netip.AddrPort{b}}}))(1)
			n.expect(2)

			// All at once: what does not agree with the plan.
			n.send(1, vip)
			n.expect(3)
			plan := &l4.Plan{Forwardings: []*l4.Forwarding{{
				Key: stale.Key, Serving: []netip.AddrPort{b}, Fronts: []l4.Front{{Address: vip.Addr(), Port: 53}},
			}}}
			n.clean(table.Reconcile(context.Background(), plan))(1)
			n.expect(2)

			// Many fronts are looked for together.
			for port := range uint16(20) {
				stale.Destinations = append(stale.Destinations, netip.AddrPortFrom(vip.Addr(), 100+port))
			}
			n.send(1, vip)
			n.clean(table.Clean(context.Background(), []l4.Stale{stale}))(1)
			n.expect(2)
		})
	}
}

func addrPort(a string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), port)
}

// node is a namespace whose flows are translated by hand.
type node struct {
	*testing.T
	ns     *netns.Namespace
	family string
}

func (n *node) own(a string) {
	nodad := ""
	if n.family == "ip6" {
		nodad = " nodad"
	}
	n.ns.IP(n.T, "addr add "+a+" dev lo"+nodad)
}

// rules send by the client's port: 1001 to a, 1002 to b.
func (n *node) rules(vip, a, b, other, onNode netip.AddrPort) {
	to := func(a netip.AddrPort) string { return n.family + " daddr " + a.Addr().String() + " udp dport 53 " }
	n.ns.Run(n.T, "nft", "add table "+n.family+" nat; add chain "+n.family+" nat c { type nat hook output priority -100; }; "+strings.Join([]string{
		"add rule " + n.family + " nat c " + to(vip) + "udp sport 1001 dnat to " + a.String(),
		"add rule " + n.family + " nat c " + to(vip) + "udp sport 1002 dnat to " + b.String(),
		"add rule " + n.family + " nat c " + to(other) + "dnat to " + a.String(),
		"add rule " + n.family + " nat c " + n.family + " daddr " + onNode.Addr().String() + " udp dport 30053 dnat to " + a.String(),
	}, "; "))
}

// send makes a flow from port 1000+client.
func (n *node) send(client uint16, to netip.AddrPort) {
	n.Helper()
	var err error
	n.ns.Do(func() {
		var c *net.UDPConn
		if c, err = net.DialUDP("udp", &net.UDPAddr{Port: int(1000 + client)}, net.UDPAddrFromAddrPort(to)); err == nil {
			_, err = c.Write([]byte("?"))
			c.Close()
		}
	})
	if err != nil {
		n.Fatal(err)
	}
}

// expect counts all flows.
func (n *node) expect(want int) {
	n.Helper()
	family := map[string]string{"ip": "ipv4", "ip6": "ipv6"}[n.family]
	out := n.ns.Run(n.T, "conntrack", "-L", "-f", family, "-p", "udp")
	if got := strings.Count(out, "udp "); got != want {
		n.Errorf("%d flows, want %d:\n%s", got, want, out)
	}
}

func (n *node) clean(deleted int, err error) func(want int) {
	return func(want int) {
		n.Helper()
		if err != nil || deleted != want {
			n.Errorf("%d flows were deleted, want %d (%v)", deleted, want, err)
		}
	}
}
