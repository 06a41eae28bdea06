//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// sticky is what is particular of a pool whose clients keep their endpoint. It
// has nothing of its own in the kernel but elements of shared maps, in which
// pool and endpoint are one value of 32 bits: the pool's number and that of a
// seat, which has the endpoint. A client is remembered by its address and the
// pool, with that value, so that whatever is remembered leads to an endpoint of
// that pool or nowhere.
type sticky struct {
	name   uint64 // of the Forwarding's key, the same in every process
	number uint32
	memory *memory
	seats  map[netip.AddrPort]uint32
	taken  map[uint32]bool // seats
	size   int             // as programmed: an index of sizes; -1 before
}

const (
	seatBits = 16
	seatMask = value(1<<seatBits - 1)
	poolMask = ^seatMask
	// maxSeats is how many endpoints a pool may have in which clients keep
	// theirs. In a larger one they do not.
	maxSeats = 1 << seatBits
	// maxSticky is how many pools there may be in which clients keep their
	// endpoint; their numbers begin with 1. In others they do not.
	maxSticky = 1<<16 - 1
	// maxClients is how many clients all of these pools together remember.
	// Others are served without being remembered. The kernel has 16 bytes for
	// each from the beginning.
	maxClients = 1 << 18
	// forgetEvery is how often the kernel goes through all clients to free those
	// whose time is over, which it heeds no longer: each second by default.
	forgetEvery = 30 * time.Second
	// stickyPrefix begins the names of the chains of memories, and no others.
	stickyPrefix = "affinity-"
	// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys does not have.
	dynsetDelete = 2
)

// memory is how long clients are remembered: a chain that the pools share in
// which it is as long.
type memory struct {
	timeout time.Duration
	action  value
	pools   int  // that use it
	made    bool // whether the chain is there
}

func (m *memory) chain() string { return stickyPrefix + m.timeout.String() }

// remembers reports whether the clients of a Forwarding keep their endpoint.
func remembers(fw *l4.Forwarding) bool {
	return fw.Affinity > 0 && len(fw.Cluster) <= maxSeats && len(fw.Local) <= maxSeats
}

// memory returns that of a timeout. If there are too many, clients are
// remembered for another time.
func (f *family) memory(timeout time.Duration) *memory {
	if m := f.memories[timeout]; m != nil {
		return m
	}
	used := map[value]bool{}
	var near *memory
	for _, m := range f.memories {
		used[m.action] = true
		if near == nil || (m.timeout-timeout).Abs() < (near.timeout-timeout).Abs() {
			near = m
		}
	}
	for a := actSticky; a <= actionMask>>operandBits; a++ {
		if !used[a] {
			m := &memory{timeout: timeout, action: a}
			f.memories[timeout] = m
			return m
		}
	}
	return near
}

// settle makes the chains of memories that came into use, and takes away those
// that are no longer. It comes after all changes of pools.
func (f *family) settle(b *batch) {
	for timeout, m := range f.memories {
		lead := []element{m.leads(f.sets.actions), m.leads(f.sets.finals)}
		switch {
		case m.pools > 0 && !m.made:
			m.made = true
			b.before = append(b.before, func(t *transaction) { f.writeChain(t, chain{name: m.chain(), rules: f.remember(m)}) })
			b.replace(nil, lead)
		case m.pools == 0:
			delete(f.memories, timeout)
			if m.made {
				b.replace(lead, nil)
				b.after = append(b.after, func(t *transaction) { f.deleteChains(t, m.chain()) })
			}
		}
	}
}

// sweep deletes what an earlier process made for memories that are no more, by
// the chains that it left.
func (f *family) sweep(chains map[string][]string, b *batch) {
	used := map[string]bool{}
	for _, m := range f.memories {
		used[m.chain()] = true
	}
	for name := range chains {
		if strings.HasPrefix(name, stickyPrefix) && !used[name] {
			b.after = append(b.after, func(t *transaction) { f.deleteChains(t, name) })
		}
	}
}

