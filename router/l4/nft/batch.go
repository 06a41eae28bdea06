//go:build linux

package nft

import (
	"github.com/google/nftables"
)

// batch gathers what becomes of elements in one transaction. Removals come
// before additions: a key may go from one owner to another. What elements lead
// to is made before, and what they led to is unmade at the end.
type batch struct {
	before, after  []func(*nftables.Conn) error
	removed, added map[*nftables.Set][]nftables.SetElement
	order          []*nftables.Set // in which sets were first named
}

func newBatch() *batch {
	return &batch{removed: map[*nftables.Set][]nftables.SetElement{}, added: map[*nftables.Set][]nftables.SetElement{}}
}

func (b *batch) name(s *nftables.Set) {
	if b.removed[s] == nil && b.added[s] == nil {
		b.order = append(b.order, s)
	}
}

func (b *batch) add(e element) {
	b.name(e.set)
	b.added[e.set] = append(b.added[e.set], e.wire())
}

func (b *batch) remove(e element) {
	b.name(e.set)
	b.removed[e.set] = append(b.removed[e.set], e.wire())
}

// forget drops what was to become of the elements of a set that goes away as a
// whole.
func (b *batch) forget(s *nftables.Set) {
	delete(b.removed, s)
	delete(b.added, s)
}

// replace removes the old elements that are not among the fresh ones, and adds
// those of the fresh ones that are new.
func (b *batch) replace(old, fresh []element) {
	was := make(map[element]bool, len(old))
	for _, e := range old {
		was[e] = true
	}
	for _, e := range fresh {
		if !was[e] {
			b.add(e)
		}
		delete(was, e)
	}
	for _, e := range old {
		if was[e] {
			b.remove(e)
		}
	}
}

// chunk is how many elements a message holds: the list of them must stay
// below 64 kB, and none of ours is larger than 120 bytes.
const chunk = 400

// write hands the batch to a connection.
func (b *batch) write(c *nftables.Conn) error {
	if err := each(b.before, func(do func(*nftables.Conn) error) error { return do(c) }); err != nil {
		return err
	}
	for _, s := range b.order {
		if err := inChunks(b.removed[s], func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) }); err != nil {
			return err
		}
	}
	for _, s := range b.order {
		if err := inChunks(b.added[s], func(e []nftables.SetElement) error { return c.SetAddElements(s, e) }); err != nil {
			return err
		}
	}
	return each(b.after, func(do func(*nftables.Conn) error) error { return do(c) })
}

// each calls do until it fails.
func each[T any](all []T, do func(T) error) error {
	for _, v := range all {
		if err := do(v); err != nil {
			return err
		}
	}
	return nil
}

func inChunks(all []nftables.SetElement, do func([]nftables.SetElement) error) error {
	for len(all) > 0 {
		n := min(chunk, len(all))
		if err := do(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}
