package l4

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection, as it comes to the node.
type Packet struct {
	Protocol    Protocol
	Source      netip.Addr
	Destination netip.AddrPort
	// Interface is what it came in by; empty if the node made it.
	Interface string
	// SourceLocal and DestinationLocal tell that the address is one of the
	// node's own, as its routing tables see it.
	SourceLocal, DestinationLocal bool
}

// Outcome is what a Plan does with a packet.
type Outcome struct {
	Action Action
	// Endpoints are the candidates of Forward; each is as likely as the
	// others, unless affinity has chosen before. Sorted.
	Endpoints []Candidate
	// Origin is what the packet was taken for.
	Origin Origin
	// Forwarding and Front are what the packet met; Forwarding is nil if it
	// met none.
	Forwarding *Forwarding
	Front      Front
	// Steps tell how it came to that, in words.
	Steps []string
}

// Candidate is an endpoint that a packet may go to.
type Candidate struct {
	Address    netip.AddrPort
	Masquerade bool // the source is replaced
}

// Action is what happens to a packet.
type Action uint8

// The actions. Pass means that it is none of our business.
const (
	Pass Action = iota
	Forward
	Rejected
	Dropped
)

// String returns "pass", "forward", "reject" or "drop".
func (a Action) String() string { return [...]string{"pass", "forward", "reject", "drop"}[a] }

// String returns the outcome on one line: what packet-flow tables hold and
// differential tests compare. Endpoints that are masqueraded are marked.
func (o *Outcome) String() string {
	if o.Action != Forward {
		return o.Action.String()
	}
	var b strings.Builder
	for i, c := range o.Endpoints {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.Address.String())
		if c.Masquerade {
			b.WriteString(" masqueraded")
		}
	}
	return b.String()
}

// Trace follows a packet through a plan.
func (p *Plan) Trace(k Packet) *Outcome {
	o := &Outcome{Origin: p.origin(k)}
	o.step("the source %s counts as %s", k.Source, o.Origin)
	if k.Destination.Addr().IsLoopback() {
		return p.loopback(o, k)
	}
	if f, front, ok := p.find(k); ok {
		o.Forwarding, o.Front = f, front
		o.meet(k)
		return o
	}
	a := k.Destination.Addr()
	inCIDR := slices.ContainsFunc(p.Globals.ServiceCIDRs, func(c netip.Prefix) bool { return c.Contains(a) })
	_, isClusterIP := slices.BinarySearchFunc(p.ClusterIPs, a, netip.Addr.Compare)
	switch {
	case isClusterIP:
		o.Action = Rejected
		o.step("%s is the ClusterIP of a Service that has no port %d/%s", a, k.Destination.Port(), k.Protocol)
	case inCIDR:
		o.Action = Dropped
		o.step("%s lies in a range of ClusterIPs, but no Service has it", a)
	default:
		o.step("no Service answers at %s/%s", k.Destination, k.Protocol)
	}
	return o
}

// loopback: NodePorts do not answer there, and what comes from elsewhere for
// a loopback address is a neighbour who hopes that the node routes it.
func (p *Plan) loopback(o *Outcome, k Packet) *Outcome {
	if o.Origin != Host && !k.SourceLocal {
		o.Action = Dropped
		o.step("nobody but the node itself may send to a loopback address")
		return o
	}
	o.step("loopback addresses answer no NodePorts")
	return o
}

func (p *Plan) origin(k Packet) Origin {
	switch {
	case p.Globals.Pods.Matches(k.Source, k.Interface):
		return Pod
	case k.SourceLocal:
		return Host
	}
	return Outside
}

// find returns the front that a packet meets: its address, else the NodePort.
func (p *Plan) find(k Packet) (*Forwarding, Front, bool) {
	dst := k.Destination
	nodePort := k.DestinationLocal && p.Globals.NodePorts.All || slices.Contains(p.Globals.NodePorts.Addresses, dst.Addr())
	var byPort *Forwarding
	var byPortFront Front
	for _, f := range p.Forwardings {
		if f.Key.Protocol != k.Protocol || f.Key.IPv6 != dst.Addr().Is6() {
			continue
		}
		for _, front := range f.Fronts {
			switch {
			case front.Port != dst.Port():
			case front.Kind == NodePort:
				byPort, byPortFront = f, front
			case front.Address == dst.Addr():
				return f, front, true
			}
		}
	}
	return byPort, byPortFront, nodePort && byPort != nil
}

// meet applies a front's ranges and rule.
func (o *Outcome) meet(k Packet) {
	f, front := o.Forwarding, o.Front
	o.step("%s/%s is a %s of Service %s, port %q", k.Destination, k.Protocol, front.Kind, f.Key.Service, f.Key.Port)
	if r := front.SourceRanges; len(r) > 0 && !slices.ContainsFunc(r, func(p netip.Prefix) bool { return p.Contains(k.Source) }) {
		o.Action = Dropped
		o.step("its loadBalancerSourceRanges do not hold %s", k.Source)
		return
	}
	rule := front.Rule(o.Origin)
	switch rule.Verdict {
	case Reject:
		o.Action = Rejected
		o.step("it has no usable endpoint")
	case Drop:
		o.Action = Dropped
		o.step("its traffic policy is Local, and no endpoint is on this node")
	case ToCluster:
		o.forward(k, f.Cluster, rule)
	case ToLocal:
		o.forward(k, f.Local, rule)
	}
}

func (o *Outcome) forward(k Packet, pool []netip.AddrPort, rule Rule) {
	o.Action = Forward
	o.step("it goes to %s: %d to choose from", rule.Verdict, len(pool))
	if a := o.Forwarding.Affinity; a > 0 {
		o.step("the one that this client was given less than %s ago stays its endpoint", a)
	}
	if rule.Masquerade {
		o.step("the source is replaced by an address of the node")
	}
	for _, e := range pool {
		_, onNode := slices.BinarySearchFunc(o.Forwarding.Hairpin, e, netip.AddrPort.Compare)
		itself := onNode && e.Addr() == k.Source
		o.Endpoints = append(o.Endpoints, Candidate{e, rule.Masquerade || itself})
		if itself && !rule.Masquerade {
			o.step("if it comes back to %s itself, the source is replaced there", e)
		}
	}
}

func (o *Outcome) step(format string, args ...any) {
	o.Steps = append(o.Steps, fmt.Sprintf(format, args...))
}
