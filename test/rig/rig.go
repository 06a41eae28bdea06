//go:build linux

// Package rig is a node with its neighbours, in network namespaces without an
// uplink, through which tests send real packets of both address families. It
// needs root.
package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/netns"
)

// Rig is a node, its pods, all of them in one namespace, and the world outside.
// Whatever the neighbours send, also to each other's and their own addresses,
// goes through the node. Its methods are called one at a time, but for Send.
type Rig struct {
	Node, Pods, Outside *netns.Namespace

	owned   map[*netns.Namespace]map[netip.Addr]bool
	servers map[server]bool
	ports   ports
}

type server struct {
	protocol l4.Protocol
	at       netip.AddrPort
}

// Addresses of the links, in the IPv4 form; see V6 for the other.
const (
	NodeToOutside, OutsideToNode = "10.99.0.1", "10.99.0.2"
	NodeToPods, PodsToNode       = "10.98.0.1", "10.98.0.2"
)

// V6 carries an IPv4 address to the other family, as the packet-flow tables do:
// a.b.c.d becomes fd00::a.b.c.d.
func V6(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("fd00::").As16()
	v4 := a.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

// New makes a rig that lives as long as its test.
func New(t testing.TB) *Rig {
	t.Helper()
	r := &Rig{
		Node: netns.New(t), Pods: netns.New(t), Outside: netns.New(t),
		owned: map[*netns.Namespace]map[netip.Addr]bool{}, servers: map[server]bool{},
	}
	for _, n := range []*netns.Namespace{r.Node, r.Pods, r.Outside} {
		r.owned[n] = map[netip.Addr]bool{}
		for name, value := range settings {
			n.Set(t, name, value)
		}
	}
	netns.Link(t, r.Node, flows.OutsideInterface, r.Outside, "eth0")
	netns.Link(t, r.Node, flows.PodInterface, r.Pods, "eth0")
	for _, f := range families {
		f.connect(t, r.Node, flows.OutsideInterface, NodeToOutside, r.Outside, OutsideToNode)
		f.connect(t, r.Node, flows.PodInterface, NodeToPods, r.Pods, PodsToNode)
		// What nobody answers goes out, and comes back refused or not at all.
		r.Node.IP(t, fmt.Sprintf("%sroute add default via %s", f.ip, f.addr(OutsideToNode)))
		for _, p := range []l4.Protocol{l4.TCP, l4.UDP} {
			r.Serve(t, r.Pods, p, netip.AddrPortFrom(f.addr(PodsToNode), controlPort))
			r.Serve(t, r.Outside, p, netip.AddrPortFrom(f.addr(OutsideToNode), controlPort))
		}
	}
	return r
}

// settings are sysctls of all three namespaces.
var settings = map[string]string{
	"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
	"ipv4/conf/all/accept_local": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
	// What kube-proxy may have left: packets for 127/8 come through.
	"ipv4/conf/all/route_localnet": "1",
	// Every refusal is told, not some of them a second.
	"ipv4/icmp_ratemask": "0", "ipv6/icmp/ratelimit": "0", "ipv6/icmp/ratemask": "\n",
}

// family is what differs between the two.
type family struct {
	ip    string                  // for ip(8)
	nodad string                  // has an address usable at once
	addr  func(string) netip.Addr // from the IPv4 form
}

var families = []family{
	{addr: netip.MustParseAddr},
	{ip: "-6 ", nodad: " nodad", addr: func(s string) netip.Addr { return V6(netip.MustParseAddr(s)) }},
}

func familyOf(a netip.Addr) family {
	if a.Is6() {
		return families[1]
	}
	return families[0]
}

// connect gives a neighbour its link. Its own addresses are known to it only
// for what arrives: what it sends has to go to the node.
func (f family) connect(t testing.TB, node *netns.Namespace, iface, own string, n *netns.Namespace, theirs string) {
	t.Helper()
	gateway := f.addr(own)
	link := netip.PrefixFrom(gateway, gateway.BitLen()-8).Masked()
	node.IP(t, fmt.Sprintf("addr add %s/%d dev %s%s", gateway, link.Bits(), iface, f.nodad))
	n.IP(t,
		fmt.Sprintf("addr add %s/%d dev eth0%s", f.addr(theirs), link.Bits(), f.nodad),
		f.ip+"route add "+link.String()+" dev eth0 table 100",
		f.ip+"route add default via "+gateway.String()+" table 100",
		f.ip+"route add default via "+gateway.String(),
		f.ip+"rule add pref 10 lookup local",
		f.ip+"rule add pref 5 iif lo lookup 100",
		f.ip+"rule del pref 0",
	)
}

// Own gives an address to a namespace; the node finds it there.
func (r *Rig) Own(t testing.TB, n *netns.Namespace, a netip.Addr) {
	t.Helper()
	if a.IsLoopback() || r.owned[n][a] {
		return
	}
	r.owned[n][a] = true
	n.IP(t, fmt.Sprintf("addr add %s/%d dev lo%s", a, a.BitLen(), familyOf(a).nodad))
	for tries := 0; a.Is6() && n.Run(t, "ip", "-6", "route", "show", "table", "local", a.String()) == ""; tries++ {
		// The kernel adds the route later, in a thread of its own.
		if tries == 10_000 {
			t.Fatalf("%s is not reached", a)
		}
	}
	r.route(t, n, netip.PrefixFrom(a, a.BitLen()))
}

// OwnAll gives all addresses of a range to a namespace, for what it sends.
func (r *Rig) OwnAll(t testing.TB, n *netns.Namespace, p netip.Prefix) {
	t.Helper()
	n.IP(t, fmt.Sprintf("%sroute add local %s dev lo", familyOf(p.Addr()).ip, p))
	r.route(t, n, p)
}

// route has the node find a range at a neighbour.
func (r *Rig) route(t testing.TB, n *netns.Namespace, p netip.Prefix) {
	t.Helper()
	via := map[*netns.Namespace]string{r.Pods: PodsToNode, r.Outside: OutsideToNode}[n]
	if via == "" {
		return
	}
	f := familyOf(p.Addr())
	r.Node.IP(t, fmt.Sprintf("%sroute replace %s via %s", f.ip, p, f.addr(via)))
}

// Namespace is where connections of an origin begin.
func (r *Rig) Namespace(from l4.Origin) *netns.Namespace {
	switch from {
	case l4.Pod:
		return r.Pods
	case l4.Host:
		return r.Node
	}
	return r.Outside
}

// Serve answers at an address with the address itself and the client's, by TCP
// or UDP.
func (r *Rig) Serve(t testing.TB, n *netns.Namespace, p l4.Protocol, a netip.AddrPort) {
	t.Helper()
	if r.servers[server{p, a}] {
		return
	}
	r.servers[server{p, a}] = true
	serve := serveTCP
	if p == l4.UDP {
		serve = serveUDP
	}
	var err error
	n.Do(func() { err = serve(t, a) })
	if err != nil {
		t.Fatal(err)
	}
}

// Serves reports whether somebody answers at an address.
func (r *Rig) Serves(p l4.Protocol, a netip.AddrPort) bool { return r.servers[server{p, a}] }

func serveTCP(t testing.TB, a netip.AddrPort) error {
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, answer(a, c.RemoteAddr()))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return nil
}

func serveUDP(t testing.TB, a netip.AddrPort) error {
	// Room for a whole burst: what does not fit would seem dropped.
	room := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		closed := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		})
		return errors.Join(closed, err)
	}}
	c, err := room.ListenPacket(context.Background(), "udp", a.String())
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buf [64]byte
		for {
			_, from, err := c.ReadFrom(buf[:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteTo([]byte(answer(a, from)), from)
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return nil
}

// answer is what a server says: its own address and the client's.
func answer(own netip.AddrPort, client net.Addr) string {
	return own.String() + " " + netip.MustParseAddrPort(client.String()).Addr().Unmap().String()
}
