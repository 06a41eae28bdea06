//go:build linux && root

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/router/l4"
	packetflows "github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/kubeproxy"
	"github.com/portico-ingress/portico/test/nodeapi"
	"github.com/portico-ingress/portico/test/rig"
)

// differential is a random cluster, twice.
type differential struct {
	*testing.T
	world      *packetflows.World
	unread     *l4.Planner // that the world tells of its changes
	node       l4.Node     // as the model has it
	plan       *l4.Plan
	ours, peer *side
	round      int // of the marker
	cases      int
	flows      int
}

// side is one of the two nodes.
type side struct {
	name  string
	rig   *rig.Rig
	api   *nodeapi.Server
	start func() *process // of ours
	runs  *process
	last  map[string]*atomic.Uint32 // of the addresses of a client; const
	sent  atomic.Int64
}

// Addresses of the node beside its primary ones.
var secondary = []netip.Addr{netip.MustParseAddr("192.168.0.3"), rig.V6(netip.MustParseAddr("192.168.0.3"))}

func newDifferential(t *testing.T, seed uint64) *differential {
	d := &differential{T: t, world: packetflows.NewWorld(seed), ours: newSide(t, "portico-node"), peer: newSide(t, "kube-proxy")}
	d.unread = l4.NewPlanner(d.world.Node)
	configured := d.world.Node
	d.node = likeKubeProxy(configured)
	for range 10 {
		d.change()
	}
	d.both(func(s *side) error {
		s.api = nodeapi.Serve(t, s.rig.Node, d.objects())
		return nil
	})
	d.ours.start = func() *process { return start(t, d.ours.rig.Node, nil, arguments(t, configured, d.ours.api)...) }
	d.ours.runs = d.ours.start()
	kubeproxy.StartAt(t, d.peer.rig.Node, configured, d.peer.api)
	d.both(func(s *side) error { return s.caughtUp(d) })
	return d
}

// likeKubeProxy: a family without a range has all addresses answer NodePorts.
func likeKubeProxy(n l4.Node) l4.Node {
	for _, ipv6 := range []bool{false, true} {
		ofFamily := func(a netip.Addr) bool { return a.Is6() == ipv6 }
		if n.NodePorts.All || slices.ContainsFunc(n.NodePorts.Addresses, ofFamily) {
			continue
		}
		all := slices.Concat(n.IPs, secondary)
		for _, link := range []string{rig.NodeToOutside, rig.NodeToPods} {
			a := netip.MustParseAddr(link)
			all = append(all, a, rig.V6(a))
		}
		others := slices.DeleteFunc(all, func(a netip.Addr) bool { return !ofFamily(a) })
		n.NodePorts.Addresses = slices.SortedFunc(slices.Values(append(others, n.NodePorts.Addresses...)), netip.Addr.Compare)
	}
	return n
}

func arguments(t *testing.T, n l4.Node, api *nodeapi.Server) []string {
	args := []string{"--kubeconfig=" + kubeconfig(t, api.URL), "--node-name=" + n.Name}
	if n.MasqueradeAll {
		args = append(args, "--masquerade-all")
	}
	ports := "all"
	if !n.NodePorts.All {
		ports = join(n.NodePorts.Addresses)
	}
	args = append(args, "--nodeport-addresses="+ports)
	switch {
	case len(n.Pods.CIDRs) > 0:
		args = append(args, "--cluster-cidr="+join(n.Pods.CIDRs))
	case n.Pods.InterfacePrefix:
		args = append(args, "--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix="+n.Pods.Interface)
	case n.Pods.Interface != "":
		args = append(args, "--detect-local-mode=BridgeInterface", "--pod-bridge-interface="+n.Pods.Interface)
	}
	return args
}