// newSticky returns what a pool needs so that its clients keep their endpoint,
// nil if there are too many of these pools.
func (f *family) newSticky(fw *l4.Forwarding, local bool, b *batch) *sticky {
	s := &sticky{name: portName(fw.Key, poolKind(local)), seats: map[netip.AddrPort]uint32{}, taken: map[uint32]bool{}, size: -1}
	if _, alive := f.names[s.name]; alive {
		return nil // two ports by one name: somebody looked for such a pair
	}
	v, known := f.recall(s.name)
	if s.number = uint32(v >> seatBits); !known {
		n, err := f.numbers.take(s.name)
		if err != nil {
			return nil
		}
		s.number = n + 1
	}
	f.name(s.name, s.value(0), b)
	s.memory = f.memory(fw.Affinity)
	s.memory.pools++
	return s
}

func (s *sticky) value(low uint32) value { return value(s.number)<<seatBits | value(low) }

// dropSticky forgets what newSticky made. The seats are empty.
func (f *family) dropSticky(s *sticky, b *batch) {
	f.resize(s, 0, b)
	f.unname(s.name, b)
	f.numbers.give(s.number - 1)
	s.memory.pools--
}

// resize has the pool pick among n endpoints.
func (f *family) resize(s *sticky, n int, b *batch) {
	size := -1
	if n > 0 {
		size = class(n)
	}
	if size == s.size {
		return
	}
	elements := func(size int) []element {
		if size < 0 {
			return nil
		}
		data := string(word(s.value(uint32(size))))
		return []element{ // by the operand of a value, and by the pool of one with a seat
			{set: f.sets.stickyPools, key: string(word(value(s.number))), data: data},
			{set: f.sets.stickyPools, key: string(word(s.value(0))), data: data},
		}
	}
	b.replace(elements(s.size), elements(size))
	s.size = size
}

// Seats are numbered by the addresses of their endpoints, so that the next
// process gives them the same. Where two endpoints of a pool would have the
// same seat, one moves on, and that is written into the kernel beside the pools'
// numbers.

func (s *sticky) home(a netip.AddrPort) (name uint64, seat uint32) {
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(nil, s.name))
	h.Write(a.Addr().AsSlice())
	h.Write(binary.BigEndian.AppendUint16(nil, a.Port()))
	sum := h.Sum64()
	return sum, uint32(sum^sum>>16^sum>>32) & uint32(seatMask)
}

// sit has an endpoint take a seat.
func (f *family) sit(s *sticky, a netip.AddrPort, b *batch) {
	name, home := s.home(a)
	seat := home
	if v, known := f.recall(name); known && !s.taken[uint32(v&seatMask)] {
		seat = uint32(v & seatMask)
	}
	for s.taken[seat] {
		seat = (seat + 1) & uint32(seatMask)
	}
	// Of two endpoints by one name, which somebody looked for, the second may sit
	// elsewhere after a restart.
	if _, alive := f.names[name]; seat != home && !alive {
		f.name(name, s.value(seat), b)
	}
	s.seats[a], s.taken[seat] = seat, true
	b.add(f.seated(s, seat, a))
}

// rise has an endpoint leave its seat, which it returns.
func (f *family) rise(s *sticky, a netip.AddrPort, b *batch) uint32 {
	name, _ := s.home(a)
	seat := s.seats[a]
	if f.names[name] == s.value(seat) {
		f.unname(name, b)
	}
	b.remove(f.seated(s, seat, a))
	delete(s.seats, a)
	delete(s.taken, seat)
	return seat
}

// reseat has endpoints leave their seats, and others take one. It returns the
// seats that were left. Those go first whose seat is written down.
func (f *family) reseat(s *sticky, d l4.Delta[netip.AddrPort], b *batch) map[netip.AddrPort]uint32 {
	left := make(map[netip.AddrPort]uint32, len(d.Removed))
	for _, a := range d.Removed {
		left[a] = f.rise(s, a, b)
	}
	var others []netip.AddrPort
	for _, a := range d.Added {
		name, _ := s.home(a)
		if _, known := f.recall(name); known {
			f.sit(s, a, b)
		} else {
			others = append(others, a)
		}
	}
	for _, a := range others {
		f.sit(s, a, b)
	}
	return left
}

// index and seated are the elements of one endpoint of the pool.
func (f *family) index(s *sticky, i int, seat uint32) element {
	key := append(word(s.value(0)), word(value(i))...)
	return element{set: f.sets.stickyIndexes, key: string(key), data: string(word(s.value(seat)))}
}

