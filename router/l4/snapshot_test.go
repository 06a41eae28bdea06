package l4

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

// TestSnapshot: a snapshot is the plan of its moment, also if it is made while the
// planner goes on.
func TestSnapshot(t *testing.T) {
	p := NewPlanner(Node{Name: "node1"})
	set := func(i, port int) {
		p.Set(&Service{
			Name: Name{"shop", fmt.Sprint("s", i)}, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})},
			Ports: []Port{{Protocol: TCP, Port: uint16(port), Groups: []*Group{{Endpoints: []Endpoint{
				{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint16(port)), Ready: true, Serving: true, Local: true},
			}}}}},
		})
	}
	for i := range 100 {
		set(i, 80)
	}
	want := p.Plan()
	snapshot := p.Snapshot()
	got := make(chan *Plan)
	go func() { got <- snapshot() }()
	for i := range 100 {
		set(i, 81)
		if i%2 == 0 {
			p.Delete(Name{"shop", fmt.Sprint("s", i)})
		}
		p.Take()
	}
	if plan := <-got; !reflect.DeepEqual(plan, want) {
		t.Errorf("got %d Forwardings, ClusterIPs %v, loops %v", len(plan.Forwardings), plan.ClusterIPs, plan.Loops)
	}
}
