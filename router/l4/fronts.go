package l4

import (
	"cmp"
	"net/netip"
	"slices"
)

// frontID is what a packet is recognised by. Address is the unspecified one of
// the family for NodePorts.
type frontID struct {
	address  netip.Addr
	port     uint16
	protocol Protocol
	nodePort bool
}

// wish is a front that a port asks for.
type wish struct {
	id   frontID
	kind Kind
}

func (w wish) compare(o wish) int {
	return cmp.Or(cmp.Compare(w.kind, o.kind), w.id.address.Compare(o.id.address), cmp.Compare(w.id.port, o.id.port))
}

// address returns the address as a Front has it.
func (w wish) address() netip.Addr {
	if w.kind == NodePort {
		return netip.Addr{}
	}
	return w.id.address
}

// wishes lists the fronts that the Service asks for in one port and family,
// sorted. An address that is named twice keeps its first kind.
func wishes(s *Service, p *Port, ipv6 bool) []wish {
	var out []wish
	add := func(k Kind, a netip.Addr, port uint16) {
		id := frontID{address: a, port: port, protocol: p.Protocol, nodePort: k == NodePort}
		if a.Is6() == ipv6 && !slices.ContainsFunc(out, func(w wish) bool { return w.id == id }) {
			out = append(out, wish{id, k})
		}
	}
	for _, a := range s.ClusterIPs {
		add(ClusterIP, a, p.Port)
	}
	if p.NodePort != 0 {
		add(NodePort, unspecified(ipv6), p.NodePort)
	}
	for _, a := range s.LoadBalancerIPs {
		add(LoadBalancer, a, p.Port)
	}
	for _, a := range s.ExternalIPs {
		add(ExternalIP, a, p.Port)
	}
	slices.SortFunc(out, wish.compare)
	return out
}

func unspecified(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// front decides what happens at a front that the port has.
func (p *port) front(w wish, node *Node) Front {
	f := Front{Kind: w.kind, Address: w.address(), Port: w.id.port}
	if w.kind == ClusterIP {
		masquerade := node.MasqueradeAll || node.Pods.Enabled(p.key.IPv6)
		f.Outside = p.internal(masquerade)
		f.Pod = p.internal(node.MasqueradeAll)
		f.Host = f.Outside
		return f
	}
	f.Outside, f.Pod, f.Host = p.external(Outside), p.external(Pod), p.external(Host)
	if w.kind == LoadBalancer {
		f.SourceRanges = sourceRanges(p.service, node, p.key.IPv6)
	}
	return f
}

// internal is the rule for the ClusterIP.
func (p *port) internal(masquerade bool) Rule {
	switch {
	case !p.census.any():
		return Rule{Verdict: Reject}
	case !p.service.InternalLocal:
		return Rule{ToCluster, masquerade}
	case len(p.pools[localPool].list) > 0:
		return Rule{ToLocal, masquerade}
	}
	return Rule{Verdict: Drop}
}

// external is the rule for all other fronts. With policy Local, pods and the
// node itself still reach every endpoint, as if they had gone out to the load
// balancer and come back in; the node is masqueraded because the front's
// address may be its own, and so the source.
func (p *port) external(from Origin) Rule {
	switch {
	case !p.census.any():
		return Rule{Verdict: Reject}
	case !p.service.ExternalLocal:
		return Rule{ToCluster, true}
	case from == Pod:
		return Rule{ToCluster, false}
	case from == Host:
		return Rule{ToCluster, true}
	case len(p.pools[localPool].list) > 0:
		return Rule{ToLocal, false}
	}
	return Rule{Verdict: Drop}
}

// sourceRanges returns who may use the load balancer's addresses of a family;
// empty: everybody.
func sourceRanges(s *Service, node *Node, ipv6 bool) []netip.Prefix {
	var out []netip.Prefix
	own := false
	for _, r := range s.SourceRanges {
		if r.Addr().Is6() != ipv6 {
			continue
		}
		if r.Bits() == 0 {
			return nil
		}
		out = append(out, r.Masked())
		own = own || slices.ContainsFunc(node.IPs, r.Contains)
	}
	if own { // see Node.IPs
		for _, a := range s.LoadBalancerIPs {
			if a.Is6() == ipv6 {
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return disjoint(out)
}

// disjoint sorts ranges and leaves out those that lie within others: kernels
// take no overlapping ones.
func disjoint(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, comparePrefix)
	out := all[:0]
	for _, p := range all {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// claims knows which port has a front, so that no two have the same: of
// several that ask for one, the kind decides, then the age of the Service,
// then its name.
type claims map[frontID]claim

type claim struct {
	owner   claimant
	waiting []claimant
}

type claimant struct {
	port *port
	kind Kind
}

func (c claimant) compare(o claimant) int {
	return cmp.Or(cmp.Compare(c.kind, o.kind),
		c.port.service.Created.Compare(o.port.service.Created), c.port.key.Compare(o.port.key))
}

// claim enters a wish. It returns the other ports that it concerns: if the
// front changes hands, all that ask for it.
func (c claims) claim(w wish, p *port) []claimant {
	me := claimant{p, w.kind}
	held, taken := c[w.id]
	switch {
	case !taken:
		c[w.id] = claim{owner: me}
		return nil
	case me.compare(held.owner) < 0:
		held.waiting = append(held.waiting, held.owner)
		held.owner = me
		c[w.id] = held
		return held.waiting
	}
	held.waiting = append(held.waiting, me)
	c[w.id] = held
	return nil
}

// release withdraws a wish. It returns the ports that it concerns: if the
// front changes hands, all that still ask for it.
func (c claims) release(w wish, p *port) []claimant {
	held := c[w.id]
	if held.owner.port != p {
		held.waiting = slices.DeleteFunc(held.waiting, func(o claimant) bool { return o.port == p })
		c[w.id] = held
		return nil
	}
	if len(held.waiting) == 0 {
		delete(c, w.id)
		return nil
	}
	all := held.waiting
	held.owner = slices.MinFunc(all, claimant.compare)
	held.waiting = slices.DeleteFunc(slices.Clone(all), func(o claimant) bool { return o.port == held.owner.port })
	c[w.id] = held
	return all
}

func (c claims) owner(id frontID) *port { return c[id].owner.port }