func join[T fmt.Stringer](all []T) string {
	var out []string
	for _, a := range all {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// both does the same on both nodes.
func (d *differential) both(do func(*side) error) {
	d.Helper()
	var g errgroup.Group
	for _, s := range []*side{d.ours, d.peer} {
		g.Go(func() error {
			if err := do(s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		d.Fatal(err)
	}
}

// change takes the cluster one step further. Of the node only the zone changes:
// the rest is in flags.
func (d *differential) change() {
	d.world.Step(d.unread)
	d.node.Zone = d.world.Node.Zone
	if d.node.Zone == "" {
		d.node.Zone = "c" // where nobody is
	}
	p := l4.NewPlanner(d.node)
	for _, s := range d.services() {
		p.Set(s)
	}
	d.plan = p.Plan()
}

// services are those of the world, with what each has for itself: whose an
// address is that two ask for we decide otherwise than kube-proxy.
func (d *differential) services() []*l4.Service {
	var out []*l4.Service
	for _, n := range slices.SortedFunc(maps.Keys(d.world.Services), func(a, b l4.Name) int { return strings.Compare(a.Name, b.Name) }) {
		if s := apart(d.world.Services[n]); len(s.ClusterIPs) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// apart gives a Service addresses and ports of its own.
func apart(s *l4.Service) *l4.Service {
	out := *s
	i := s.Name.Name[len(s.Name.Name)-1] - '0'
	third := func(all []netip.Addr, add byte) []netip.Addr {
		all = slices.Clone(all)
		for j, a := range all {
			b := a.AsSlice()
			b[len(b)-2] = add + i
			all[j], _ = netip.AddrFromSlice(b)
		}
		return all
	}
	out.ClusterIPs, out.ExternalIPs, out.LoadBalancerIPs = third(s.ClusterIPs, 0), third(s.ExternalIPs, 100), third(s.LoadBalancerIPs, 100)
	out.Ports = nil
	for n, p := range s.Ports {
		if p.NodePort != 0 {
			p.NodePort = 30000 + 10*uint16(i) + uint16(n)
		}
		if p.Protocol == l4.SCTP { // sockets need a kernel with it
			p.Protocol, p.Port = l4.TCP, p.Port+10
		}
		p.Groups = once(p.Groups)
		out.Ports = append(out.Ports, p)
	}
	return &out
}

// once leaves of endpoints that are there twice the first: which of them counts
// is nobody's to say. A pod is on the same node for all Services.
func once(groups []*l4.Group) []*l4.Group {
	var out []*l4.Group
	seen := map[netip.AddrPort]bool{}
	for _, g := range groups {
		one := &l4.Group{IPv6: g.IPv6}
		for _, e := range g.Endpoints {
			b := e.Address.Addr().AsSlice()
			e.Local = b[len(b)-1]%2 == 1
			if !seen[e.Address] {
				one.Endpoints = append(one.Endpoints, e)
			}
			seen[e.Address] = true
		}
		out = append(out, one)
	}
	return out
}

// objects are what both apiservers have: the cluster, and what shows how much of
// it has been seen. The latter comes last of its kind.
func (d *differential) objects() nodeapi.Objects {
	return kubeproxy.Objects(d.node, append(d.services(), d.marker(), zones))
}

// marker changes with every step, its Service and its EndpointSlices: who has
// the last one's port and endpoint has seen everything before.
func (d *differential) marker() *l4.Service {
	s := &l4.Service{
		Name: l4.Name{Namespace: "zz", Name: "marker"}, ClusterIPs: bothFamilies("172.30.200.1"),
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 7000 + uint16(d.round%2)}},
	}
	for _, a := range bothFamilies(fmt.Sprintf("10.180.0.%d", 1+d.round%2)) {
		s.Ports[0].Groups = append(s.Ports[0].Groups, &l4.Group{IPv6: a.Is6(), Endpoints: []l4.Endpoint{{Address: netip.AddrPortFrom(a, 8080), Ready: true, Serving: true}}})
	}
	return s
}

// zones has an endpoint for each zone.
var zones = func() *l4.Service {
	s := &l4.Service{
		Name: l4.Name{Namespace: "zz", Name: "zones"}, ClusterIPs: bothFamilies("172.30.200.2"),
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 80, Groups: []*l4.Group{{}, {IPv6: true}}}},
	}
	for i, zone := range zoneNames {
		for n, a := range bothFamilies(fmt.Sprintf("10.180.0.%d", i+1)) {
			g := s.Ports[0].Groups[n]
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: netip.AddrPortFrom(a, 8080), Ready: true, Serving: true, ForZones: []string{zone}})
		}
	}
	return s
}()

var zoneNames = []string{"a", "b", "c"}

func bothFamilies(ipv4 string) []netip.Addr {
	a := netip.MustParseAddr(ipv4)
	return []netip.Addr{a, rig.V6(a)}
}

// caughtUp waits until the node does what the last objects say.
func (s *side) caughtUp(d *differential) error {
	m := d.marker()
	zone := slices.Index(zoneNames, d.node.Zone)
	for i, g := range m.Ports[0].Groups {
		for to, want := range map[netip.AddrPort]netip.AddrPort{
			netip.AddrPortFrom(m.ClusterIPs[i], m.Ports[0].Port): g.Endpoints[0].Address,
			netip.AddrPortFrom(zones.ClusterIPs[i], 80):          zones.Ports[0].Groups[i].Endpoints[zone].Address,
		} {
			if err := s.until(to, want.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// until waits until a connection of a pod ends so.
func (s *side) until(to netip.AddrPort, want string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := s.rig.Send(l4.Pod, rig.Probe{Protocol: l4.TCP, Source: s.next(freshPod, to.Addr().Is6()), Destination: to, Quiet: want == l4.Dropped.String()})
		if err != nil {
			return err
		}
		if strings.TrimSuffix(got[0], " masqueraded") == want {
			return nil
		}
		if time.Now().After(deadline) {
			text := ""
			if s.runs != nil {
				text = "\n" + s.runs.log.String()
			}
			return fmt.Errorf("it has not seen the last change: to %s there is %q, not %q%s", to, got[0], want, text)
		}
	}
}

// restart ends ours as kill -9 does; what is programmed works on.
func (s *side) restart() {
	s.runs.kill()
	s.runs = s.start()
}

// describe prints the cluster, for a failure.
func (d *differential) describe() []string {
	out := []string{fmt.Sprintf("%+v", d.node)}
	objects := d.objects()
	for _, resource := range []string{"services", "endpointslices"} {
		for _, o := range objects[resource] {
			text, err := json.Marshal(o)
			if err != nil {
				d.Fatal(err)
			}
			out = append(out, string(text))
		}
	}
	return out
}
