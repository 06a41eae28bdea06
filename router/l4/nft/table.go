//go:build linux

package nft

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// create makes the table anew, with all that does not depend on the plan. It
// replaces one that is there in the same transaction.
func (k *Kernel) create(f *family) error {
	c := k.conn
	c.AddTable(f.table) // so that there is one to delete
	c.DelTable(f.table)
	c.AddTable(f.table)
	for _, s := range f.sets.all() {
		s.ID = 0
		if err := addSet(c, s); err != nil {
			return err
		}
	}
	fixed := f.fixed()
	for _, ch := range append(fixed, f.variable(&l4.Globals{})...) {
		f.addChain(c, ch)
	}
	f.writeChains(c, fixed)
	return nil
}

// setIDs numbers sets, which must differ within a transaction. The library
// counts without a lock, so two Kernels of one process would race.
var setIDs atomic.Uint32

func addSet(c *nftables.Conn, s *nftables.Set) error {
	if s.ID == 0 {
		s.ID = setIDs.Add(1)
	}
	return c.AddSet(s, nil)
}

func (f *family) addChain(conn *nftables.Conn, ch chain) {
	c := &nftables.Chain{Table: f.table, Name: ch.name}
	if ch.hook != nil {
		accept := nftables.ChainPolicyAccept
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeNAT, ch.hook, &ch.priority, &accept
	}
	conn.AddChain(c)
}

// writeChains gives chains their rules, in place of what they had.
func (f *family) writeChains(conn *nftables.Conn, chains []chain) {
	for _, ch := range chains {
		c := &nftables.Chain{Table: f.table, Name: ch.name}
		conn.FlushChain(c)
		for _, r := range ch.rules {
			conn.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: r})
		}
	}
}

// writeChain does so with one, which is made if it is not there.
func (f *family) writeChain(c *nftables.Conn, ch chain) {
	f.addChain(c, ch)
	f.writeChains(c, []chain{ch})
}

// deleteChains deletes chains that nothing else leads to but one of them.
func (f *family) deleteChains(conn *nftables.Conn, names ...string) {
	for _, n := range names {
		conn.FlushChain(&nftables.Chain{Table: f.table, Name: n})
	}
	for _, n := range names {
		conn.DelChain(&nftables.Chain{Table: f.table, Name: n})
	}
}

// sweep deletes what an earlier process made for pools with affinity that are
// no more.
func (k *Kernel) sweep(f *family, b *batch) error {
	used := map[string]bool{}
	for _, w := range f.forwardings {
		for _, p := range []*pool{w.cluster, w.local} {
			if p != nil && p.sticky != nil {
				for _, n := range p.sticky.names() {
					used[n] = true
				}
			}
		}
	}
	left := func(request uint16, name uint16) ([]string, error) {
		names, err := k.names(f, request, name)
		return slices.DeleteFunc(names, func(n string) bool { return !isSticky(n) || used[n] }), err
	}
	chains, err := left(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_NAME)
	if err != nil {
		return err
	}
	sets, err := left(unix.NFT_MSG_GETSET, unix.NFTA_SET_NAME)
	if err != nil {
		return err
	}
	b.after = append(b.after, func(c *nftables.Conn) error {
		f.deleteChains(c, chains...)
		for _, n := range sets {
			c.DelSet(&nftables.Set{Table: f.table, Name: n})
		}
		return nil
	})
	return nil
}

// version names the layout: it is made of all rules, as they would be without a
// plan. Only for a family whose sets have no numbers yet.
func (f *family) version() uint64 {
	h := fnv.New64a()
	for _, ch := range append(f.fixed(), f.variable(&l4.Globals{})...) {
		fmt.Fprintln(h, ch.name, ch.priority)
		for _, r := range ch.rules {
			for _, e := range r {
				data, _ := expr.Marshal(byte(f.table.Family), e) // an error shows when it is sent
				h.Write(data)
			}
		}
	}
	return h.Sum64()
}

// seal marks a table that was just made with what its rules look like now. One
// without the mark is made anew the next time.
func (k *Kernel) seal(f *family) error {
	name, err := k.sealName(f)
	if err != nil {
		return err
	}
	f.addChain(k.conn, chain{name: name})
	return k.flush()
}

// intact reports whether the table is there, in our layout, and nobody has
// changed a rule that we would not write again.
func (k *Kernel) intact(f *family) (bool, error) {
	name, err := k.sealName(f)
	if err != nil {
		return false, err
	}
	return k.hasChain(f, name)
}

// sealName is the name of an empty chain that says which layout a table has,
// and which rules it had when it was made.
func (k *Kernel) sealName(f *family) (string, error) {
	h := fnv.New64a()
	fmt.Fprintln(h, f.layout)
	written := map[string]bool{}
	for _, ch := range f.variable(&l4.Globals{}) {
		written[ch.name] = true
	}
	err := k.rules(f, func(chain string, data []byte) {
		if !written[chain] && !isSticky(chain) {
			fmt.Fprintln(h, chain)
			h.Write(data)
		}
	})
	return fmt.Sprintf("seal-%016x", h.Sum64()), err
}
