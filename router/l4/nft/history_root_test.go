//go:build linux && root

package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/netns"
)

// TestHistory takes a kernel through random histories, and holds what it has
// against the plan: not by what we believe to have programmed, but by reading
// its elements and following them as a packet would.
func TestHistory(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ns := netns.New(t)
			h := &history{T: t, ns: ns, world: flows.NewWorld(seed)}
			h.open()
			p := l4.NewPlanner(h.world.Node)
			h.replace(p.Plan())
			for range 40 {
				for range 1 + h.world.IntN(4) {
					h.world.Step(p)
				}
				switch h.world.IntN(10) {
				case 0: // another process takes over
					h.open()
					h.replace(p.Plan())
				case 1:
					h.replace(p.Plan())
				default:
					h.apply(p.Take())
				}
				h.check(p)
				if t.Failed() {
					return
				}
			}
			ns.Run(t, "nft", "list", "ruleset")
		})
	}
}

type history struct {
	*testing.T
	ns     *netns.Namespace
	world  *flows.World
	kernel *Kernel
}

func (h *history) open() {
	h.ns.Do(func() {
		if h.kernel != nil {
			_ = h.kernel.Close()
		}
		k, err := Open(Options{})
		if err != nil {
			h.Error(err)
			return
		}
		h.kernel = k
	})
}

func (h *history) replace(p *l4.Plan) {
	h.ns.Do(func() {
		if err := h.kernel.Replace(context.Background(), p); err != nil {
			h.Error(err)
		}
	})
}

func (h *history) apply(c *l4.Change) {
	h.ns.Do(func() {
		if err := h.kernel.Apply(context.Background(), c); err != nil {
			h.Errorf("%v\n%+v", err, c)
		}
	})
}

// check holds what the kernel has against what a planner says that sees only
// the end.
func (h *history) check(*l4.Planner) {
	p := l4.NewPlanner(h.world.Node)
	for _, s := range h.world.Services {
		p.Set(s)
	}
	plan := p.Plan()
	for _, f := range h.kernel.families {
		want := expected(f, plan)
		var got map[string]string
		h.ns.Do(func() {
			d := dump{T: h.T, f: f}
			d.conn, d.err = nftables.New(nftables.AsLasting())
			if d.err != nil {
				h.Error(d.err)
				return
			}
			defer d.conn.CloseLasting()
			got = d.read()
		})
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if got[k] != want[k] {
				h.Errorf("%s: the kernel has %q, want %q", k, got[k], want[k])
			}
			delete(got, k)
		}
		for _, k := range slices.Sorted(maps.Keys(got)) {
			h.Errorf("%s: the kernel has %q, want nothing", k, got[k])
		}
	}
}

// expected says in words what a table must hold for a plan.
func expected(f *family, p *l4.Plan) map[string]string {
	out := map[string]string{}
	elements := map[string]int{"cluster-ips": 0, "hairpins": 0, "node-addresses": 0, "endpoints": 0, "sticky-pools": 0, "sticky-indexes": 0, "sticky-seats": 0}
	for _, fw := range p.Forwardings {
		if fw.Key.IPv6 != f.ipv6 {
			continue
		}
		for _, fr := range fw.Fronts {
			out[frontName(fw.Key.Protocol, fr)] = expectedFront(fw, fr)
		}
		for _, pool := range [][]netip.AddrPort{fw.Cluster, fw.Local} {
			switch {
			case fw.Affinity == 0:
				elements["endpoints"] += len(pool)
			case len(pool) > 0:
				elements["sticky-pools"] += 2
				elements["sticky-indexes"] += len(pool)
				elements["sticky-seats"] += len(pool)
			}
		}
	}
	ofFamily(f, p.ClusterIPs, netip.Addr.Is6, f.clusterIP, func(element) { elements["cluster-ips"]++ })
	ofFamily(f, p.Loops, loopIs6, f.loop, func(element) { elements["hairpins"]++ })
	ofFamily(f, p.Globals.NodePorts.Addresses, netip.Addr.Is6, f.nodeAddress, func(element) { elements["node-addresses"]++ })
	for name, n := range elements {
		out["elements of "+name] = fmt.Sprint(n)
	}
	return out
}

func frontName(p l4.Protocol, fr l4.Front) string {
	if fr.Kind == l4.NodePort {
		return fmt.Sprintf("node port %d/%s", fr.Port, p)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(fr.Address, fr.Port), p)
}

// expectedFront lists the outcome for each origin.
func expectedFront(fw *l4.Forwarding, fr l4.Front) string {
	text := ""
	for _, o := range []l4.Origin{l4.Outside, l4.Pod, l4.Host} {
		r := fr.Rule(o)
		text += o.String() + ": "
		switch r.Verdict {
		case l4.ToCluster:
			text += describe(fw.Cluster, fw.Affinity > 0, r.Masquerade)
		case l4.ToLocal:
			text += describe(fw.Local, fw.Affinity > 0, r.Masquerade)
		default:
			text += r.Verdict.String()
		}
		text += "; "
	}
	if len(fr.SourceRanges) > 0 {
		text += fmt.Sprintf("for %d ranges", len(fr.SourceRanges))
	}
	return text
}

func describe(pool []netip.AddrPort, sticky, masquerade bool) string {
	return fmt.Sprintf("%v sticky %t masqueraded %t", pool, sticky, masquerade)
}

// dump reads a table.
type dump struct {
	*testing.T
	f    *family
	conn *nftables.Conn
	err  error
}

func (d *dump) elements(s *nftables.Set) []nftables.SetElement {
	e, err := d.conn.GetSetElements(s)
	if err != nil {
		d.Errorf("%s: %v", s.Name, err)
	}
	return e
}

