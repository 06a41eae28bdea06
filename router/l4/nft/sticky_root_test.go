//go:build linux && root

package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/netns"
)

func stickyService(i int, endpoints ...netip.AddrPort) *l4.Service {
	g := &l4.Group{}
	for _, a := range endpoints {
		g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: a, Ready: true, Serving: true})
	}
	vip := binary.BigEndian.AppendUint32(nil, 172<<24+30<<16+uint32(i))
	return &l4.Service{
		Name: l4.Name{Namespace: "x", Name: fmt.Sprintf("s%05d", i)}, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte(vip))},
		Affinity: time.Hour, Ports: []l4.Port{{Protocol: l4.TCP, Port: 80, Groups: []*l4.Group{g}}},
	}
}

func stickyOf(t *testing.T, k *Kernel, i int) *sticky {
	t.Helper()
	for _, f := range k.families {
		for _, s := range f.affinities(l4.PortKey{Service: stickyService(i).Name, Protocol: l4.TCP}) {
			return s
		}
	}
	t.Fatalf("Service %d has no pool with affinity", i)
	return nil
}

// TestSeatsStay: pools keep their numbers and endpoints their seats in the next
// process, also where another history would have given them others.
func TestSeatsStay(t *testing.T) {
	ns := netns.New(t)
	a, b := sameHome(t)
	p := l4.NewPlanner(l4.Node{Name: "node1"})
	k := openIn(t, ns)
	p.Set(stickyService(0, a))
	p.Set(stickyService(1, a))
	must(t, k.Replace(context.Background(), p.Plan()))
	p.Set(stickyService(1, a, b))
	must(t, k.Apply(context.Background(), p.Take()))
	p.Set(stickyService(1, b))
	p.Delete(stickyService(0).Name)
	must(t, k.Apply(context.Background(), p.Take()))
	before := stickyOf(t, k, 1)
	if _, home := before.home(b); before.seats[b] == home {
		t.Fatal("the second endpoint sits where the first should have been")
	}
	must(t, k.Close())

	k = openIn(t, ns)
	p.Set(stickyService(0, a))
	p.Set(stickyService(2, a))
	must(t, k.Replace(context.Background(), p.Plan()))
	after := stickyOf(t, k, 1)
	if after.number != before.number || after.seats[b] != before.seats[b] {
		t.Errorf("pool %d, seat %d; they were %d and %d", after.number, after.seats[b], before.number, before.seats[b])
	}
	for _, other := range []int{0, 2} {
		if stickyOf(t, k, other).number == after.number {
			t.Errorf("Service %d has the number of another", other)
		}
	}
	// Without a change, nor does a Replace change anything.
	must(t, k.Replace(context.Background(), p.Plan()))
	if again := stickyOf(t, k, 1); again.number != before.number || again.seats[b] != before.seats[b] {
		t.Errorf("after another Replace: pool %d, seat %d", again.number, again.seats[b])
	}
	must(t, k.Close())
}

// sameHome returns two endpoints of Service 1 that ask for the same seat.
func sameHome(t *testing.T) (a, b netip.AddrPort) {
	f := newFamily(Options{}, false)
	s := f.newSticky(&l4.Forwarding{Key: l4.PortKey{Service: stickyService(1).Name, Protocol: l4.TCP}, Affinity: time.Hour}, false, newBatch())
	seen := map[uint32]netip.AddrPort{}
	for i := range uint32(1 << 20) {
		b = netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24+i))), 80)
		_, seat := s.home(b)
		if a, ok := seen[seat]; ok {
			return a, b
		}
		seen[seat] = b
	}
	t.Fatal("no two endpoints have the same seat")
	return a, b
}

// TestManySticky: the number of Services with affinity does not matter.
func TestManySticky(t *testing.T) {
	ns := netns.New(t)
	p := l4.NewPlanner(l4.Node{Name: "node1"})
	a := netip.MustParseAddrPort("10.0.0.1:80")
	for i := range 5000 {
		p.Set(stickyService(i, a))
	}
	for range 2 {
		k := openIn(t, ns)
		must(t, k.Replace(context.Background(), p.Plan()))
		p.Set(stickyService(17, a, netip.MustParseAddrPort("10.0.0.2:80")))
		must(t, k.Apply(context.Background(), p.Take()))
		must(t, k.Close())
	}
}

// TestTimeouts: a Service may change how long clients are remembered, and when
// there are more times than chains, they share one.
func TestTimeouts(t *testing.T) {
	ns := netns.New(t)
	p := l4.NewPlanner(l4.Node{Name: "node1"})
	a := netip.MustParseAddrPort("10.0.0.1:80")
	k := openIn(t, ns)
	s := stickyService(0, a)
	p.Set(s)
	must(t, k.Replace(context.Background(), p.Plan()))
	number := stickyOf(t, k, 0).number
	other := *s
	other.Affinity = time.Minute
	p.Set(&other)
	must(t, k.Apply(context.Background(), p.Take()))
	if s := stickyOf(t, k, 0); s.number != number || s.memory.timeout != time.Minute {
		t.Errorf("pool %d for %s, want %d for a minute", s.number, s.memory.timeout, number)
	}
	for i := range 600 {
		s := stickyService(1+i, a)
		s.Affinity = time.Duration(1000+i) * time.Second
		p.Set(s)
	}
	must(t, k.Apply(context.Background(), p.Take()))
	if s := stickyOf(t, k, 600); s.memory.timeout < 1400*time.Second {
		t.Errorf("in place of 1599 s, clients are remembered for %s", s.memory.timeout)
	}
	ns.Run(t, "nft", "list", "ruleset")
	must(t, k.Close())
}

// openIn opens a Kernel in a namespace, which it needs no longer then.
func openIn(t *testing.T, ns *netns.Namespace) (k *Kernel) {
	t.Helper()
	var err error
	ns.Do(func() { k, err = Open(Options{NoIPv6: true}) })
	must(t, err)
	return k
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
