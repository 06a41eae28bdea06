package l4

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// PortKey names one port of a Service in one family.
type PortKey struct {
	Service  Name
	Port     string // the port's name; may be empty
	Protocol Protocol
	IPv6     bool
}

// String returns "namespace/name:port/TCP IPv4".
func (k PortKey) String() string {
	family := " IPv4"
	if k.IPv6 {
		family = " IPv6"
	}
	return k.Service.String() + ":" + k.Port + "/" + k.Protocol.String() + family
}

// Compare is the order in which everything is handed out.
func (k PortKey) Compare(o PortKey) int {
	return cmp.Or(
		k.Service.compare(o.Service),
		strings.Compare(k.Port, o.Port),
		cmp.Compare(k.Protocol, o.Protocol),
		compareBool(k.IPv6, o.IPv6),
	)
}

// Forwarding is what the kernel must do for one PortKey: the decision,
// finished. Never written once it was handed out.
type Forwarding struct {
	Key PortKey
	// Cluster and Local are the two pools: endpoints after readiness, the
	// fallback to terminating ones and topology. Sorted, without duplicates,
	// all of the key's family. A pool that no rule leads to may be empty.
	Cluster, Local []netip.AddrPort
	// Hairpin are those endpoints of both pools that are on this node:
	// a connection that comes back to its own endpoint must be masqueraded,
	// or the endpoint would answer itself.
	Hairpin []netip.AddrPort
	// Serving are all endpoints that serve, whatever the policies: flows to
	// them are kept. Only filled for UDP.
	Serving []netip.AddrPort
	// Affinity is how long a client keeps its endpoint, per client and
	// PortKey, by whichever Front it came; 0: not at all.
	Affinity time.Duration
	// Fronts are sorted; no two Forwardings have an equal one.
	Fronts []Front
	// Refused are fronts that another Service has already.
	Refused []Refused
	// NoLocalInternal and NoLocalExternal tell that there are endpoints, but
	// none on this node, where a policy Local asks for them.
	NoLocalInternal, NoLocalExternal bool
}

// Front is one address and port that clients use.
type Front struct {
	Kind    Kind
	Address netip.Addr // invalid for NodePort: any of Globals.NodePorts
	Port    uint16
	// SourceRanges, unless empty, are all who may use it; others are dropped,
	// whatever the rules say, wherever they come from. Sorted, none within
	// another. Only for LoadBalancer.
	SourceRanges []netip.Prefix
	// Rules by where a connection comes from; see Origin for which applies.
	Outside, Pod, Host Rule
}

// Rule returns the rule for an origin.
func (f Front) Rule(o Origin) Rule {
	switch o {
	case Pod:
		return f.Pod
	case Host:
		return f.Host
	}
	return f.Outside
}

// Kind is why a front is answered.
type Kind uint8

// The kinds of fronts, in the order in which they win over each other.
const (
	ClusterIP Kind = iota
	NodePort
	LoadBalancer
	ExternalIP
)

// String returns the kind in the words of the Service API.
func (k Kind) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer IP", "external IP"}[k]
}

// Origin is where a connection comes from. A source that Globals.Pods
// recognises is Pod, also if it is an address of the node; of the others, an
// address of the node is Host, and the rest is Outside.
type Origin uint8

// The origins.
const (
	Outside Origin = iota
	Pod
	Host
)

// String returns "outside", "pod" or "node".
func (o Origin) String() string { return [...]string{"outside", "pod", "node"}[o] }

// Rule is what happens to a new connection.
type Rule struct {
	Verdict Verdict
	// Masquerade replaces the source by an address of the node. False unless
	// the verdict leads to a pool.
	Masquerade bool
}

// Verdict is where a new connection goes.
type Verdict uint8

// The verdicts. Reject answers with a TCP reset or an ICMP port unreachable;
// Drop stays silent.
const (
	Reject Verdict = iota
	Drop
	ToCluster // a random endpoint of Forwarding.Cluster, never empty then
	ToLocal   // of Forwarding.Local, never empty then
)

// String names the verdict.
func (v Verdict) String() string {
	return [...]string{"reject", "drop", "any endpoint", "endpoints on this node"}[v]
}

// Refused is a front that is not programmed because Owner has it.
type Refused struct {
	Kind    Kind
	Address netip.Addr // invalid for NodePort
	Port    uint16
	Owner   PortKey
}

// Loop is an endpoint on this node that may connect to itself by way of a
// Service. See Forwarding.Hairpin.
type Loop struct {
	Endpoint netip.AddrPort
	Protocol Protocol
}

func (l Loop) compare(o Loop) int {
	return cmp.Or(l.Endpoint.Compare(o.Endpoint), cmp.Compare(l.Protocol, o.Protocol))
}

// Plan is everything that must be programmed, of both families. Never written
// once it was handed out.
type Plan struct {
	Globals     Globals
	Forwardings []*Forwarding // sorted by key
	// ClusterIPs are all ClusterIPs: on any other port they are rejected.
	ClusterIPs []netip.Addr // sorted
	// Loops are the Hairpin endpoints of all Forwardings.
	Loops []Loop // sorted
}

// Change is what became different since the last Take or Plan. Empty where
// nothing did. Deterministic: sorted throughout.
type Change struct {
	Globals    *Globals // nil: unchanged
	Set        []Update
	Delete     []PortKey
	ClusterIPs Delta[netip.Addr]
	Loops      Delta[Loop]
	// Stale are UDP flows to be forgotten once the rest is programmed.
	Stale []Stale
}

// Empty reports whether there is nothing to do.
func (c *Change) Empty() bool {
	return c.Globals == nil && len(c.Set) == 0 && len(c.Delete) == 0 && c.ClusterIPs.Empty() && c.Loops.Empty() && len(c.Stale) == 0
}

// Update is a new or changed Forwarding, with what became of its pools, so
// that nobody compares 100,000 endpoints to find the one that changed.
type Update struct {
	*Forwarding
	Old *Forwarding // what it replaces; nil: nothing
	// Pools that are the same have empty deltas.
	ClusterDelta, LocalDelta Delta[netip.AddrPort]
}

// Delta is the difference between two sets. Both lists are sorted, and no
// value is in both.
type Delta[T any] struct{ Added, Removed []T }

// Empty reports whether the sets are equal.
func (d Delta[T]) Empty() bool { return len(d.Added) == 0 && len(d.Removed) == 0 }

// Stale names UDP flows that conntrack would otherwise go on sending to
// endpoints that are gone: there is no connection whose end would stop it.
//
// Meant are flows whose original destination is one of Destinations, or has
// the port NodePort, and that are answered from one of Gone; with
// Untranslated also those that were never translated, because nothing was
// programmed when they began. Of these, such to a NodePort only count if their
// destination is an address of the node: the same port of other hosts is none
// of our business.
type Stale struct {
	Key          PortKey
	Destinations []netip.AddrPort // sorted
	NodePort     uint16           // 0: none
	Gone         []netip.AddrPort // sorted
	Untranslated bool
	// Serving are the endpoints whose flows stay. Gone has none of them.
	Serving []netip.AddrPort // sorted
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Sticky is a client that keeps its endpoint, as the kernel remembers it.
type Sticky struct {
	Client   netip.Addr
	Endpoint netip.AddrPort
	Expires  time.Duration // from now, unless the client connects again
}
