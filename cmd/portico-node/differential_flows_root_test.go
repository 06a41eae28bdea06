//go:build linux && root

package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/router/l4"
	packetflows "github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/rig"
)

// client is a kind of client: one address, or a range of which each try has
// another, so that nothing is remembered of it. Addresses are IPv4; those of the
// other family belong to them.
type client struct {
	name   string
	origin l4.Origin
	iface  string
	from   netip.Prefix
	fixed  bool
}

var (
	freshPod = client{"a pod", l4.Pod, packetflows.PodInterface, netip.MustParsePrefix("10.180.128.0/17"), false}
	clients  = []client{
		freshPod,
		{"the pod 10.180.0.1", l4.Pod, packetflows.PodInterface, netip.MustParsePrefix("10.180.0.1/32"), true}, // may be an endpoint
		{"the node", l4.Host, "", netip.MustParsePrefix("192.168.0.2/32"), true},
		{"outside", l4.Outside, packetflows.OutsideInterface, netip.MustParsePrefix("198.18.0.0/16"), false},
		{"outside, maybe in source ranges", l4.Outside, packetflows.OutsideInterface, netip.MustParsePrefix("198.19.0.0/16"), false},
	}
)

// first is the address of the client that stands for all.
func (c client) first(ipv6 bool) netip.Addr { return c.at(0, ipv6) }

func (c client) at(n uint32, ipv6 bool) netip.Addr {
	base := c.from.Addr().As4()
	host := n % (1 << (32 - c.from.Bits()))
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+host)
	if a := netip.AddrFrom4(b); !ipv6 {
		return a
	}
	return rig.V6(netip.AddrFrom4(b))
}

// next is an address that was not used for long.
func (s *side) next(c client, ipv6 bool) netip.Addr {
	return c.at(s.last[c.name].Add(1), ipv6)
}

// newSide makes a node with all addresses that clients and endpoints have.
func newSide(t *testing.T, name string) *side {
	t.Helper()
	r := rig.New(t)
	// There are many flows, and all namespaces share the kernel's table: what is
	// over is not remembered, and what gets no answer not for long.
	for timeout, seconds := range map[string]string{"udp_timeout": "10", "udp_timeout_stream": "10", "tcp_timeout_close": "1", "tcp_timeout_time_wait": "1"} {
		r.Node.Set(t, "netfilter/nf_conntrack_"+timeout, seconds)
	}
	for i := range 6 {
		for _, a := range bothFamilies(fmt.Sprintf("10.180.0.%d", i+1)) {
			r.Own(t, r.Pods, a)
			for _, p := range []l4.Protocol{l4.TCP, l4.UDP} {
				r.Serve(t, r.Pods, p, netip.AddrPortFrom(a, 8080))
			}
		}
	}
	for _, a := range append(bothFamilies("192.168.0.2"), secondary...) {
		r.Own(t, r.Node, a)
	}
	for _, c := range clients {
		if !c.fixed {
			r.OwnAll(t, r.Namespace(c.origin), c.from)
			r.OwnAll(t, r.Namespace(c.origin), netip.PrefixFrom(rig.V6(c.from.Addr()), c.from.Bits()+96))
		}
	}
	s := &side{name: name, rig: r, last: map[string]*atomic.Uint32{}}
	for _, c := range clients {
		s.last[c.name] = &atomic.Uint32{}
	}
	return s
}

// place is where a client may send.
type place struct {
	protocol l4.Protocol
	to       netip.AddrPort
}

// touched are the places at which two plans differ.
func (d *differential) touched(before *l4.Plan) map[place]bool {
	places := map[place]bool{}
	old, fresh := texts(before), texts(d.plan)
	for text, f := range old {
		if fresh[text] == nil {
			d.places(f, places)
		}
	}
	for text, f := range fresh {
		if old[text] == nil {
			d.places(f, places)
		}
	}
	return places
}

// texts has the Forwardings of a plan by all that they say.
func texts(p *l4.Plan) map[string]*l4.Forwarding {
	out := map[string]*l4.Forwarding{}
	for _, f := range p.Forwardings {
		out[fmt.Sprintf("%+v", *f)] = f
	}
	return out
}

// nobody has these, which lie in the ranges of ClusterIPs.
var nobody = bothFamilies("172.30.250.250")

// flowsTo are the flows of all clients to places, and to some where nobody is.
func (d *differential) flowsTo(places map[place]bool) []flow {
	places[place{l4.TCP, netip.AddrPortFrom(nobody[0], 80)}] = true
	places[place{l4.UDP, netip.AddrPortFrom(nobody[1], 80)}] = true
	var out []flow
	for _, p := range slices.SortedFunc(maps.Keys(places), func(a, b place) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) {
		for _, c := range clients {
			out = append(out, d.flow(c, p))
		}
	}
	return out
}

// places adds where a Forwarding answers, and a port of its ClusterIP at which
// nobody does.
func (d *differential) places(f *l4.Forwarding, to map[place]bool) {
	for _, fr := range f.Fronts {
		switch fr.Kind {
		case l4.NodePort:
			for _, a := range append(bothFamilies("192.168.0.2"), secondary...) {
				if a.Is6() == f.Key.IPv6 {
					to[place{f.Key.Protocol, netip.AddrPortFrom(a, fr.Port)}] = true
				}
			}
			continue
		case l4.ClusterIP:
			to[place{f.Key.Protocol, netip.AddrPortFrom(fr.Address, 9999)}] = true
		}
		to[place{f.Key.Protocol, netip.AddrPortFrom(fr.Address, fr.Port)}] = true
	}
}

