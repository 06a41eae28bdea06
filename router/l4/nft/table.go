//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/google/nftables/userdata"
	"github.com/portico-ingress/portico/router/l4"
)

// create makes the table anew, with all that does not depend on the plan. It
// replaces one that is there in the same transaction.
func (f *family) create(t *transaction) {
	t.addTable(f.table) // so that there is one to delete
	t.deleteTable(f.table)
	t.addTable(f.table)
	for _, s := range f.sets.all() {
		t.addSet(s)
	}
	fixed := f.fixed()
	for _, ch := range append(fixed, f.variable(&l4.Globals{})...) {
		t.addChain(f.table, ch)
	}
	f.writeChains(t, f.layout, fixed)
}

// restore gives the table and its base chains the properties that somebody may
// have changed without a trace in the rules: a table that was made dormant, a
// policy.
func (f *family) restore(t *transaction) {
	t.addTable(f.table)
	for _, ch := range f.fixed() {
		if ch.hook != nil {
			t.addChain(f.table, ch)
		}
	}
}

// writeChains gives chains their rules, in place of what they had.
func (f *family) writeChains(t *transaction, seed uint64, chains []chain) {
	for _, ch := range chains {
		t.flushChain(f.table, ch.name)
		for i, r := range ch.rules {
			t.addRule(f.table, ch.name, r, stamp(seed, ch.name, i))
		}
	}
}

// stamp is what a rule carries to say what it is, and that nobody else wrote it:
// by it, a table tells of itself whether it is as we made it. nft(8) does not
// print it.
func stamp(seed uint64, chain string, rule int) string {
	const kind = 0x50 // not one of those that nft(8) knows
	h := fnv.New64a()
	fmt.Fprintln(h, seed, chain, rule)
	return string(userdata.Append(nil, kind, h.Sum(nil)))
}

// intact reports whether a table has our chains and sets and no others, and the
// chains that do not depend on the plan have their rules. What else others may have
// changed, a refill writes anew.
func (k *Kernel) intact(f *family, have map[string][]string) (bool, error) {
	if !stamped(have, f.layout, f.fixed()) {
		return false, nil
	}
	want := len(f.fixed()) + len(f.variable(&l4.Globals{})) + len(f.sets.all())
	for name := range have {
		if strings.HasPrefix(name, stickyPrefix) {
			want++
		}
	}
	parts, err := k.parts(f)
	return parts == want, err
}

// stamped reports whether chains have the rules that writeChains gives them.
func stamped(have map[string][]string, seed uint64, chains []chain) bool {
	for _, ch := range chains {
		var want []string
		for i := range ch.rules {
			want = append(want, stamp(seed, ch.name, i))
		}
		if !slices.Equal(have[ch.name], want) {
			return false
		}
	}
	return true
}

// writeChain writes one, which is made if it is not there.
func (f *family) writeChain(t *transaction, ch chain) {
	t.addChain(f.table, ch)
	f.writeChains(t, f.layout, []chain{ch})
}

// deleteChains deletes chains that nothing else leads to but one of them.
func (f *family) deleteChains(t *transaction, names ...string) {
	for _, n := range names {
		t.flushChain(f.table, n)
	}
	for _, n := range names {
		t.deleteChain(f.table, n)
	}
}

// readNames reads what an earlier process wrote down.
func (k *Kernel) readNames(f *family) error {
	elements, err := list(k.query, elementsOf(f.sets.stickyNames))
	if err != nil {
		return err
	}
	f.read = true
	for _, e := range elements {
		if v := valueOf(e.data); len(e.key) == 8 && v>>seatBits > 0 {
			f.names[binary.BigEndian.Uint64([]byte(e.key))] = v
		}
	}
	return nil
}

// version names the layout: it is made of all sets and rules, as they would be
// without a plan.
func (f *family) version() uint64 {
	h := fnv.New64a()
	for _, s := range f.sets.all() {
		h.Write(setAttrs(s))
	}
	var t transaction
	chains := append(f.fixed(), f.variable(&l4.Globals{})...)
	for _, ch := range append(chains, chain{name: stickyPrefix, rules: f.remember(&memory{})}) {
		t.addChain(f.table, ch)
		f.writeChains(&t, 0, []chain{ch})
	}
	for _, m := range t.messages {
		h.Write(m.Data)
	}
	return h.Sum64()
}

// carriedOut reports whether the tables are as the last Replace wanted them.
func (k *Kernel) carriedOut(g *l4.Globals) bool {
	for _, f := range k.families {
		have, err := k.stamps(f)
		if err != nil || !stamped(have, f.round, f.variable(g)) {
			return false
		}
		if ours, err := k.intact(f, have); err != nil || !ours {
			return false
		}
	}
	return true
}
