//go:build linux && root

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/kubeproxy"
	"github.com/portico-ingress/portico/test/nodeapi"
	"github.com/portico-ingress/portico/test/rig"
)

// TestFlowsMove: UDP clients that keep sending from one port each. When an
// endpoint of their Service goes, those that were there move to the other one at
// their next datagrams; all others keep theirs, also those of another Service
// that has the same endpoints.
func TestFlowsMove(t *testing.T) {
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t)
			node := l4.Node{Name: "node1", IPs: bothFamilies("192.168.0.2"), NodePorts: l4.NodePorts{All: true}}
			var endpoints []netip.AddrPort
			for n := range 2 {
				e := netip.AddrPortFrom(bothFamilies(fmt.Sprintf("10.180.0.%d", n+1))[i], 8080)
				r.Own(t, r.Pods, e.Addr())
				r.Serve(t, r.Pods, l4.UDP, e)
				endpoints = append(endpoints, e)
			}
			first, second := bothFamilies("172.30.0.1")[i], bothFamilies("172.30.0.2")[i]
			objects := func(ofFirst ...netip.AddrPort) nodeapi.Objects {
				return kubeproxy.Objects(node, []*l4.Service{dns("first", first, ofFirst...), dns("second", second, endpoints...)})
			}
			api := nodeapi.Serve(t, r.Node, objects(endpoints...))
			p := start(t, r.Node, nil, arguments(t, node, api)...)
			p.until(t, "everything is programmed")
			r.Own(t, r.Outside, bothFamilies("198.18.0.1")[i])
			var all []*talker
			for n := range 10 {
				for s, vip := range []netip.Addr{first, second} {
					from := netip.AddrPortFrom(bothFamilies("198.18.0.1")[i], uint16(5000+2*n+s))
					all = append(all, newTalker(t, r, from, netip.AddrPortFrom(vip, 53)))
				}
			}
			for _, c := range all {
				c.begin(t)
			}
			gone, left := all[0].at, endpoints[0]
			if gone == left {
				left = endpoints[1]
			}
			api.Update(t, objects(left))
			for _, c := range all {
				moves := c.to.Addr() == first && c.at == gone
				if moves {
					c.until(t, left)
				}
				c.stays(t, moves)
			}
		})
	}
}

func dns(name string, vip netip.Addr, endpoints ...netip.AddrPort) *l4.Service {
	g := &l4.Group{IPv6: vip.Is6()}
	for _, e := range endpoints {
		g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: e, Ready: true, Serving: true})
	}
	return &l4.Service{
		Name: l4.Name{Namespace: "kube-system", Name: name}, ClusterIPs: []netip.Addr{vip},
		Ports: []l4.Port{{Name: "dns", Protocol: l4.UDP, Port: 53, Groups: []*l4.Group{g}}},
	}
}

// talker is a UDP client with one socket.
type talker struct {
	conn    net.Conn
	from    netip.AddrPort
	to      netip.AddrPort
	at      netip.AddrPort         // the endpoint that answered first, or that it moved to
	replies map[netip.AddrPort]int // since then
}

func newTalker(t *testing.T, r *rig.Rig, from, to netip.AddrPort) *talker {
	t.Helper()
	c := &talker{from: from, to: to, replies: map[netip.AddrPort]int{}}
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(from)}
	var err error
	r.Outside.Do(func() { c.conn, err = d.Dial("udp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// ask sends a datagram and says who answered; nobody: what was sent to an endpoint
// that is gone may get lost.
func (c *talker) ask(t *testing.T, wait time.Duration) (by netip.AddrPort, ok bool) {
	t.Helper()
	if _, err := c.conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	var buf [128]byte
	n, err := c.conn.Read(buf[:])
	if err != nil {
		return by, false
	}
	server, _, _ := strings.Cut(string(buf[:n]), " ")
	if by, err = netip.ParseAddrPort(server); err != nil {
		t.Fatal(err)
	}
	return by, true
}

const replyWithin = 20 * time.Second

func (c *talker) begin(t *testing.T) {
	t.Helper()
	by, ok := c.ask(t, replyWithin)
	if !ok {
		t.Fatalf("%s gets no answer from %s", c.from, c.to)
	}
	c.at = by
}

// until keeps asking until an endpoint answers.
func (c *talker) until(t *testing.T, want netip.AddrPort) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		by, ok := c.ask(t, time.Second)
		if ok && by == want {
			c.at = want
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s to %s is still answered by %s", c.from, c.to, by)
		}
	}
}

// stays asks some more: nobody else answers.
func (c *talker) stays(t *testing.T, moved bool) {
	t.Helper()
	const questions = 5
	for range questions {
		if by, ok := c.ask(t, replyWithin); ok {
			c.replies[by]++
		}
	}
	if c.replies[c.at] != questions {
		t.Errorf("%s to %s, which was with %s (moved: %t), has answers %v", c.from, c.to, c.at, moved, c.replies)
	}
}
