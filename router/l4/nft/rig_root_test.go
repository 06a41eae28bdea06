//go:build linux && root

package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/netns"
)

// rig is a node with its neighbours: pods, all of them in one namespace, and
// the world outside. Whatever the neighbours send, also to each other's and
// their own addresses, goes through the node.
type rig struct {
	node, pods, outside *netns.Namespace
	ipv6                bool
	servers             map[string]bool
}

// Addresses of the links, in the IPv4 form.
const (
	nodeToOutside, outsideToNode = "10.99.0.1", "10.99.0.2"
	nodeToPods, podsToNode       = "10.98.0.1", "10.98.0.2"
)

func newRig(t testing.TB, ipv6 bool) *rig {
	t.Helper()
	r := &rig{node: netns.New(t), pods: netns.New(t), outside: netns.New(t), ipv6: ipv6, servers: map[string]bool{}}
	for _, n := range []*netns.Namespace{r.node, r.pods, r.outside} {
		for name, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
			"ipv4/conf/all/accept_local": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			// What kube-proxy may have left: packets for 127/8 come through.
			"ipv4/conf/all/route_localnet": "1",
		} {
			n.Set(t, name, value)
		}
	}
	netns.Link(t, r.node, flows.OutsideInterface, r.outside, "eth0")
	netns.Link(t, r.node, flows.PodInterface, r.pods, "eth0")
	r.connect(t, flows.OutsideInterface, nodeToOutside, r.outside, outsideToNode)
	r.connect(t, flows.PodInterface, nodeToPods, r.pods, podsToNode)
	// What nobody answers goes out, and comes back refused or not at all.
	r.node.IP(t, fmt.Sprintf("%sroute add default via %s", r.ip(), r.addr(outsideToNode)))
	return r
}

// connect gives a neighbour its link. Its own addresses are known to it only
// for what arrives: what it sends has to go to the node.
func (r *rig) connect(t testing.TB, iface, own string, n *netns.Namespace, theirs string) {
	t.Helper()
	gateway, net := r.addr(own), netip.PrefixFrom(r.addr(own), r.bits()-8).Masked()
	r.node.IP(t, fmt.Sprintf("addr add %s/%d dev %s%s", gateway, net.Bits(), iface, r.nodad()))
	n.IP(t,
		fmt.Sprintf("addr add %s/%d dev eth0%s", r.addr(theirs), net.Bits(), r.nodad()),
		r.ip()+"route add "+net.String()+" dev eth0 table 100",
		r.ip()+"route add default via "+gateway.String()+" table 100",
		r.ip()+"route add default via "+gateway.String(),
		r.ip()+"rule add pref 10 lookup local",
		r.ip()+"rule add pref 5 iif lo lookup 100",
		r.ip()+"rule del pref 0",
	)
}

func (r *rig) ip() string {
	if r.ipv6 {
		return "-6 "
	}
	return ""
}

// nodad has an IPv6 address usable at once.
func (r *rig) nodad() string {
	if r.ipv6 {
		return " nodad"
	}
	return ""
}

func (r *rig) bits() int {
	if r.ipv6 {
		return 128
	}
	return 32
}