func (f *family) seated(s *sticky, seat uint32, a netip.AddrPort) element {
	return element{set: f.sets.stickySeats, key: string(word(s.value(seat))), data: string(appendAddrPort(nil, a))}
}

// recall returns what was written down for a name, by this process or by
// another before it.
func (f *family) recall(name uint64) (value, bool) {
	if v, ok := f.names[name]; ok {
		return v, true
	}
	v, ok := f.previous[name]
	return v, ok
}

// name writes down what a name stands for, and unname strikes it out.
func (f *family) name(name uint64, v value, b *batch) {
	f.names[name] = v
	b.add(f.named(name, v))
}

func (f *family) unname(name uint64, b *batch) {
	b.remove(f.named(name, f.names[name]))
	delete(f.names, name)
}

func (f *family) named(name uint64, v value) element {
	key := binary.BigEndian.AppendUint64(nil, name)
	return element{set: f.sets.stickyNames, key: string(key), data: string(word(v))}
}

// leads is the action that leads to the memory's chain.
func (m *memory) leads(s *nftables.Set) element {
	return element{set: s, key: string(word(m.action << operandBits)), chain: m.chain()}
}

// remember sends a client to the endpoint that it had, if it is still there,
// and to another otherwise. Values pass from map to map by way of the packet's
// priority, and nothing but fields is stored: nft 1.0.6 aborts when it lists a
// rule that uses what a map holds as a key, or stores it.
func (f *family) remember(m *memory) []rule {
	pool := maskedField(priority, poolMask)
	key := load(f.saddr(), pool)
	client := func(op uint32, timeout time.Duration) rule {
		data := reg0 + f.saddr().regs + 1
		return seq(key, rule{priority.load(data), &expr.Dynset{
			SrcRegKey: reg0, SrcRegData: data, SetName: f.sets.stickyClients.Name, SetID: f.sets.stickyClients.ID, Operation: op, Timeout: timeout,
		}})
	}
	seated := seq(lookup(f.sets.stickySeats, priority), f.forgetPriority(), f.dnat())
	return []rule{
		// If the pool went a moment ago, what is left here is a seat of pool 0,
		// which there is not: with the action's bits it could be one of another.
		keepOperand(0),
		seq(lookup(f.sets.stickyPools, priority), setPriority()),
		seq(lookup(f.sets.stickyClients, f.saddr(), pool), setPriority(), client(unix.NFT_DYNSET_OP_UPDATE, m.timeout), seated),
		client(dynsetDelete, 0), // its endpoint is gone
		seq(lookup(f.sets.stickyPools, pool), setPriority()),
		jump(chPick),
		seq(client(unix.NFT_DYNSET_OP_UPDATE, m.timeout), seated),
		seated, // the memory is full
		clearPriority(),
	}
}

// pickers are the chains that choose a seat, as f.choose does an endpoint.
func (f *family) pickers() []chain {
	pool := maskedField(priority, poolMask)
	chains := []chain{{name: chPick, rules: []rule{dispatch(f.sets.stickySizes, masked(priority, seatMask))}}}
	for i := range class(maxSeats) + 1 {
		ask := func(n uint32) rule {
			return seq(lookup(f.sets.stickyIndexes, pool, random(n)), setPriority(), leave())
		}
		chains = append(chains, chain{name: pickChain(i), rules: askSome(i, ask)})
	}
	return chains
}

func pickChain(i int) string { return fmt.Sprintf("seats-%d", sizes[i]) }

// pickSizes are the elements that lead to the pickers.
func (f *family) pickSizes() []element {
	var out []element
	for i := range class(maxSeats) + 1 {
		out = append(out, element{set: f.sets.stickySizes, key: string(word(value(i))), chain: pickChain(i)})
	}
	return out
}

// affinities returns the pools of a port in which clients keep their endpoint.
func (f *family) affinities(key l4.PortKey) []*sticky {
	w := f.forwardings[key]
	if f.ipv6 != key.IPv6 || w == nil {
		return nil
	}
	var out []*sticky
	for _, p := range []*pool{w.cluster, w.local} {
		if p != nil && p.sticky != nil {
			out = append(out, p.sticky)
		}
	}
	return out
}
