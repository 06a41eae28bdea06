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

// sticky is what a pool with affinity has of its own: three maps and two
// chains, whatever the number of endpoints and clients. A client is remembered
// with the number of a seat, and the seat has the endpoint. Names and seats
// are made of the names and addresses of what they are for, so that another
// process finds the clients where this one left them.
type sticky struct {
	id      string // of which the names are made
	timeout time.Duration
	clients *nftables.Set // source : seat, forgotten after the timeout
	chosen  *nftables.Set // index : seat
	seats   *nftables.Set // seat : address . port
	numbers map[netip.AddrPort]uint32
	taken   map[uint32]bool
	size    int // as the chain that picks has it: an index of sizes
}

const (
	// stickyPrefix begins the names of all that belongs to pools with
	// affinity, and of nothing else.
	stickyPrefix = "affinity-"
	pickPrefix   = stickyPrefix + "pick-"
	// maxClients is how many clients a pool remembers. Others are served
	// without being remembered.
	maxClients = 1 << 18
	// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys does not have.
	dynsetDelete = 2
)

func (f *family) newSticky(k l4.PortKey, local bool, timeout time.Duration) *sticky {
	h := fnv.New64a()
	fmt.Fprintln(h, k, local)
	s := &sticky{id: fmt.Sprintf("%016x", h.Sum64()), timeout: timeout, numbers: map[netip.AddrPort]uint32{}, taken: map[uint32]bool{}, size: -1}
	word := nftables.TypeClassID
	s.clients = f.dataMap(stickyPrefix+"clients-"+s.id, word, f.addressType())
	s.clients.HasTimeout, s.clients.Dynamic, s.clients.Size = true, true, maxClients
	s.chosen = f.dataMap(stickyPrefix+"indexes-"+s.id, word, nftables.TypeMark)
	s.seats = f.dataMap(stickyPrefix+"seats-"+s.id, nftables.MustConcatSetType(f.addressType(), nftables.TypeInetService), word)
	return s
}

func (s *sticky) chain() string { return stickyPrefix + s.id }
func (s *sticky) pick() string  { return pickPrefix + s.id }

func (s *sticky) sets() []*nftables.Set { return []*nftables.Set{s.clients, s.chosen, s.seats} }

// names are those of everything that the pool has.
func (s *sticky) names() []string {
	out := []string{s.chain(), s.pick()}
	for _, set := range s.sets() {
		out = append(out, set.Name)
	}
	return out
}

// seat returns the number of an endpoint: that which its address asks for, or
// the next that is free.
func (s *sticky) seat(a netip.AddrPort) uint32 {
	if n, ok := s.numbers[a]; ok {
		return n
	}
	h := fnv.New32a()
	h.Write(a.Addr().AsSlice())
	h.Write(binary.BigEndian.AppendUint16(nil, a.Port()))
	sum := h.Sum32()
	n := (sum ^ sum>>operandBits) & uint32(operandMask)
	for s.taken[n] {
		n = (n + 1) & uint32(operandMask)
	}
	s.numbers[a], s.taken[n] = n, true
	return n
}

// reseat has endpoints leave their seats, and others take one. It returns the
// seats that were left.
func (s *sticky) reseat(d l4.Delta[netip.AddrPort], b *batch) map[netip.AddrPort]uint32 {
	left := make(map[netip.AddrPort]uint32, len(d.Removed))
	for _, a := range d.Removed {
		n := s.numbers[a]
		left[a] = n
		b.remove(s.seated(n, a))
		delete(s.numbers, a)
		delete(s.taken, n)
	}
	for _, a := range d.Added {
		b.add(s.seated(s.seat(a), a))
	}
	return left
}

// index and seated are the elements of one endpoint of the pool.
func (s *sticky) index(i int, seat uint32) element {
	return element{set: s.chosen, key: string(word(value(i))), data: string(word(operand(seat)))}
}

func (s *sticky) seated(seat uint32, a netip.AddrPort) element {
	return element{set: s.seats, key: string(word(operand(seat))), data: string(appendAddrPort(nil, a))}
}

// program makes what the pool needs, before its elements. Clients that are
// remembered stay.
func (f *family) program(s *sticky, b *batch) {
	b.before = append(b.before, func(t *transaction) {
		for _, set := range s.sets() {
			t.addSet(set)
		}
		if f.refilling { // an earlier process may have left them
			t.flushSet(s.chosen)
			t.flushSet(s.seats)
		}
		f.writeChain(t, chain{name: s.pick()}) // to be there for the other
		f.writeChain(t, chain{name: s.chain(), rules: f.remember(s)})
	})
}

// resize has the pool pick among n endpoints.
func (f *family) resize(s *sticky, n int, b *batch) {
	size := class(n)
	if n == 0 || size == s.size {
		return
	}
	s.size = size
	b.before = append(b.before, func(t *transaction) {
		f.writeChain(t, chain{name: s.pick(), rules: f.pickSeat(s)})
	})
}

// unmake takes away what the pool had, after its elements.
func (f *family) unmake(s *sticky, b *batch) {
	for _, set := range s.sets() {
		b.forget(set)
	}
	b.after = append(b.after, func(t *transaction) {
		f.deleteChains(t, s.chain(), s.pick())
		for _, set := range s.sets() {
			t.deleteSet(set)
		}
	})
}

// remember sends a client to the endpoint that it had, if it is still there,
// and to another otherwise. Values pass from map to map by way of the packet's
// priority, and nothing but plain fields is stored: nft 1.0.6 aborts when it
// lists a rule that uses what a map holds as a key, or stores it.
func (f *family) remember(s *sticky) []rule {
	client := func(op uint32, timeout time.Duration) rule {
		return seq(load(f.saddr()), rule{priority.load(reg0 + f.saddr().regs), &expr.Dynset{
			SrcRegKey: reg0, SrcRegData: reg0 + f.saddr().regs, SetName: s.clients.Name, SetID: s.clients.ID, Operation: op, Timeout: timeout,
		}})
	}
	seated := seq(lookup(s.seats, priority), f.dnat())
	return []rule{
		seq(lookup(s.clients, f.saddr()), setPriority(), client(unix.NFT_DYNSET_OP_UPDATE, s.timeout), seated),
		client(dynsetDelete, 0),
		jump(s.pick()),
		seq(client(unix.NFT_DYNSET_OP_UPDATE, s.timeout), seated),
		seated, // the memory is full
	}
}

// pickSeat chooses as family.choose does.
func (f *family) pickSeat(s *sticky) []rule {
	ask := func(n uint32) rule { return seq(lookup(s.chosen, random(n)), setPriority(), leave()) }
	return askSome(s.size, ask)
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

// decode reads a client as the kernel lists it.
func (s *sticky) decode(e listed) (l4.Sticky, bool) {
	client, ok := netip.AddrFromSlice([]byte(e.key))
	if !ok || len(e.data) != 4 {
		return l4.Sticky{}, false
	}
	seat := value(binary.NativeEndian.Uint32([]byte(e.data))) & operandMask
	for a, n := range s.numbers {
		if n == uint32(seat) {
			return l4.Sticky{Client: client, Endpoint: a, Expires: e.expires}, true
		}
	}
	return l4.Sticky{}, false // its endpoint is gone
}

// isSticky reports whether a name belongs to a pool with affinity.
func isSticky(name string) bool { return strings.HasPrefix(name, stickyPrefix) }
