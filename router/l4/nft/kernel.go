//go:build linux

// Package nft programs an l4.Plan into the kernel's nftables, through netlink:
// one table for each address family, of which nothing else is ours, and in
// which a change costs what it changes. README.md shows the layout.
package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

const defaultTable = "portico-node"

// Options say what a Kernel programs.
type Options struct {
	// TableName is the name of the tables; default "portico-node".
	TableName string
	// MasqueradeMark is the bit of packet marks that says that the source is
	// to be replaced; default 0x4000, which kube-proxy has as well.
	MasqueradeMark uint32
	// NoIPv4 and NoIPv6 leave a family out.
	NoIPv4, NoIPv6 bool
}

// Kernel programs the network namespace in which it was opened. It has a
// single owner: apart from Watch, it is not safe for concurrent use.
type Kernel struct {
	families []*family
	conn     *netlink.Conn // for transactions; nil after a failure
	query    *netlink.Conn // for questions; nil with conn
	// whole: the shadow is what the kernel holds.
	whole   bool
	globals l4.Globals // as programmed last
	watcher *watcher
}

// ErrNeedsReplace is returned by Apply if it is not known what the kernel
// holds: call Replace.
var ErrNeedsReplace = errors.New("what the kernel holds is not known, everything must be programmed again")

// Open connects to the kernel. It programs nothing.
func Open(o Options) (*Kernel, error) {
	o.TableName = cmp.Or(o.TableName, defaultTable)
	o.MasqueradeMark = cmp.Or(o.MasqueradeMark, 0x4000)
	watcher, err := newWatcher(o.TableName)
	if err != nil {
		return nil, err
	}
	k := &Kernel{watcher: watcher}
	if !o.NoIPv4 {
		k.families = append(k.families, newFamily(o, false))
	}
	if !o.NoIPv6 {
		k.families = append(k.families, newFamily(o, true))
	}
	if err := k.connect(); err != nil {
		return nil, errors.Join(err, watcher.close())
	}
	return k, nil
}

// Replace programs a whole plan in one transaction. Connections do not notice:
// what stays the same stays. It is for the start, after failures, and from
// time to time. After an error, what was programmed before is still there.
func (k *Kernel) Replace(ctx context.Context, p *l4.Plan) error {
	err := k.replace(ctx, p, false)
	for _, refused := range []error{unix.ENOENT, unix.EEXIST, unix.EBUSY} {
		if errors.Is(err, refused) {
			// Somebody changed what stamps of rules do not show, such as a set.
			return k.replace(ctx, p, true)
		}
	}
	return err
}

// replace is Replace; afresh has it make the tables anew whatever they are.
func (k *Kernel) replace(ctx context.Context, p *l4.Plan, afresh bool) error {
	return k.unheard(true, func() error { return k.fill(ctx, p, afresh) })
}

// unheard runs a large transaction while nobody listens: see pause. What others
// changed meanwhile is told afterwards, if it may have been ours. If the transaction
// wrote everything, what came before it does not matter unless it shows in the rules:
// beside a busy program there would be no end of repairs.
func (k *Kernel) unheard(everything bool, transaction func() error) error {
	if err := errors.Join(k.connect(), k.watcher.pause()); err != nil {
		return err
	}
	before, err := k.generation()
	if err == nil {
		err = transaction()
	}
	var then, now uint32
	if err == nil {
		then, err = k.generation()
	}
	err = errors.Join(err, k.watcher.resume())
	if err == nil {
		now, err = k.generation()
	}
	if err != nil {
		return errors.Join(err, k.disconnect())
	}
	alone := now == then && then == before+1
	if !alone && (now != then || !everything || !k.carriedOut(&k.globals)) {
		k.watcher.disturb()
	}
	return nil
}

// fill programs a whole plan.
func (k *Kernel) fill(ctx context.Context, p *l4.Plan, afresh bool) error {
	round := rand.Uint64()
	err := k.transact(ctx, func(b *batch, t *transaction) error {
		for _, f := range k.families {
			have, err := k.stamps(f)
			if err != nil {
				return err
			}
			intact, err := k.intact(f, have)
			if err != nil {
				return err
			}
			intact = intact && !afresh
			if intact && !f.read {
				if err := k.readNames(f); err != nil {
					return err
				}
			}
			f.round = round
			if err := f.refill(p, intact, b, t); err != nil {
				return err
			}
			if intact {
				f.sweep(have, b)
			}
		}
		return nil
	})
	if errors.Is(err, errAnswerLost) && k.connect() == nil && k.carriedOut(&p.Globals) {
		k.whole, err = true, nil
	}
	if err != nil {
		return err
	}
	for _, f := range k.families {
		f.replaced()
	}
	k.globals = p.Globals
	return nil
}

