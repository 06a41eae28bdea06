package l4

import (
	"net/netip"
	"slices"
)

// Planner makes Forwardings of Services. It has a single owner: it is not safe
// for concurrent use.
type Planner struct {
	node     Node
	services map[Name]*service // as of the last Take
	pending  map[Name]*Service // set since then; nil: deleted
	afresh   bool              // the node changed: everything is decided again
	globals  *Globals          // as handed out; nil: not yet
	claims   claims
	ips      *counted[netip.Addr]
	loops    *counted[Loop]
	rounds   uint64 // that there were
}

// service is a Service with the ports that were made of it.
type service struct {
	*Service
	ports []*port
}

// NewPlanner returns a planner without Services.
func NewPlanner(n Node) *Planner {
	return &Planner{
		node: n, services: map[Name]*service{}, pending: map[Name]*Service{},
		claims: claims{}, ips: newCounted[netip.Addr](), loops: newCounted[Loop](),
	}
}

// Set adds or replaces a Service. The planner keeps s, which is never written
// again.
func (p *Planner) Set(s *Service) { p.pending[s.Name] = s }

// Delete removes a Service; one that is not known is ignored.
func (p *Planner) Delete(n Name) {
	delete(p.pending, n)
	if p.services[n] != nil {
		p.pending[n] = nil
	}
}

// SetNode replaces what is known of the node. All Services are decided again.
func (p *Planner) SetNode(n Node) { p.node, p.afresh = n, true }

// Service returns a Service as it was set last; nil if there is none. It is
// not to be written to.
func (p *Planner) Service(n Name) *Service {
	if s, pending := p.pending[n]; pending {
		return s
	}
	if s := p.services[n]; s != nil {
		return s.Service
	}
	return nil
}

