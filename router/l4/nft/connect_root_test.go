//go:build linux && root

package nft_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/kubeproxy"
)

// BenchmarkConnect measures what a new connection through a Service costs in CPU,
// at both of its ends and on the node between them, more than a direct one: with
// our rules, and in a network beside it with those of the real kube-proxy. Each
// iteration is a round of all four, in an order of its own, so that what else
// the machine does meets all of them.
func BenchmarkConnect(b *testing.B) {
	for _, c := range []struct {
		name     string
		client   string
		nodePort bool
	}{{"pod to ClusterIP", "10.180.255.1", false}, {"outside to NodePort", "203.0.113.5", true}} {
		b.Run(c.name, func(b *testing.B) {
			ours, peer := newConnector(b, c.client, c.nodePort), newConnector(b, c.client, c.nodePort)
			k, p := open(b, ours.node), l4.NewPlanner(connectNode)
			for _, s := range ours.services {
				p.Set(s)
			}
			k.replace(b, p.Plan())
			kubeproxy.Start(b, peer.node, connectNode, peer.services)
			var direct, over, peers, ratios []float64
			for b.Loop() {
				var took [4]float64
				for _, i := range rand.Perm(4) {
					took[i] = []*connector{ours, ours, peer, peer}[i].connect(b, i%2 == 0)
				}
				direct = append(direct, took[0], took[2])
				over, peers = append(over, took[1]-took[0]), append(peers, took[3]-took[2])
				ratios = append(ratios, over[len(over)-1]/peers[len(peers)-1])
			}
			b.ReportMetric(quantile(direct, 0.5), "µs-direct")
			b.ReportMetric(quantile(over, 0.5), "µs-more")
			b.ReportMetric(quantile(peers, 0.5), "µs-more-kube-proxy")
			b.ReportMetric(quantile(over, 0.5)/quantile(peers, 0.5), "ratio")
			for _, q := range []float64{0.1, 0.25, 0.5, 0.75, 0.9} {
				b.ReportMetric(quantile(ratios, q), fmt.Sprintf("ratio-p%.0f", q*100))
			}
			b.ReportMetric(0, "ns/op") // of no meaning
		})
	}
}

func quantile(all []float64, q float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[int(q*float64(len(all)-1)+0.5)]
}

var connectNode = l4.Node{
	Name: "node1", IPs: []netip.Addr{netip.MustParseAddr(nodeToOutside)}, NodePorts: l4.NodePorts{All: true},
	ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")},
	Pods:         l4.Detector{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}},
}

// connector is a rig in which connections are opened one after the other.
type connector struct {
	*rig
	services []*l4.Service
	client   unix.Sockaddr
	listener int
	direct   []netip.AddrPort
	vias     []netip.AddrPort
}

func newConnector(b *testing.B, client string, nodePort bool) *connector {
	const services, endpoints = 2000, 5
	c := &connector{rig: newRig(b, false)}
	c.node.Set(b, "netfilter/nf_conntrack_tcp_timeout_close", "1")
	c.pods.IP(b, "route add local 10.180.0.0/17 dev lo")
	c.node.IP(b, "route add 10.180.0.0/17 via "+podsToNode)
	c.own(b, c.outside, netip.MustParseAddr(client))
	c.client = sockaddr(netip.AddrPortFrom(netip.MustParseAddr(client), 0))
	for i := range services {
		g := &l4.Group{}
		for e := range endpoints {
			n := i*endpoints + e
			a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(n >> 8), byte(n)}), 8080)
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: a, Ready: true, Serving: true, Local: true})
			c.direct = append(c.direct, a)
		}
		vip := netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)})
		s := &l4.Service{
			Name: l4.Name{Namespace: "bench", Name: fmt.Sprintf("s%04d", i)}, ClusterIPs: []netip.Addr{vip},
			Ports: []l4.Port{{Protocol: l4.TCP, Port: 80, Groups: []*l4.Group{g}}},
		}
		via := netip.AddrPortFrom(vip, 80)
		if nodePort {
			s.Ports[0].NodePort = uint16(30000 + i)
			via = netip.AddrPortFrom(netip.MustParseAddr(nodeToOutside), s.Ports[0].NodePort)
		}
		c.services, c.vias = append(c.services, s), append(c.vias, via)
	}
	c.pods.Do(func() { c.listener = listen(b) })
	b.Cleanup(func() { _ = unix.Close(c.listener) })
	return c
}

// listen accepts at every address of the thread's namespace.
func listen(b *testing.B) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: 8080})
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		b.Fatal(err)
	}
	return fd
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// connect opens connections and returns the time of CPU in µs that each took.
// Everything happens in one thread: what the kernel does for a packet, it does
// when it is sent.
func (c *connector) connect(b *testing.B, direct bool) float64 {
	const connections = 2000
	to := c.vias
	if direct {
		to = c.direct
	}
	var before, after unix.Rusage
	var err error
	c.outside.Do(func() {
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &before)
		for i := 0; i < connections && err == nil; i++ {
			err = c.one(sockaddr(to[i%len(to)]))
		}
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &after)
	})
	if err != nil {
		b.Fatal(err)
	}
	spent := func(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	return float64(spent(after)-spent(before)) / 1000 / connections
}

// one opens a connection and resets it, so that no port waits.
func (c *connector) one(to unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, c.client); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("to %v: %w", to, err)
	}
	accepted, _, err := unix.Accept4(c.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(accepted)
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
