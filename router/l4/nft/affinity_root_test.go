//go:build linux && root

package nft_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// sticky is a rig with a Service whose clients keep their endpoint.
type sticky struct {
	*rig
	protocol l4.Protocol
	k        *kernel
	planner  *l4.Planner
	service  *l4.Service
	clients  []netip.Addr
}

func newSticky(t *testing.T, ipv6 bool, protocol l4.Protocol, timeout time.Duration) *sticky {
	r := newRig(t, ipv6)
	s := &sticky{rig: r, protocol: protocol, k: open(t, r.node), planner: l4.NewPlanner(l4.Node{Name: "node1", NodePorts: l4.NodePorts{All: true}})}
	s.service = &l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "cart"}, ClusterIPs: []netip.Addr{r.addr("172.30.0.1")}, Affinity: timeout,
		ExternalIPs: []netip.Addr{r.addr("192.168.99.1")}, Ports: []l4.Port{{Protocol: s.protocol, Port: 80}},
	}
	for i := range 8 {
		a := r.addr(fmt.Sprintf("203.0.113.%d", i+1))
		r.own(t, r.outside, a)
		s.clients = append(s.clients, a)
	}
	s.endpoints(t, 1, 2, 3)
	s.planner.Set(s.service)
	s.k.replace(t, s.planner.Plan())
	return s
}

// endpoints sets the endpoints.
func (s *sticky) endpoints(t *testing.T, numbers ...int) {
	g := &l4.Group{IPv6: s.ipv6}
	for _, n := range numbers {
		a := netip.AddrPortFrom(s.addr(fmt.Sprintf("10.180.0.%d", n)), 8080)
		s.own(t, s.pods, a.Addr())
		s.serve(t, s.pods, s.protocol, a)
		g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: a, Ready: true, Serving: true})
	}
	changed := *s.service
	changed.Ports = slices.Clone(changed.Ports)
	changed.Ports[0].Groups = []*l4.Group{g}
	s.service = &changed
	s.planner.Set(s.service)
}

// dial connects a client, by the ClusterIP and the external IP in turns, and
// returns its only endpoint.
func (s *sticky) dial(t *testing.T, client netip.Addr) string {
	t.Helper()
	first := ""
	for i := range 6 {
		to := []netip.Addr{s.service.ClusterIPs[0], s.service.ExternalIPs[0]}[i%2]
		got := s.send(l4.Outside, l4.Packet{Protocol: s.protocol, Source: client, Destination: netip.AddrPortFrom(to, 80)}, false)
		got = strings.TrimSuffix(got, " masqueraded")
		if first == "" {
			first = got
		}
		if got != first {
			t.Errorf("client %s was at %s and is at %s", client, first, got)
		}
	}
	return first
}

func (s *sticky) dialAll(t *testing.T) map[netip.Addr]string {
	t.Helper()
	out := map[netip.Addr]string{}
	for _, c := range s.clients {
		out[c] = s.dial(t, c)
	}
	return out
}

func (s *sticky) remembered(t *testing.T) []l4.Sticky {
	t.Helper()
	var list func(context.Context) ([]l4.Sticky, error)
	var err error
	s.k.ns.Do(func() {
		list, err = s.k.Affinity(l4.PortKey{Service: s.service.Name, Protocol: s.protocol, IPv6: s.ipv6})
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := list(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAffinity(t *testing.T) {
	for i := range 4 {
		ipv6, protocol := i%2 == 1, []l4.Protocol{l4.TCP, l4.UDP}[i/2]
		t.Run(fmt.Sprintf("%s ipv6=%t", protocol, ipv6), func(t *testing.T) {
			t.Parallel()
			s := newSticky(t, ipv6, protocol, time.Hour)
			before := s.dialAll(t)
			list := s.remembered(t)
			if len(list) != len(s.clients) {
				t.Fatalf("%d clients are remembered, want %d", len(list), len(s.clients))
			}
			for _, c := range list {
				if before[c.Client] != c.Endpoint.String() || c.Expires > time.Hour || c.Expires < 50*time.Minute {
					t.Errorf("%+v, want %s for an hour", c, before[c.Client])
				}
			}

			ruleset(t, s.node)
			s.k = open(t, s.node) // another process takes over
			s.k.replace(t, s.planner.Plan())
			s.same(t, before, "a restart", "")

			s.endpoints(t, 1, 2, 3, 4, 5)
			s.k.apply(t, s.planner.Take())
			s.same(t, before, "more endpoints", "")

			gone := before[s.clients[0]]
			var left []int
			for n := range 5 {
				if a := netip.AddrPortFrom(s.addr(fmt.Sprintf("10.180.0.%d", n+1)), 8080); a.String() != gone {
					left = append(left, n+1)
				}
			}
			s.endpoints(t, left...)
			s.k.apply(t, s.planner.Take())
			after := s.same(t, before, "one endpoint less", gone)
			for c, e := range after {
				if e == gone {
					t.Errorf("client %s is at %s, which is gone", c, e)
				}
			}
		})
	}
}

// same dials all clients and expects them where they were, but those of one
// endpoint.
func (s *sticky) same(t *testing.T, before map[netip.Addr]string, after, but string) map[netip.Addr]string {
	t.Helper()
	now := s.dialAll(t)
	for c, e := range before {
		if e != but && now[c] != e {
			t.Errorf("after %s, client %s is at %s and was at %s", after, c, now[c], e)
		}
	}
	return now
}

func TestAffinityEnds(t *testing.T) {
	s := newSticky(t, false, l4.TCP, 2*time.Second)
	s.dial(t, s.clients[0])
	if n := len(s.remembered(t)); n != 1 {
		t.Fatalf("%d clients are remembered", n)
	}
	eventually(t, "the client is forgotten", func() bool { return len(s.remembered(t)) == 0 })
	// The Service changes to none at all, and back.
	plain := *s.service
	plain.Affinity = 0
	s.planner.Set(&plain)
	s.k.apply(t, s.planner.Take())
	if text := ruleset(t, s.node); strings.Contains(text, "affinity-") {
		t.Errorf("something of an affinity is left:\n%s", text)
	}
	again := *s.service
	again.Affinity = time.Minute
	s.planner.Set(&again)
	s.k.apply(t, s.planner.Take())
	s.dial(t, s.clients[0])
	// What a process left that is no more is cleared away.
	s.planner.Delete(s.service.Name)
	s.k = open(t, s.node)
	s.k.replace(t, s.planner.Plan())
	if text := ruleset(t, s.node); strings.Contains(text, "affinity-") {
		t.Errorf("something of an affinity is left:\n%s", text)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