// flow asks the model what must become of a client, and has somebody answer
// where it ends up if nothing is programmed.
func (d *differential) flow(c client, p place) flow {
	ipv6 := p.to.Addr().Is6()
	local := slices.Contains(append(slices.Clone(d.node.IPs), secondary...), p.to.Addr())
	f := flow{client: c, packet: l4.Packet{
		Protocol: p.protocol, Source: c.first(ipv6), Destination: p.to, Interface: c.iface,
		SourceLocal: c.origin == l4.Host, DestinationLocal: local,
	}}
	o := d.plan.Trace(f.packet)
	f.action, f.want = o.Action, strings.Split(o.String(), ", ")
	f.affinity = o.Action == l4.Forward && o.Forwarding.Affinity > 0
	f.unclaimed = o.Action == l4.Dropped && o.Forwarding == nil
	slices.Sort(f.want)
	for _, s := range []*side{d.ours, d.peer} {
		switch {
		case local:
			s.rig.Serve(d, s.rig.Node, p.protocol, p.to)
		case o.Action == l4.Pass:
			s.rig.Own(d, s.rig.Outside, p.to.Addr())
			s.rig.Serve(d, s.rig.Outside, p.protocol, p.to)
		}
	}
	return f
}

// explored is what was seen of a flow.
type explored struct {
	flow
	seen   map[string]bool
	strays []string // clients that did not keep their endpoint
	done   bool
}

// mostRounds bounds the search for an endpoint that does not answer: by then it
// would have with a probability of all but 1e-20.
const mostRounds = 15

// explore tries flows until all that must be seen was, or something else, and
// returns for each what it saw, in the words of its outcome.
func (s *side) explore(all []flow) ([]string, error) {
	e := make([]*explored, len(all))
	for i, f := range all {
		e[i] = &explored{flow: f, seen: map[string]bool{}}
	}
	for range mostRounds {
		open := slices.DeleteFunc(slices.Clone(e), func(x *explored) bool { return x.done })
		if len(open) == 0 {
			break
		}
		var g errgroup.Group
		for _, origin := range []l4.Origin{l4.Pod, l4.Host, l4.Outside} {
			theirs := slices.DeleteFunc(slices.Clone(open), func(x *explored) bool { return x.client.origin != origin })
			g.Go(func() error { return s.round(origin, theirs) })
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	out := make([]string, len(e))
	for i, x := range e {
		out[i] = x.result()
	}
	return out, nil
}

// round tries each flow some times. Clients of a Service that remembers them try
// three times, one after the other.
func (s *side) round(origin l4.Origin, open []*explored) error {
	var probes, again []rig.Probe
	var whose, whoseAgain []*explored
	for _, x := range open {
		for range x.tries() {
			p := rig.Probe{Protocol: x.packet.Protocol, Source: s.next(x.client, x.packet.Source.Is6()), Destination: x.packet.Destination, Quiet: x.action == l4.Dropped}
			probes, whose = append(probes, p), append(whose, x)
			if x.affinity {
				again, whoseAgain = append(again, p), append(whoseAgain, x)
			}
		}
	}
	got, err := s.send(origin, probes, whose)
	if err != nil || len(again) == 0 {
		return err
	}
	second, err := s.send(origin, again, whoseAgain)
	if err != nil {
		return err
	}
	third, err := s.send(origin, again, whoseAgain)
	if err != nil {
		return err
	}
	first := slices.DeleteFunc(got, func(a answered) bool { return !a.by.affinity })
	for i, x := range whoseAgain {
		// What else this client did at the same time may have come between its
		// first two tries here.
		if !x.client.fixed && first[i].what != second[i].what || second[i].what != third[i].what {
			x.strays = append(x.strays, fmt.Sprintf("%s first had %s, then %s, then %s", again[i].Source, first[i].what, second[i].what, third[i].what))
		}
	}
	for _, x := range open {
		x.finish()
	}
	return nil
}

// answered is one result.
type answered struct {
	by   *explored
	what string
}

func (s *side) send(origin l4.Origin, probes []rig.Probe, whose []*explored) ([]answered, error) {
	s.sent.Add(int64(len(probes)))
	got, err := s.rig.Send(origin, probes...)
	if err != nil {
		return nil, err
	}
	out := make([]answered, len(got))
	for i, what := range got {
		whose[i].seen[what] = true
		out[i] = answered{whose[i], what}
	}
	for _, x := range whose {
		x.finish()
	}
	return out, nil
}

// tries in a round: about as many as it takes to see everything.
func (x *explored) tries() int {
	switch n := len(x.want); {
	case x.some(), n == 1:
		return 1
	default:
		return 4 * n
	}
}

// finish notes whether everything was seen, or something that must not be.
func (x *explored) finish() {
	stranger := func(what string) bool { return !slices.Contains(x.want, what) }
	x.done = len(x.seen) == len(x.want) || x.some() || len(x.strays) > 0 || slices.ContainsFunc(slices.Collect(maps.Keys(x.seen)), stranger)
}

// result is the outcome if all is well.
func (x *explored) result() string {
	seen := slices.Sorted(maps.Keys(x.seen))
	subset := !slices.ContainsFunc(seen, func(what string) bool { return !slices.Contains(x.want, what) })
	switch {
	case len(x.strays) > 0:
		return strings.Join(append(seen, x.strays...), ", ")
	case x.some() && subset && len(seen) > 0:
		return x.outcome()
	}
	return strings.Join(seen, ", ")
}
