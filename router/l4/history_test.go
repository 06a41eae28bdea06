package l4_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
)

// TestHistory holds what a planner hands out piece by piece, merged, against a
// planner that sees only the end.
func TestHistory(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := flows.NewWorld(seed)
			p, m := l4.NewPlanner(w.Node), newMirror()
			for range 80 {
				for range 1 + w.IntN(4) {
					w.Step(p)
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
func (m *mirror) check(t *testing.T, w *flows.World) {
	p := l4.NewPlanner(w.Node)
	for _, s := range w.Services {
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
