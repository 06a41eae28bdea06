//go:build linux

package nft

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"

	"github.com/portico-ingress/portico/router/l4"
)

// shadow is what the kernel holds in one table, as we programmed it. It has
// the owner of the Kernel.
type shadow struct {
	forwardings map[l4.PortKey]*forwarding
	addresses   []netip.Addr // that answer NodePorts
	memories    map[time.Duration]*memory
	names       map[uint64]value // in sets.stickyNames
}

// numbering is what stays when the shadow is made anew: a Service must not get
// a number that another had a moment ago, and packets on their way look up.
type numbering struct {
	pools, specials ids
	numbers         ids // of pools whose clients keep their endpoint, less 1
	// previous is what was written down before a Replace that was not carried
	// out yet.
	previous map[uint64]value
	read     bool // whether previous was read from the kernel
}

// forwarding is what was programmed for an l4.Forwarding.
type forwarding struct {
	cluster, local *pool // nil: empty
	// specials are the numbers of its special fronts, in their order.
	specials []uint32
	fronts   []element
}

func (f *family) reset() {
	f.pools.reset()
	f.specials.reset()
	if f.previous == nil {
		f.previous = map[uint64]value{}
	}
	maps.Copy(f.previous, f.names)
	f.numbers.reset()
	for _, v := range f.previous {
		f.numbers.taken[uint32(v>>seatBits)-1] = true
	}
	f.shadow = shadow{forwardings: map[l4.PortKey]*forwarding{}, memories: map[time.Duration]*memory{}, names: map[uint64]value{}}
}

// replaced ends a Replace that was carried out: names that it did not use are
// forgotten.
func (f *family) replaced() {
	f.previous, f.read = nil, true
	f.numbers.reset()
	for _, v := range f.names {
		f.numbers.taken[uint32(v>>seatBits)-1] = true
	}
}

// setForwarding programs a Forwarding of this family. It is either new or u.Old
// is what was programmed.
func (f *family) setForwarding(u l4.Update, b *batch) error {
	w := f.forwardings[u.Key]
	if (w == nil) != (u.Old == nil) {
		return errDelta
	}
	if w != nil && remembers(u.Old) != remembers(u.Forwarding) {
		if err := f.deleteForwarding(u.Key, b); err != nil {
			return err
		}
		w = nil
	}
	if w == nil {
		w = &forwarding{}
		f.forwardings[u.Key] = w
		u.ClusterDelta, u.LocalDelta = l4.Delta[netip.AddrPort]{Added: u.Cluster}, l4.Delta[netip.AddrPort]{Added: u.Local}
	}
	var err error
	if w.cluster, err = f.updatePool(w.cluster, u.Forwarding, false, u.ClusterDelta, b); err != nil {
		return err
	}
	if w.local, err = f.updatePool(w.local, u.Forwarding, true, u.LocalDelta, b); err != nil {
		return err
	}
	fronts, err := f.renderFronts(w, u.Key, u.Fronts)
	if err != nil {
		return err
	}
	b.replace(w.fronts, fronts)
	w.fronts = fronts
	return nil
}

func (f *family) deleteForwarding(k l4.PortKey, b *batch) error {
	w := f.forwardings[k]
	if w == nil {
		return errDelta
	}
	delete(f.forwardings, k)
	for _, p := range []*pool{w.cluster, w.local} {
		if p == nil {
			continue
		}
		if err := f.changeSlots(p, l4.Delta[netip.AddrPort]{Removed: slices.Clone(p.slots)}, b); err != nil {
			return err
		}
		f.dropPool(p, b)
	}
	for _, id := range w.specials {
		f.specials.give(id)
	}
	b.replace(w.fronts, nil)
	return nil
}

// updatePool returns a pool of a Forwarding as it is after a delta, nil if it
// is empty.
func (f *family) updatePool(p *pool, fw *l4.Forwarding, local bool, d l4.Delta[netip.AddrPort], b *batch) (*pool, error) {
	if p != nil && p.sticky != nil && p.sticky.memory.timeout != fw.Affinity {
		p.sticky.memory.pools--
		p.sticky.memory = f.memory(fw.Affinity)
		p.sticky.memory.pools++
	}
	if p == nil && !d.Empty() {
		var err error
		if p, err = f.newPool(fw, local, b); err != nil {
			return nil, err
		}
	}
	if p == nil {
		return nil, nil
	}
	if err := f.changeSlots(p, d, b); err != nil {
		return nil, err
	}
	if len(p.slots) == 0 {
		f.dropPool(p, b)
		return nil, nil
	}
	if p.sticky != nil {
		f.resize(p.sticky, len(p.slots), b)
	}
	return p, nil
}

func (f *family) newPool(fw *l4.Forwarding, local bool, b *batch) (*pool, error) {
	if remembers(fw) {
		if s := f.newSticky(fw, local, b); s != nil {
			return &pool{sticky: s}, nil
		}
	}
	id, err := f.pools.take(portName(fw.Key, poolKind(local)))
	return &pool{id: id}, err
}

