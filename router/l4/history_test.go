package l4_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// TestHistory holds what a planner hands out piece by piece, merged, against a
// planner that sees only the end.
func TestHistory(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed)
			p, m := l4.NewPlanner(w.node), newMirror()
			for range 80 {
				for range 1 + w.IntN(4) {
					w.step(p)
				}
				if w.IntN(10) == 0 {
					m.replace(p.Plan())
				} else {
					m.apply(t, p.Take())
				}
				m.check(t, w)
				if t.Failed() {
					return
				}
			}
			if c := p.Take(); !c.Empty() {
				t.Errorf("nothing happened, and there is a change: %+v", c)
			}
		})
	}
}

// world is a random cluster as the planner is told of it.
type world struct {
	*rand.Rand
	node     l4.Node
	services map[l4.Name]*l4.Service
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), services: map[l4.Name]*l4.Service{}}
	w.node = w.randomNode()
	return w
}

func (w *world) one(of int) bool { return w.IntN(of) == 0 }

func (w *world) randomNode() l4.Node {
	n := l4.Node{
		Name: "node1", Zone: []string{"", "a", "b"}[w.IntN(3)], MasqueradeAll: w.one(4),
		IPs:          []netip.Addr{netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("fd00::192.168.0.2")},
		NodePorts:    l4.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")},
	}
	if w.one(2) {
		n.Pods.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}
	}
	if w.one(4) {
		n.NodePorts = l4.NodePorts{Addresses: n.IPs[:1]}
	}
	return n
}

// step changes one thing.
func (w *world) step(p *l4.Planner) {
	name := l4.Name{Namespace: "shop", Name: fmt.Sprintf("s%d", w.IntN(6))}
	old := w.services[name]
	switch {
	case w.one(40):
		w.node = w.randomNode()
		p.SetNode(w.node)
	case old != nil && w.one(6):
		delete(w.services, name)
		p.Delete(name)
	case old == nil || w.one(4):
		w.set(p, w.service(name))
	default:
		w.set(p, w.change(old))
	}
}

func (w *world) set(p *l4.Planner, s *l4.Service) {
	w.services[s.Name] = s
	p.Set(s)
}

func (w *world) addr(v6 bool, prefix string, n int) netip.Addr {
	text := fmt.Sprintf("%s%d", prefix, w.IntN(n)+1)
	if v6 {
		text = "fd00::" + text
	}
	return netip.MustParseAddr(text)
}

func (w *world) service(name l4.Name) *l4.Service {
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
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("fd00::/8")}
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

