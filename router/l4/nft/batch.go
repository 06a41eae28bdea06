//go:build linux

package nft

import (
	"github.com/google/nftables"
)

// batch gathers what becomes of elements in one transaction. Removals come
// before additions: a key may go from one owner to another. What elements lead
// to is made before, and what they led to is unmade at the end.
type batch struct {
	before, after []func(*transaction)
	changes       map[*nftables.Set]*changes
	order         []*changes // as sets were first named
}

// changes are what becomes of one set.
type changes struct{ removed, added elements }

func newBatch() *batch { return &batch{changes: map[*nftables.Set]*changes{}} }

func (b *batch) of(s *nftables.Set) *changes {
	c := b.changes[s]
	if c == nil {
		c = &changes{removed: removals(s), added: additions(s)}
		b.changes[s] = c
		b.order = append(b.order, c)
	}
	return c
}

func (b *batch) add(e element)    { b.of(e.set).added.append(e) }
func (b *batch) remove(e element) { b.of(e.set).removed.append(e) }

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
	for _, c := range b.order {
		t.put(c.removed)
	}
	for _, c := range b.order {
		t.put(c.added)
	}
	for _, do := range b.after {
		do(t)
	}
}
