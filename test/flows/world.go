package flows

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// World is a random cluster as a planner is told of it. It is small, so that
// Services meet each other and endpoints come back.
type World struct {
	*rand.Rand
	Node     l4.Node
	Services map[l4.Name]*l4.Service
}

// NewWorld returns the world of a seed, without Services.
func NewWorld(seed uint64) *World {
	w := &World{Rand: rand.New(rand.NewPCG(seed, 1)), Services: map[l4.Name]*l4.Service{}}
	w.Node = w.randomNode()
	return w
}

func (w *World) one(of int) bool { return w.IntN(of) == 0 }

func (w *World) randomNode() l4.Node {
	n := l4.Node{
		Name: "node1", Zone: []string{"", "a", "b"}[w.IntN(3)], MasqueradeAll: w.one(4),
		IPs:          []netip.Addr{netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("fd00::192.168.0.2")},
		NodePorts:    l4.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16"), netip.MustParsePrefix("fd00::172.30.0.0/112")},
	}
	pods := []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16"), netip.MustParsePrefix("fd00::10.180.0.0/112")}
	n.Pods = []l4.Detector{
		{}, {CIDRs: pods[:1]}, {CIDRs: pods}, {Interface: PodInterface}, {Interface: PodInterface[:3], InterfacePrefix: true},
	}[w.IntN(5)]
	if w.one(3) {
		n.NodePorts = l4.NodePorts{Addresses: [][]netip.Addr{n.IPs, n.IPs[:1], n.IPs[1:]}[w.IntN(3)]}
	}
	return n
}

// Step changes one thing, and tells the planner.
func (w *World) Step(p *l4.Planner) {
	name := l4.Name{Namespace: "shop", Name: fmt.Sprintf("s%d", w.IntN(6))}
	old := w.Services[name]
	switch {
	case w.one(40):
		w.Node = w.randomNode()
		p.SetNode(w.Node)
	case old != nil && w.one(6):
		delete(w.Services, name)
		p.Delete(name)
	case old == nil || w.one(4):
		w.set(p, w.service(name))
	default:
		w.set(p, w.change(old))
	}
}

func (w *World) set(p *l4.Planner, s *l4.Service) {
	w.Services[s.Name] = s
	p.Set(s)
}

func (w *World) addr(v6 bool, prefix string, n int) netip.Addr {
	text := fmt.Sprintf("%s%d", prefix, w.IntN(n)+1)
	if v6 {
		text = "fd00::" + text
	}
	return netip.MustParseAddr(text)
}

func (w *World) service(name l4.Name) *l4.Service {
	s := &l4.Service{
		Name: name, Created: time.Unix(int64(w.IntN(3)), 0), InternalLocal: w.one(3), ExternalLocal: w.one(3),
		Affinity: time.Duration(w.IntN(2)) * time.Minute,
	}
	for _, v6 := range []bool{false, true} {
		if w.one(4) {
			continue
		}
		s.ClusterIPs = append(s.ClusterIPs, w.addr(v6, "172.30.0.", 20))
		for range w.IntN(3) {
			s.ExternalIPs = append(s.ExternalIPs, w.addr(v6, "192.168.99.", 3))
		}
		for range w.IntN(3) {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, w.addr(v6, "192.168.99.", 3))
		}
	}
	if w.one(3) {
		s.SourceRanges = w.ranges()
	}
	for i := range 1 + w.IntN(3) {
		p := l4.Port{Name: fmt.Sprint("p", i), Protocol: []l4.Protocol{l4.TCP, l4.UDP, l4.SCTP}[i], Port: uint16(80 + w.IntN(2))}
		if w.one(2) {
			p.NodePort = uint16(30000 + w.IntN(3))
		}
		for range w.IntN(4) {
			p.Groups = append(p.Groups, w.group())
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// ranges are some of those of the node and of clients elsewhere.
func (w *World) ranges() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{"192.168.0.0/24", "198.19.0.0/16", "198.19.7.0/24", "fd00::192.168.0.0/120", "fd00::198.19.0.0/112"} {
		if w.one(2) {
			out = append(out, netip.MustParsePrefix(p))
		}
	}
	return out
}

// change replaces one group, or takes one away.
func (w *World) change(old *l4.Service) *l4.Service {
	s := *old
	s.Ports = slices.Clone(s.Ports)
	p := &s.Ports[w.IntN(len(s.Ports))]
	p.Groups = slices.Clone(p.Groups)
	switch {
	case len(p.Groups) == 0 || w.one(4):
		p.Groups = slices.Insert(p.Groups, w.IntN(len(p.Groups)+1), w.group())
	case w.one(3):
		i := w.IntN(len(p.Groups))
		p.Groups = slices.Delete(p.Groups, i, i+1)
	default:
		p.Groups[w.IntN(len(p.Groups))] = w.group()
	}
	return &s
}

func (w *World) group() *l4.Group {
	g := &l4.Group{IPv6: w.one(3)}
	for range w.IntN(4) {
		e := l4.Endpoint{Address: netip.AddrPortFrom(w.addr(g.IPv6, "10.180.0.", 6), 8080), Local: w.one(2)}
		switch w.IntN(6) {
		case 0:
			e.Serving, e.Terminating = true, true
		case 1:
			e.Terminating = true
		case 2:
			e.Serving = true
		default:
			e.Ready, e.Serving = true, true
		}
		if !w.one(3) {
			e.ForZones = []string{[]string{"a", "b"}[w.IntN(2)]}
		}
		if !w.one(3) {
			e.ForNodes = []string{[]string{"node1", "node2"}[w.IntN(2)]}
		}
		g.Endpoints = append(g.Endpoints, e)
	}
	return g
}