// addr carries an address of the rig to its family.
func (r *rig) addr(text string) netip.Addr {
	a := netip.MustParseAddr(text)
	if !r.ipv6 {
		return a
	}
	b := netip.MustParseAddr("fd00::").As16()
	v4 := a.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

// own gives an address to a namespace; the node finds it there.
func (r *rig) own(t testing.TB, n *netns.Namespace, a netip.Addr) {
	t.Helper()
	if a.IsLoopback() || strings.Contains(n.Run(t, "ip", "-o", "addr", "show", "dev", "lo"), " "+a.String()+"/") {
		return
	}
	n.IP(t, fmt.Sprintf("addr add %s/%d dev lo%s", a, a.BitLen(), r.nodad()))
	switch n {
	case r.pods:
		r.node.IP(t, fmt.Sprintf("%sroute replace %s via %s", r.ip(), a, r.addr(podsToNode)))
	case r.outside:
		r.node.IP(t, fmt.Sprintf("%sroute replace %s via %s", r.ip(), a, r.addr(outsideToNode)))
	}
}

func (r *rig) namespace(from l4.Origin) *netns.Namespace {
	switch from {
	case l4.Pod:
		return r.pods
	case l4.Host:
		return r.node
	}
	return r.outside
}

// serve answers at an address with the address itself and the client's.
func (r *rig) serve(t testing.TB, n *netns.Namespace, p l4.Protocol, a netip.AddrPort) {
	t.Helper()
	key := fmt.Sprint(p, a)
	if r.servers[key] {
		return
	}
	r.servers[key] = true
	var err error
	n.Do(func() {
		switch p {
		case l4.UDP:
			err = serveUDP(t, a)
		case l4.SCTP:
			err = serveSCTP(t, a)
		default:
			err = serveTCP(t, a)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

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
			fmt.Fprintf(c, "%s %s", a, unmap(c.RemoteAddr()))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return nil
}

func serveUDP(t testing.TB, a netip.AddrPort) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buf [64]byte
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			_, _ = c.WriteToUDPAddrPort([]byte(a.String()+" "+from.Addr().Unmap().String()), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return nil
}

func unmap(a net.Addr) netip.Addr { return netip.MustParseAddrPort(a.String()).Addr().Unmap() }

// Patience: a refusal or an answer is waited for as long as a slow machine may
// need; silence can only be believed.
const (
	patience = 20 * time.Second
	silence  = 500 * time.Millisecond
)

// send opens one connection and says what became of it, in the words of
// l4.Outcome. quiet says that no answer is expected.
func (r *rig) send(from l4.Origin, k l4.Packet, quiet bool) string {
	wait := patience
	if quiet {
		wait = silence
	}
	var answer string
	var err error
	r.namespace(from).Do(func() { answer, err = exchange(k, wait) })
	switch {
	case errors.Is(err, syscall.EPERM) && quiet: // what the node itself may not send
		return l4.Dropped.String()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPERM):
		return l4.Rejected.String()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return l4.Dropped.String()
	case err != nil:
		return "error: " + err.Error()
	}
	server, client, _ := strings.Cut(answer, " ")
	if server == k.Destination.String() && client == k.Source.String() {
		return l4.Pass.String()
	}
	if client != k.Source.String() {
		server += " masqueraded"
	}
	return server
}

func exchange(k l4.Packet, wait time.Duration) (string, error) {
	if k.Protocol == l4.SCTP {
		return exchangeSCTP(k, wait)
	}
	var local net.Addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(k.Source, 0))
	network := "tcp"
	if k.Protocol == l4.UDP {
		local, network = net.UDPAddrFromAddrPort(netip.AddrPortFrom(k.Source, 0)), "udp"
	}
	d := net.Dialer{LocalAddr: local, Timeout: wait}
	c, err := d.Dial(network, k.Destination.String())
	if err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return "", os.ErrDeadlineExceeded
		}
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if k.Protocol == l4.UDP {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// furnish gives the rig the addresses and servers of a case.
func (r *rig) furnish(t testing.TB, c *flows.Case) {
	t.Helper()
	for _, a := range c.Addresses {
		r.own(t, r.node, a)
	}
	for _, s := range c.Services {
		for _, p := range s.Ports {
			for _, g := range p.Groups {
				for _, e := range g.Endpoints {
					r.own(t, r.pods, e.Address.Addr())
					r.serve(t, r.pods, p.Protocol, e.Address)
				}
			}
		}
	}
	for _, f := range c.Flows {
		r.own(t, r.namespace(f.From), f.Packet.Source)
		if f.Action == l4.Pass && !r.servers[fmt.Sprint(f.Packet.Protocol, f.Packet.Destination)] {
			host, dst := r.node, f.Packet.Destination
			if !f.Packet.DestinationLocal && !dst.Addr().IsLoopback() {
				host = r.outside
				r.own(t, host, dst.Addr())
			}
			r.serve(t, host, f.Packet.Protocol, dst)
		}
	}
}

// try sends connections of a flow until all its endpoints have answered.
func (r *rig) try(f flows.Flow) error {
	if f.Action != l4.Forward {
		if got := r.send(f.From, f.Packet, f.Action == l4.Dropped); got != f.Want {
			return fmt.Errorf("got %q, want %q", got, f.Want)
		}
		return nil
	}
	missing := map[string]bool{}
	for _, c := range f.Endpoints {
		o := l4.Outcome{Action: l4.Forward, Endpoints: []l4.Candidate{c}}
		missing[o.String()] = true
	}
	all := fmt.Sprint(f.Want)
	for tries := 0; len(missing) > 0; tries++ {
		got := r.send(f.From, f.Packet, false)
		if !slices.Contains(strings.Split(all, ", "), got) {
			return fmt.Errorf("got %q, want one of %q", got, f.Want)
		}
		delete(missing, got)
		if tries == 100*len(f.Endpoints) {
			return fmt.Errorf("%v of %q never answered", missing, f.Want)
		}
	}
	return nil
}