func poolKind(local bool) string { return map[bool]string{true: "local", false: "cluster"}[local] }

// dropPool forgets a pool, whose elements were removed.
func (f *family) dropPool(p *pool, b *batch) {
	if p.sticky != nil {
		f.dropSticky(p.sticky, b)
	} else {
		f.pools.give(p.id)
	}
}

// changeSlots carries out a delta and programs the numbers that changed.
func (f *family) changeSlots(p *pool, d l4.Delta[netip.AddrPort], b *batch) error {
	before, err := p.update(d)
	if err != nil {
		return err
	}
	render := func(i int, a netip.AddrPort) element { return f.endpoint(p.id, i, a) }
	if s := p.sticky; s != nil {
		old := f.reseat(s, d, b)
		render = func(i int, a netip.AddrPort) element {
			if seat, gone := old[a]; gone {
				return f.index(s, i, seat)
			}
			return f.index(s, i, s.seats[a])
		}
	}
	if before == nil {
		for i, a := range p.slots {
			b.add(render(i, a))
		}
	}
	for i, old := range before {
		var now netip.AddrPort
		if i < len(p.slots) {
			now = p.slots[i]
		}
		if old == now {
			continue
		}
		if old.IsValid() {
			b.remove(render(i, old))
		}
		if now.IsValid() {
			b.add(render(i, now))
		}
	}
	return nil
}

// renderFronts returns the elements of the fronts of a Forwarding.
func (f *family) renderFronts(w *forwarding, k l4.PortKey, fronts []l4.Front) ([]element, error) {
	var out []element
	used := 0
	for _, fr := range fronts {
		v, direct := directValue(fr, w)
		if !direct {
			if used == len(w.specials) {
				id, err := f.specials.take(portName(k, strconv.Itoa(used)))
				if err != nil {
					return nil, err
				}
				w.specials = append(w.specials, id)
			}
			id := w.specials[used]
			used++
			var elements []element
			if v, elements = f.specialFront(id, fr, w); len(elements) > 0 {
				out = append(out, elements...)
			}
		}
		out = append(out, f.front(k.Protocol, fr, v))
	}
	for _, id := range w.specials[used:] {
		f.specials.give(id)
	}
	w.specials = w.specials[:used]
	return out, nil
}

// directValue returns the value of a front whose rules differ in nothing but
// that pods are not masqueraded.
func directValue(fr l4.Front, w *forwarding) (value, bool) {
	outside, pod := ruleValue(fr.Outside, w.cluster, w.local), ruleValue(fr.Pod, w.cluster, w.local)
	switch {
	case len(fr.SourceRanges) > 0 || fr.Host != fr.Outside:
		return 0, false
	case outside == pod:
		return outside, true
	case outside == pod|masqueradeAll:
		return pod | masqueradeOthers, true
	}
	return 0, false
}

// specialFront returns the value of a front that is decided by origin, and
// what its number leads to.
func (f *family) specialFront(id uint32, fr l4.Front, w *forwarding) (value, []element) {
	number := value(id)
	var out []element
	if len(fr.SourceRanges) > 0 {
		number |= rangedBit
		for _, r := range fr.SourceRanges {
			out = append(out, f.sourceRange(uint32(number), r))
		}
	}
	key := string(word(operand(uint32(number))))
	for set, r := range map[*nftables.Set]l4.Rule{f.sets.outside: fr.Outside, f.sets.pod: fr.Pod, f.sets.host: fr.Host} {
		out = append(out, element{set: set, key: key, data: string(word(ruleValue(r, w.cluster, w.local)))})
	}
	return number.with(actSpecial), out
}

// sync programs the sets that are not of a Forwarding.
func (f *family) sync(ips l4.Delta[netip.Addr], loops l4.Delta[l4.Loop], b *batch) {
	ofFamily(f, ips.Removed, netip.Addr.Is6, f.clusterIP, b.remove)
	ofFamily(f, ips.Added, netip.Addr.Is6, f.clusterIP, b.add)
	ofFamily(f, loops.Removed, loopIs6, f.loop, b.remove)
	ofFamily(f, loops.Added, loopIs6, f.loop, b.add)
}

func loopIs6(l l4.Loop) bool { return l.Endpoint.Addr().Is6() }

// ofFamily calls do for what is of the family.
func ofFamily[T any](f *family, all []T, is6 func(T) bool, render func(T) element, do func(element)) {
	for _, v := range all {
		if is6(v) == f.ipv6 {
			do(render(v))
		}
	}
}

// answer programs the addresses that answer NodePorts.
func (f *family) answer(addresses []netip.Addr, b *batch) {
	var old, fresh []element
	ofFamily(f, f.addresses, netip.Addr.Is6, f.nodeAddress, func(e element) { old = append(old, e) })
	ofFamily(f, addresses, netip.Addr.Is6, f.nodeAddress, func(e element) { fresh = append(fresh, e) })
	b.replace(old, fresh)
	f.addresses = addresses
}
