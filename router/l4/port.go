package l4

import (
	"net/netip"
	"slices"
)

// port is what the planner knows of one port of a Service in one family.
type port struct {
	key     PortKey
	service *Service
	groups  []*Group // of the key's family
	census  census
	chosen  selection
	pools   [pools]pool
	wishes  []wish
	// deltas of the pools since the Forwarding was made.
	deltas [pools]Delta[netip.AddrPort]
	// forwarding is what was handed out; nil before the first time.
	forwarding *Forwarding
	removed    bool
	marked     uint64 // number of the last round in which it may have changed
}

// settle takes over the present state of the port. afresh says that the node
// changed, so that nothing that was counted holds any more.
func (p *port) settle(s *Service, def *Port, node *Node, afresh bool) {
	p.service = s
	groups := ofFamily(def.Groups, p.key.IPv6)
	gone, come := diffGroups(p.groups, groups)
	p.groups = groups
	if afresh {
		p.census, gone, come = census{}, nil, groups
	}
	for _, g := range gone {
		p.census.count(g, -1, node)
	}
	for _, g := range come {
		p.census.count(g, 1, node)
	}
	external := def.NodePort != 0 || len(s.LoadBalancerIPs) > 0 || len(s.ExternalIPs) > 0
	chosen := p.census.choose(!s.InternalLocal || external, s.InternalLocal || s.ExternalLocal && external)
	afresh = afresh || chosen != p.chosen
	p.chosen = chosen
	for i := range p.pools {
		if afresh {
			p.deltas[i] = p.pools[i].reset(p.members(i, groups, node))
		} else {
			p.deltas[i] = p.pools[i].change(p.members(i, gone, node), p.members(i, come, node))
		}
	}
}

// members lists the endpoints of groups that belong to a pool.
func (p *port) members(which int, groups []*Group, node *Node) []netip.AddrPort {
	if len(groups) == 0 || !p.chosen.uses(which, p.key.Protocol) {
		return nil
	}
	out := make([]netip.AddrPort, 0, len(groups[0].Endpoints))
	for _, g := range groups {
		for i := range g.Endpoints {
			if e := &g.Endpoints[i]; p.chosen.member(which, e, p.key.Protocol, node) {
				out = append(out, e.Address)
			}
		}
	}
	return out
}

func ofFamily(groups []*Group, ipv6 bool) []*Group {
	out := make([]*Group, 0, len(groups))
	for _, g := range groups {
		if g.IPv6 == ipv6 {
			out = append(out, g)
		}
	}
	return out
}

// diffGroups compares two lists by identity. Lists that differ in one place
// cost one pass of pointers.
func diffGroups(old, fresh []*Group) (gone, come []*Group) {
	for len(old) > 0 && len(fresh) > 0 && old[0] == fresh[0] {
		old, fresh = old[1:], fresh[1:]
	}
	for len(old) > 0 && len(fresh) > 0 && old[len(old)-1] == fresh[len(fresh)-1] {
		old, fresh = old[:len(old)-1], fresh[:len(fresh)-1]
	}
	was := make(map[*Group]bool, len(old))
	for _, g := range old {
		was[g] = true
	}
	for _, g := range fresh {
		if !was[g] {
			come = append(come, g)
		}
		delete(was, g)
	}
	for _, g := range old {
		if was[g] {
			gone = append(gone, g)
		}
	}
	return gone, come
}

// build makes the Forwarding of the port as it is now.
func (p *port) build(node *Node, c claims) *Forwarding {
	f := &Forwarding{
		Key: p.key, Affinity: p.service.Affinity,
		Cluster: p.pools[clusterPool].list, Local: p.pools[localPool].list,
		Hairpin: p.pools[hairpinPool].list, Serving: p.pools[servingPool].list,
	}
	external := false
	for _, w := range p.wishes {
		external = external || w.kind != ClusterIP
		if owner := c.owner(w.id); owner != p {
			f.Refused = append(f.Refused, Refused{Kind: w.kind, Address: w.address(), Port: w.id.port, Owner: owner.key})
			continue
		}
		f.Fronts = append(f.Fronts, p.front(w, node))
	}
	if p.census.any() && len(f.Local) == 0 {
		f.NoLocalInternal = p.service.InternalLocal
		f.NoLocalExternal = p.service.ExternalLocal && external
	}
	return f
}

// differs reports whether a Forwarding is not what was handed out. The pools
// are compared by their deltas.
func (p *port) differs(f *Forwarding) bool {
	old := p.forwarding
	if old == nil || old.Affinity != f.Affinity || old.NoLocalInternal != f.NoLocalInternal || old.NoLocalExternal != f.NoLocalExternal {
		return true
	}
	for _, d := range p.deltas {
		if !d.Empty() {
			return true
		}
	}
	return !slices.EqualFunc(old.Fronts, f.Fronts, equalFront) || !slices.Equal(old.Refused, f.Refused)
}

func equalFront(a, b Front) bool {
	return a.Kind == b.Kind && a.Address == b.Address && a.Port == b.Port && slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.Outside == b.Outside && a.Pod == b.Pod && a.Host == b.Host
}