// lookup is a map of the kernel, by key.
func (d *dump) lookup(s *nftables.Set) map[string]string {
	out := map[string]string{}
	for _, e := range d.elements(s) {
		out[string(e.Key)] = string(e.Val)
	}
	return out
}

func number(s string) value { return value(binary.NativeEndian.Uint32([]byte(s))) }

func (d *dump) read() map[string]string {
	out := map[string]string{}
	sets := d.f.sets
	follow := &follower{dump: d, endpoints: d.lookup(sets.endpoints), pools: d.lookup(sets.stickyPools),
		indexes: d.lookup(sets.stickyIndexes), seats: d.lookup(sets.stickySeats), actions: d.lookup(sets.actions)}
	special := map[l4.Origin]map[string]string{
		l4.Outside: d.lookup(sets.outside), l4.Pod: d.lookup(sets.pod), l4.Host: d.lookup(sets.host),
	}
	ranges := map[string]int{}
	for _, e := range d.elements(sets.ranges) {
		ranges[string(e.Key[:4])]++
	}
	front := func(name string, v value) {
		text := ""
		key := string(word(operand(uint32(v & operandMask))))
		for _, o := range []l4.Origin{l4.Outside, l4.Pod, l4.Host} {
			to := v
			if action(v) == actSpecial {
				to = number(special[o][key])
				delete(special[o], key)
			}
			text += o.String() + ": " + follow.value(to, o) + "; "
		}
		if n := ranges[key]; action(v) == actSpecial && n > 0 {
			text += fmt.Sprintf("for %d ranges", n)
			delete(ranges, key)
		}
		out[name] = text
	}
	for k, v := range d.lookup(sets.fronts) {
		a, rest := d.address(k)
		port := binary.BigEndian.Uint16([]byte(rest[4:]))
		front(frontName(l4.Protocol(rest[0]), l4.Front{Address: a, Port: port}), number(v))
	}
	for k, v := range d.lookup(sets.nodePorts) {
		front(frontName(l4.Protocol(k[0]), l4.Front{Kind: l4.NodePort, Port: binary.BigEndian.Uint16([]byte(k[4:]))}), number(v))
	}
	for _, s := range []*nftables.Set{sets.clusterIPs, sets.loops, sets.nodeAddresses, sets.endpoints, sets.stickyPools, sets.stickyIndexes, sets.stickySeats} {
		out["elements of "+s.Name] = fmt.Sprint(len(d.elements(s)))
	}
	for o, left := range special {
		if len(left) > 0 {
			d.Errorf("%d special fronts from %s belong to nothing", len(left), o)
		}
	}
	d.names(follow.pools)
	if len(ranges) > 0 {
		d.Errorf("%d source ranges belong to nothing", len(ranges))
	}
	return out
}

func (d *dump) address(key string) (netip.Addr, string) {
	n := 4
	if d.f.ipv6 {
		n = 16
	}
	a, _ := netip.AddrFromSlice([]byte(key[:n]))
	return a, key[n:]
}

func action(v value) value { return v & actionMask >> operandBits }

// follower follows values to endpoints.
type follower struct {
	*dump
	endpoints             map[string]string
	pools, indexes, seats map[string]string
	actions               map[string]string // of no content: verdicts are not read
}

func (f *follower) value(v value, from l4.Origin) string {
	masquerade := v&masqueradeAll != 0 || v&masqueradeOthers != 0 && from != l4.Pod
	switch a := action(v); {
	case a == actReject:
		return l4.Reject.String()
	case a == actDrop:
		return l4.Drop.String()
	case a >= actSticky:
		if _, ok := f.actions[string(word(a<<operandBits))]; !ok {
			f.Errorf("the action %d of a pool with affinity leads nowhere", a)
		}
		return describe(f.sticky(v&operandMask), true, masquerade)
	case a >= actPlain && int(a-actPlain) < len(sizes):
		id := v & operandMask
		return describe(f.pool(func(i value) string {
			return f.endpoints[string(word(operand(uint32(id))))+string(word(i))]
		}, sizes[a-actPlain]), false, masquerade)
	}
	return fmt.Sprintf("action %d", action(v))
}

// pool reads the endpoints of consecutive indexes, of which there must be as
// many as the size asks for.
func (f *follower) pool(at func(i value) string, size uint32) []netip.AddrPort {
	out := []netip.AddrPort{}
	for i := value(0); at(i) != ""; i++ {
		a, rest := f.address(at(i))
		out = append(out, netip.AddrPortFrom(a, binary.BigEndian.Uint16([]byte(rest))))
	}
	if sizes[class(len(out))] != size {
		f.Errorf("a pool of %d is asked as one of %d", len(out), size)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// sticky reads a pool in which clients keep their endpoint.
func (f *follower) sticky(operand value) []netip.AddrPort {
	pool := string(word(operand << seatBits))
	v := f.pools[string(word(operand))]
	if v == "" || v != f.pools[pool] || number(v)>>seatBits != operand {
		f.Errorf("pool %d leads to %q by its operand, and to %q by its number", operand, v, f.pools[pool])
		return nil
	}
	return f.pool(func(i value) string { return f.seats[f.indexes[pool+string(word(i))]] }, sizes[number(v)&seatMask])
}

// names looks whether each pool, and nothing that is not there, is written down.
func (d *dump) names(pools map[string]string) {
	written := map[value]bool{}
	for _, v := range d.lookup(d.f.sets.stickyNames) {
		written[number(v)&poolMask] = true
	}
	for k := range pools {
		if n := number(k); n&poolMask != 0 && !written[n] {
			d.Errorf("pool %d is not written down", n>>seatBits)
		}
	}
	if 2*len(written) != len(pools) {
		d.Errorf("%d pools are written down, %d are there", len(written), len(pools)/2)
	}
}
