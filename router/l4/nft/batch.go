//go:build linux

package nft

import (
	"github.com/google/nftables"
)

// batch gathers what becomes of elements in one transaction. Removals come
// before additions: a key may go from one owner to another. What elements lead
// to is made before, and what they led to is unmade at the end.
type batch struct {
	before, after  []func(*transaction)
	removed, added map[*nftables.Set][]element
	order          []*nftables.Set // in which sets were first named
}

func newBatch() *batch {
	return &batch{removed: map[*nftables.Set][]element{}, added: map[*nftables.Set][]element{}}
}

func (b *batch) name(s *nftables.Set) {
	if b.removed[s] == nil && b.added[s] == nil {
		b.order = append(b.order, s)
	}
}

func (b *batch) add(e element) {
	b.name(e.set)
	b.added[e.set] = append(b.added[e.set], e)
}

func (b *batch) remove(e element) {
	b.name(e.set)
	b.removed[e.set] = append(b.removed[e.set], e)
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

// write hands the batch to a transaction.
func (b *batch) write(t *transaction) {
	for _, do := range b.before {
		do(t)
	}
	for _, s := range b.order {
		t.deleteElements(s, b.removed[s])
	}
	for _, s := range b.order {
		t.addElements(s, b.added[s])
	}
	for _, do := range b.after {
		do(t)
	}
}