// change replaces one group, or takes one away.
func (w *world) change(old *l4.Service) *l4.Service {
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

func (w *world) group() *l4.Group {
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

// mirror is what a renderer would have programmed.
type mirror struct {
	globals     l4.Globals
	forwardings map[l4.PortKey]*l4.Forwarding
	ips         map[netip.Addr]bool
	loops       map[l4.Loop]bool
}

func newMirror() *mirror {
	return &mirror{forwardings: map[l4.PortKey]*l4.Forwarding{}, ips: map[netip.Addr]bool{}, loops: map[l4.Loop]bool{}}
}

func (m *mirror) replace(p *l4.Plan) {
	*m = *newMirror()
	m.globals = p.Globals
	for _, f := range p.Forwardings {
		m.forwardings[f.Key] = f
	}
	for _, a := range p.ClusterIPs {
		m.ips[a] = true
	}
	for _, l := range p.Loops {
		m.loops[l] = true
	}
}

func (m *mirror) apply(t *testing.T, c *l4.Change) {
	if c.Globals != nil {
		m.globals = *c.Globals
	}
	for _, k := range c.Delete {
		if m.forwardings[k] == nil {
			t.Errorf("%s is deleted and was not there", k)
		}
		delete(m.forwardings, k)
	}
	for _, u := range c.Set {
		if m.forwardings[u.Key] != u.Old {
			t.Errorf("%s: Old is not what was handed out", u.Key)
		}
		old := u.Old
		if old == nil {
			old = &l4.Forwarding{}
		}
		applyDelta(t, u.Key, old.Cluster, u.Cluster, u.ClusterDelta)
		applyDelta(t, u.Key, old.Local, u.Local, u.LocalDelta)
		m.forwardings[u.Key] = u.Forwarding
	}
	applySet(t, m.ips, c.ClusterIPs)
	applySet(t, m.loops, c.Loops)
	for _, s := range c.Stale {
		checkStale(t, m, s)
	}
}

func checkStale(t *testing.T, m *mirror, s l4.Stale) {
	if s.Key.Protocol != l4.UDP || len(s.Gone) == 0 && !s.Untranslated || len(s.Destinations) == 0 && s.NodePort == 0 {
		t.Errorf("pointless: %+v", s)
	}
	for _, a := range s.Gone {
		if slices.Contains(s.Serving, a) {
			t.Errorf("%s: %s serves and is gone", s.Key, a)
		}
	}
	if f := m.forwardings[s.Key]; f != nil && len(s.Serving) > 0 && !slices.Equal(s.Serving, f.Serving) {
		t.Errorf("%s: serving %v, want %v", s.Key, s.Serving, f.Serving)
	}
}

func applyDelta(t *testing.T, k l4.PortKey, old, fresh []netip.AddrPort, d l4.Delta[netip.AddrPort]) {
	set := map[netip.AddrPort]bool{}
	for _, a := range old {
		set[a] = true
	}
	applySet(t, set, d)
	if got := slices.SortedFunc(maps.Keys(set), netip.AddrPort.Compare); !slices.Equal(got, fresh) {
		t.Errorf("%s: delta %+v leads from %v to %v, want %v", k, d, old, got, fresh)
	}
}

func applySet[T comparable](t *testing.T, set map[T]bool, d l4.Delta[T]) {
	for _, k := range d.Removed {
		if !set[k] {
			t.Errorf("%v is removed and was not there", k)
		}
		delete(set, k)
	}
	for _, k := range d.Added {
		if set[k] {
			t.Errorf("%v is added and was there", k)
		}
		set[k] = true
	}
}

// check compares with a planner that is told of the end only.
func (m *mirror) check(t *testing.T, w *world) {
	p := l4.NewPlanner(w.node)
	for _, s := range w.services {
		p.Set(s)
	}
	want := newMirror()
	want.replace(p.Plan())
	if !reflect.DeepEqual(m.globals, want.globals) {
		t.Errorf("globals %+v, want %+v", m.globals, want.globals)
	}
	if !maps.Equal(m.ips, want.ips) || !maps.Equal(m.loops, want.loops) {
		t.Errorf("ClusterIPs %v, want %v; loops %v, want %v", m.ips, want.ips, m.loops, want.loops)
	}
	type front struct {
		ipv6     bool
		protocol l4.Protocol
		address  netip.Addr
		port     uint16
	}
	fronts := map[front]l4.PortKey{}
	for k, f := range want.forwardings {
		if got := m.forwardings[k]; !equivalent(got, f) {
			t.Errorf("%s:\n got %+v\nwant %+v", k, got, f)
		}
		for _, x := range f.Fronts {
			id := front{k.IPv6, k.Protocol, x.Address, x.Port}
			if o, taken := fronts[id]; taken {
				t.Errorf("%s and %s both have %+v", k, o, id)
			}
			fronts[id] = k
		}
	}
	if len(m.forwardings) != len(want.forwardings) {
		t.Errorf("%d forwardings, want %d", len(m.forwardings), len(want.forwardings))
	}
}

// equivalent compares without regard to nil and empty lists.
func equivalent(a, b *l4.Forwarding) bool {
	return a != nil && fmt.Sprintf("%+v", *a) == fmt.Sprintf("%+v", *b)
}
