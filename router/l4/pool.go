package l4

import (
	"maps"
	"net/netip"
	"slices"
)

// pool is a sorted set of addresses made from groups that may overlap: an
// endpoint stands in two EndpointSlices while it moves from one to the other.
type pool struct {
	list []netip.AddrPort // sorted; handed out, so replaced and never written
	// extra counts the occurrences beyond the first of addresses in list.
	extra map[netip.AddrPort]int
}

// change takes occurrences out and in. It sorts its arguments. Beside the
// memmove of the list, the cost is that of the arguments.
func (p *pool) change(removed, added []netip.AddrPort) Delta[netip.AddrPort] {
	slices.SortFunc(removed, netip.AddrPort.Compare)
	slices.SortFunc(added, netip.AddrPort.Compare)
	removed, added = cancel(removed, added)
	var d Delta[netip.AddrPort]
	for _, a := range removed {
		if p.extra[a] == 0 {
			d.Removed = append(d.Removed, a)
			continue
		}
		p.more(a, -1)
	}
	for i, a := range added {
		again := i > 0 && added[i-1] == a
		if _, known := slices.BinarySearchFunc(p.list, a, netip.AddrPort.Compare); known || again {
			p.more(a, 1)
			continue
		}
		d.Added = append(d.Added, a)
	}
	if !d.Empty() {
		p.list = merge(p.list, d)
	}
	return d
}

func (p *pool) more(a netip.AddrPort, n int) {
	if p.extra == nil {
		p.extra = map[netip.AddrPort]int{}
	}
	if p.extra[a] += n; p.extra[a] == 0 {
		delete(p.extra, a)
	}
}

// reset replaces all occurrences.
func (p *pool) reset(all []netip.AddrPort) Delta[netip.AddrPort] {
	old := p.list
	*p = pool{}
	fresh := p.change(nil, all).Added
	if slices.Equal(old, fresh) {
		p.list = old
		return Delta[netip.AddrPort]{}
	}
	return difference(old, fresh, netip.AddrPort.Compare)
}

// cancel takes out of two sorted lists what is in both, occurrence by
// occurrence. It writes into its arguments.
func cancel(a, b []netip.AddrPort) ([]netip.AddrPort, []netip.AddrPort) {
	keepA, keepB := a[:0], b[:0]
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c < 0:
			keepA, a = append(keepA, a[0]), a[1:]
		case c > 0:
			keepB, b = append(keepB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return append(keepA, a...), append(keepB, b...)
}

// merge applies a delta to a sorted list, in runs: what lies between two
// changes is copied as a whole.
func merge(list []netip.AddrPort, d Delta[netip.AddrPort]) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(list)+len(d.Added)-len(d.Removed))
	added, removed := d.Added, d.Removed
	for len(added) > 0 || len(removed) > 0 {
		remove := len(added) == 0 || len(removed) > 0 && removed[0].Compare(added[0]) < 0
		next := removed
		if !remove {
			next = added
		}
		i, _ := slices.BinarySearchFunc(list, next[0], netip.AddrPort.Compare)
		out, list = append(out, list[:i]...), list[i:]
		if remove {
			list, removed = list[1:], removed[1:]
		} else {
			out, added = append(out, added[0]), added[1:]
		}
	}
	return append(out, list...)
}

// difference compares two sorted sets.
func difference[T any](old, fresh []T, compare func(a, b T) int) Delta[T] {
	var d Delta[T]
	for len(old) > 0 && len(fresh) > 0 {
		switch c := compare(old[0], fresh[0]); {
		case c < 0:
			d.Removed, old = append(d.Removed, old[0]), old[1:]
		case c > 0:
			d.Added, fresh = append(d.Added, fresh[0]), fresh[1:]
		default:
			old, fresh = old[1:], fresh[1:]
		}
	}
	d.Removed, d.Added = append(d.Removed, old...), append(d.Added, fresh...)
	return d
}

// counted is a set whose members several Forwardings may ask for.
type counted[K comparable] struct {
	counts map[K]int
	before map[K]bool // membership at the last take, of those that were touched
}

func newCounted[K comparable]() *counted[K] {
	return &counted[K]{counts: map[K]int{}, before: map[K]bool{}}
}

// add changes the number of those that ask for a member by n.
func (c *counted[K]) add(k K, n int) {
	if _, touched := c.before[k]; !touched {
		c.before[k] = c.counts[k] > 0
	}
	if c.counts[k] += n; c.counts[k] == 0 {
		delete(c.counts, k)
	}
}

// take returns what is different since the last take.
func (c *counted[K]) take(compare func(a, b K) int) Delta[K] {
	var d Delta[K]
	for k, was := range c.before {
		switch is := c.counts[k] > 0; {
		case is && !was:
			d.Added = append(d.Added, k)
		case was && !is:
			d.Removed = append(d.Removed, k)
		}
	}
	c.before = map[K]bool{} // to clear one that was large costs what it was
	slices.SortFunc(d.Added, compare)
	slices.SortFunc(d.Removed, compare)
	return d
}

// members are in no order.
func (c *counted[K]) members() []K {
	return slices.AppendSeq(make([]K, 0, len(c.counts)), maps.Keys(c.counts))
}