// Take returns what changed since the last Take or Plan. Its cost depends on
// what changed, not on how many Services there are, nor, beyond a copy of the
// pool, on how many endpoints theirs have.
//
// A front may go from one Forwarding to another within a Change: removals come
// before additions.
func (p *Planner) Take() *Change {
	c := p.take()
	slices.SortFunc(c.Set, func(a, b Update) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(c.Delete, PortKey.Compare)
	slices.SortStableFunc(c.Stale, func(a, b Stale) int { return a.Key.Compare(b.Key) })
	return c
}

// take is Take, and leaves the order to who needs it.
func (p *Planner) take() *Change {
	p.rounds++
	r := &round{Planner: p, number: p.rounds, change: &Change{}}
	for _, n := range p.pendingNames() {
		r.service(n, p.pending[n])
	}
	p.pending = map[Name]*Service{} // to clear one that was large costs what it was
	r.claimAll()
	r.change.Set = make([]Update, 0, len(r.dirty))
	for _, q := range r.dirty {
		if !q.removed {
			r.update(q)
		}
	}
	c := r.change
	c.ClusterIPs = p.ips.take(netip.Addr.Compare)
	c.Loops = p.loops.take(Loop.compare)
	c.Globals = p.takeGlobals()
	p.afresh = false
	return c
}

// Plan returns everything. It counts as a Take: the next Change is relative
// to it.
func (p *Planner) Plan() *Plan {
	p.take()
	return p.Snapshot()()
}

// Snapshot returns a function that makes the Plan of the last Take or Plan. Only
// what cannot wait is done at once: the function may be called anywhere, later and
// beside everything else. There must have been a Take.
func (p *Planner) Snapshot() func() *Plan {
	plan := &Plan{Globals: *p.globals, ClusterIPs: p.ips.members(), Loops: p.loops.members()}
	plan.Forwardings = make([]*Forwarding, 0, len(p.services))
	for _, s := range p.services {
		for _, q := range s.ports {
			plan.Forwardings = append(plan.Forwardings, q.forwarding)
		}
	}
	return func() *Plan {
		slices.SortFunc(plan.Forwardings, func(a, b *Forwarding) int { return a.Key.Compare(b.Key) })
		slices.SortFunc(plan.ClusterIPs, netip.Addr.Compare)
		slices.SortFunc(plan.Loops, Loop.compare)
		return plan
	}
}

func (p *Planner) pendingNames() []Name {
	names := make([]Name, 0, len(p.pending))
	for n := range p.pending {
		names = append(names, n)
	}
	if p.afresh {
		for n, s := range p.services {
			if _, pending := p.pending[n]; !pending {
				p.pending[n] = s.Service
				names = append(names, n)
			}
		}
	}
	slices.SortFunc(names, Name.compare)
	return names
}

// takeGlobals returns the globals if they changed.
func (p *Planner) takeGlobals() *Globals {
	g := &Globals{ServiceCIDRs: slices.Clone(p.node.ServiceCIDRs), NodePorts: p.node.NodePorts, Pods: p.node.Pods}
	slices.SortFunc(g.ServiceCIDRs, comparePrefix)
	if p.globals != nil && p.globals.equal(g) {
		return nil
	}
	p.globals = g
	return g
}

// round is one Take.
type round struct {
	*Planner
	number uint64
	change *Change
	dirty  []*port // that may have changed, each once
	claim  []*port // whose fronts are to be claimed
}

// service takes over one Service, nil if it is gone. Fronts are given up at
// once and claimed at the end, so that they can move between Services without
// a loser in between.
func (r *round) service(n Name, s *Service) {
	old := r.services[n]
	var before []*port
	if old != nil {
		before = old.ports
		r.countIPs(old.Service, -1)
	}
	fresh := &service{Service: s}
	if s != nil {
		r.services[n] = fresh
		r.countIPs(s, 1)
		for i := range s.Ports {
			for _, ipv6 := range []bool{false, true} {
				if _, ok := s.clusterIP(ipv6); ok {
					fresh.ports = append(fresh.ports, r.port(before, s, &s.Ports[i], ipv6))
				}
			}
		}
	} else {
		delete(r.services, n)
	}
	for _, q := range before {
		if !slices.Contains(fresh.ports, q) {
			r.remove(q)
		}
	}
}

func (r *round) countIPs(s *Service, n int) {
	for _, a := range s.ClusterIPs {
		r.ips.add(a, n)
	}
}

// port takes over one port, which is one of before or new.
func (r *round) port(before []*port, s *Service, def *Port, ipv6 bool) *port {
	key := PortKey{Service: s.Name, Port: def.Name, Protocol: def.Protocol, IPv6: ipv6}
	i := slices.IndexFunc(before, func(q *port) bool { return q.key == key })
	q := &port{key: key, service: s}
	if i >= 0 {
		q = before[i]
	}
	if wishes := wishes(s, def, ipv6); !slices.Equal(wishes, q.wishes) || !s.Created.Equal(q.service.Created) {
		r.release(q)
		q.wishes = wishes
		r.claim = append(r.claim, q)
	}
	q.settle(s, def, &r.node, r.afresh)
	r.mark(q)
	return q
}

func (r *round) mark(q *port) {
	if q.marked != r.number {
		q.marked = r.number
		r.dirty = append(r.dirty, q)
	}
}

func (r *round) markAll(all []claimant) {
	for _, c := range all {
		r.mark(c.port)
	}
}

// release gives up all fronts of a port.
func (r *round) release(q *port) {
	for _, w := range q.wishes {
		r.markAll(r.claims.release(w, q))
	}
	q.wishes = nil
}

func (r *round) claimAll() {
	for _, q := range r.claim {
		for _, w := range q.wishes {
			r.markAll(r.claims.claim(w, q))
		}
	}
}

// remove takes a port out of everything.
func (r *round) remove(q *port) {
	r.release(q)
	q.removed = true // it may have been an heir in this round
	f := q.forwarding
	if f == nil {
		return
	}
	for _, e := range f.Hairpin {
		r.loops.add(Loop{e, q.key.Protocol}, -1)
	}
	r.change.Delete = append(r.change.Delete, q.key)
	r.change.stale(f, &Forwarding{Key: q.key})
}

// update hands out what became of a port.
func (r *round) update(q *port) {
	f := q.build(&r.node, r.claims)
	if !q.differs(f) {
		return
	}
	for _, e := range q.deltas[hairpinPool].Removed {
		r.loops.add(Loop{e, q.key.Protocol}, -1)
	}
	for _, e := range q.deltas[hairpinPool].Added {
		r.loops.add(Loop{e, q.key.Protocol}, 1)
	}
	r.change.Set = append(r.change.Set, Update{
		Forwarding: f, Old: q.forwarding, ClusterDelta: q.deltas[clusterPool], LocalDelta: q.deltas[localPool],
	})
	old := q.forwarding
	if old == nil {
		old = &Forwarding{Key: q.key}
	}
	r.change.stale(old, f)
	q.forwarding, q.deltas = f, [pools]Delta[netip.AddrPort]{}
}