// Apply programs a change to what was programmed last, in one transaction, at
// the cost of what it changes. After an error the caller must Replace.
func (k *Kernel) Apply(ctx context.Context, c *l4.Change) error {
	if !k.whole {
		return ErrNeedsReplace
	}
	apply := func() error {
		return k.transact(ctx, func(b *batch, t *transaction) error {
			for _, f := range k.families {
				if err := f.change(c, b, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if c.Globals != nil {
		k.globals = *c.Globals
	}
	if endpoints(c) < large {
		return apply()
	}
	return k.unheard(false, apply)
}

// large is how many endpoints make a transaction that nobody should listen to.
const large = 10_000

// endpoints counts what a change does at most.
func endpoints(c *l4.Change) int {
	n := len(c.Delete) // of these it is not known here
	for _, u := range c.Set {
		n += len(u.ClusterDelta.Added) + len(u.ClusterDelta.Removed) + len(u.LocalDelta.Added) + len(u.LocalDelta.Removed)
		if u.Old == nil {
			n += len(u.Cluster) + len(u.Local)
		}
	}
	return n
}

// transact commits what fill makes, or leaves the kernel as it was. What is
// written to the transaction at once comes before the batch.
func (k *Kernel) transact(ctx context.Context, fill func(*batch, *transaction) error) (err error) {
	k.whole = false
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := k.connect(); err != nil {
		return err
	}
	defer func() {
		if err != nil { // answers of the kernel may be left on the connection
			_ = k.disconnect()
		}
	}()
	b, t := newBatch(), &transaction{}
	if err := fill(b, t); err != nil {
		return err
	}
	b.write(t)
	if err := t.send(k.conn); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	k.whole = true
	return nil
}

// refill empties and fills a table, which is made if it is not intact.
func (f *family) refill(p *l4.Plan, intact bool, b *batch, t *transaction) error {
	if intact {
		f.restore(t)
		for _, s := range f.sets.filled() {
			t.flushSet(s)
		}
	} else {
		f.create(t)
	}
	f.writeChains(t, f.round, f.variable(&p.Globals))
	f.reset()
	b.before = append(b.before, func(t *transaction) {
		t.addElements(f.sets.actions, f.verdicts(f.sets.actions))
		t.addElements(f.sets.finals, f.verdicts(f.sets.finals))
		t.addElements(f.sets.stickySizes, f.pickSizes())
	})
	for _, fw := range p.Forwardings {
		if fw.Key.IPv6 == f.ipv6 {
			if err := f.setForwarding(l4.Update{Forwarding: fw}, b); err != nil {
				return fmt.Errorf("%s: %w", fw.Key, err)
			}
		}
	}
	f.sync(l4.Delta[netip.Addr]{Added: p.ClusterIPs}, l4.Delta[l4.Loop]{Added: p.Loops}, b)
	f.answer(p.Globals.NodePorts.Addresses, b)
	f.settle(b)
	return nil
}

// change makes what is different.
func (f *family) change(c *l4.Change, b *batch, t *transaction) error {
	for _, key := range c.Delete {
		if key.IPv6 == f.ipv6 {
			if err := f.deleteForwarding(key, b); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	for _, u := range c.Set {
		if u.Key.IPv6 == f.ipv6 {
			if err := f.setForwarding(u, b); err != nil {
				return fmt.Errorf("%s: %w", u.Key, err)
			}
		}
	}
	f.sync(c.ClusterIPs, c.Loops, b)
	f.settle(b)
	if c.Globals != nil {
		f.writeChains(t, f.round, f.variable(c.Globals))
		f.answer(c.Globals.NodePorts.Addresses, b)
	}
	return nil
}

// Delete removes the tables. Connections that go through them break: the
// kernel forgets the translations of a table with its chains.
func (k *Kernel) Delete(ctx context.Context) error {
	return k.transact(ctx, func(_ *batch, t *transaction) error {
		for _, f := range k.families {
			t.addTable(f.table) // so that none is needed
			t.deleteTable(f.table)
			f.reset()
		}
		return nil
	})
}

// Probe has the kernel examine everything of our layout and keep none of it: a
// table of another name is made and deleted in one transaction.
func Probe(ctx context.Context, o Options) error {
	o.TableName = cmp.Or(o.TableName, defaultTable) + "-probe"
	k, err := Open(o)
	if err != nil {
		return err
	}
	err = k.transact(ctx, func(_ *batch, t *transaction) error {
		for _, f := range k.families {
			f.create(t)
			t.deleteTable(f.table)
		}
		return nil
	})
	return errors.Join(err, k.Close())
}

// Present reports whether our tables are there.
func (k *Kernel) Present() (bool, error) {
	for _, f := range k.families {
		_, err := ask(k.query, question(f.table, unix.NFT_MSG_GETTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, f.table.Name)))
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return err == nil, err
		}
	}
	return false, nil
}
