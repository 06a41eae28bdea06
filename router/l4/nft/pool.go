//go:build linux

package nft

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/portico-ingress/portico/router/l4"
)

// pool is the endpoints of a Forwarding among which a rule chooses, as they
// are numbered in the kernel: 0 to len(slots)-1, without gaps.
type pool struct {
	id    uint32
	slots []netip.AddrPort
	index map[netip.AddrPort]int // of slots; nil while there are few
	// sticky is nil unless clients keep their endpoint.
	sticky *sticky
}

// indexed is from how many endpoints on a pool keeps an index.
const indexed = 32

func (p *pool) value() value {
	if p.sticky != nil {
		return value(p.sticky.number).with(p.sticky.memory.action)
	}
	return value(p.id).with(actPlain + value(class(len(p.slots))))
}

func (p *pool) find(a netip.AddrPort) int {
	if p.index == nil {
		return slices.Index(p.slots, a)
	}
	if i, ok := p.index[a]; ok {
		return i
	}
	return -1
}

func (p *pool) put(i int, a netip.AddrPort) {
	if i == len(p.slots) {
		p.slots = append(p.slots, a)
	} else {
		p.slots[i] = a
	}
	if p.index != nil {
		p.index[a] = i
	} else {
		p.number()
	}
}

// number makes the index if there are enough to be worth it.
func (p *pool) number() {
	if len(p.slots) <= indexed {
		return
	}
	p.index = make(map[netip.AddrPort]int, len(p.slots))
	for i, a := range p.slots {
		p.index[a] = i
	}
}

// errDelta means that a Change is not relative to what was programmed.
var errDelta = errors.New("the change does not fit what is programmed")

// update carries out a delta so that as few numbers as possible change, and
// returns those that did with what they were; nil if all are new.
func (p *pool) update(d l4.Delta[netip.AddrPort]) (before map[int]netip.AddrPort, err error) {
	if len(p.slots)+len(d.Added)-len(d.Removed) > maxPool {
		return nil, fmt.Errorf("a pool of %d endpoints: at most %d are supported", len(p.slots)+len(d.Added)-len(d.Removed), maxPool)
	}
	if len(p.slots) == 0 && len(d.Removed) == 0 {
		p.slots = slices.Clone(d.Added)
		p.number()
		return nil, nil
	}
	before = make(map[int]netip.AddrPort, len(d.Added)+2*len(d.Removed))
	set := func(i int, a netip.AddrPort) {
		if _, seen := before[i]; !seen {
			before[i] = netip.AddrPort{}
			if i < len(p.slots) {
				before[i] = p.slots[i]
			}
		}
		p.put(i, a)
	}
	added := d.Added
	for _, r := range d.Removed {
		i := p.find(r)
		if i < 0 {
			return nil, fmt.Errorf("%w: endpoint %s", errDelta, r)
		}
		if p.index != nil {
			delete(p.index, r)
		}
		if len(added) > 0 {
			set(i, added[0])
			added = added[1:]
			continue
		}
		last := len(p.slots) - 1
		moved := p.slots[last]
		set(last, moved)
		if i != last {
			set(i, moved)
		} else if p.index != nil {
			delete(p.index, r)
		}
		p.slots = p.slots[:last]
	}
	for _, a := range added {
		set(len(p.slots), a)
	}
	return before, nil
}

// ids hands out numbers below a limit. Who asks by the same name gets the same
// number, if that is free, also after a Replace and in another process: a packet
// that looked up a number before a transaction looks for what it leads to after
// it, and would be refused if all numbers were others. For the same reason a
// number does not go to another owner soon: names are spread over all of them.
type ids struct {
	limit uint32
	taken map[uint32]bool
}

func (i *ids) take(name uint64) (uint32, error) {
	if len(i.taken) >= int(i.limit) {
		return 0, fmt.Errorf("more than %d pools or special fronts in a table", i.limit)
	}
	id := uint32(name % uint64(i.limit))
	for i.taken[id] {
		id = (id + 1) % i.limit
	}
	i.taken[id] = true
	return id, nil
}

func (i *ids) give(id uint32) { delete(i.taken, id) }

// reset takes all numbers back.
func (i *ids) reset() { i.taken = map[uint32]bool{} }

// portName is a name for the use of a port as what.
func portName(k l4.PortKey, what string) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, k, what)
	return h.Sum64()
}
