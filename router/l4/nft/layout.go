//go:build linux

package nft

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// family is our table of one address family, and what we know of its content.
type family struct {
	ipv6  bool
	mark  uint32
	table *nftables.Table
	sets  sets
	// layout is the version of all that does not depend on a plan; const after
	// newFamily.
	layout uint64
	// round is a number of the last Replace, of which the stamps of the rules
	// are made that each Replace writes.
	round uint64
	numbering
	shadow
}

// sets are the sets and maps of a table. They are filled from the plan, but for
// the clients, which packets fill, and the maps of actions and sizes, which hold
// one element for each.
type sets struct {
	fronts    *nftables.Set // destination . protocol . port : value
	nodePorts *nftables.Set // protocol . port : value
	endpoints *nftables.Set // operand . index : address . port
	// For special fronts, by where a connection comes from; operand : value.
	outside, pod, host *nftables.Set
	ranges             *nftables.Set // operand . source, for special fronts with the ranged bit
	nodeAddresses      *nftables.Set // that answer NodePorts, unless all do
	clusterIPs         *nftables.Set
	loops              *nftables.Set // source . destination . protocol . port
	actions, finals    *nftables.Set // action : verdict
	// For pools whose clients keep their endpoint: see sticky.
	stickyNames   *nftables.Set // hash : pool's number . 0, or . seat of an endpoint that is not where it should be
	stickyPools   *nftables.Set // operand, or pool's number . 0 : pool's number . index of sizes
	stickySizes   *nftables.Set // index of sizes : verdict
	stickyIndexes *nftables.Set // pool's number . 0 . index : pool's number . seat
	stickySeats   *nftables.Set // pool's number . seat : address . port
	stickyClients *nftables.Set // source . pool's number . 0 : pool's number . seat; forgotten after a time
}

func newFamily(o Options, ipv6 bool) *family {
	f := &family{ipv6: ipv6, mark: o.MasqueradeMark, table: &nftables.Table{Name: o.TableName, Family: nftables.TableFamilyIPv4}}
	if ipv6 {
		f.table.Family = nftables.TableFamilyIPv6
	}
	address := f.addressType()
	word, proto, port := nftables.TypeClassID, nftables.TypeInetProto, nftables.TypeInetService
	f.sets = sets{
		fronts:        f.dataMap("fronts", word, address, proto, port),
		nodePorts:     f.dataMap("node-ports", word, proto, port),
		endpoints:     f.dataMap("endpoints", nftables.MustConcatSetType(address, port), word, nftables.TypeMark),
		outside:       f.dataMap("special-outside", word, word),
		pod:           f.dataMap("special-pod", word, word),
		host:          f.dataMap("special-node", word, word),
		ranges:        f.set("source-ranges", word, address),
		nodeAddresses: f.set("node-addresses", address),
		clusterIPs:    f.set("cluster-ips", address),
		loops:         f.set("hairpins", address, address, proto, port),
		actions:       f.dataMap("actions", nftables.TypeVerdict, word),
		finals:        f.dataMap("final-actions", nftables.TypeVerdict, word),
		stickyNames:   f.dataMap("sticky-names", word, word, word),
		stickyPools:   f.dataMap("sticky-pools", word, word),
		stickySizes:   f.dataMap("sticky-sizes", nftables.TypeVerdict, word),
		stickyIndexes: f.dataMap("sticky-indexes", word, word, nftables.TypeMark),
		stickySeats:   f.dataMap("sticky-seats", nftables.MustConcatSetType(address, port), word),
		stickyClients: f.dataMap("sticky-clients", word, address, word),
	}
	f.sets.ranges.Interval = true
	c := f.sets.stickyClients
	c.HasTimeout, c.Dynamic, c.Size = true, true, maxClients
	for i, s := range f.sets.all() {
		s.ID = uint32(i + 1)
	}
	f.pools.limit, f.specials.limit, f.numbers.limit = 1<<operandBits, uint32(rangedBit), maxSticky
	f.layout = f.version()
	f.reset()
	return f
}

func (f *family) addressType() nftables.SetDatatype {
	if f.ipv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

func (f *family) set(name string, key ...nftables.SetDatatype) *nftables.Set {
	s := &nftables.Set{Table: f.table, Name: name, KeyType: key[0]}
	if len(key) > 1 {
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(key...), true
	}
	return s
}

func (f *family) dataMap(name string, data nftables.SetDatatype, key ...nftables.SetDatatype) *nftables.Set {
	s := f.set(name, key...)
	s.IsMap, s.DataType = true, data
	return s
}

// filled are the sets that a refill empties and fills.
func (s *sets) filled() []*nftables.Set {
	return []*nftables.Set{s.fronts, s.nodePorts, s.endpoints, s.outside, s.pod, s.host, s.ranges, s.nodeAddresses, s.clusterIPs, s.loops,
		s.actions, s.finals, s.stickyNames, s.stickyPools, s.stickySizes, s.stickyIndexes, s.stickySeats}
}

func (s *sets) all() []*nftables.Set { return append(s.filled(), s.stickyClients) }

// chain is a chain with its rules; with a hook it is a base chain of type nat.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// Names of the chains that others lead to.
const (
	chServices   = "services"
	chDecide     = "decide"
	chFinal      = "final"
	chSpecial    = "special"
	chPick       = "seats"
	chMasquerade = "masquerade-unless-pod"
	chUnknown    = "unknown"
	chReject     = "reject"
	chDrop       = "drop"
)

// fixed returns the chains that depend on nothing but the options.
func (f *family) fixed() []chain {
	before, after := *nftables.ChainPriorityNATDest-1, *nftables.ChainPriorityNATDest+10
	chains := []chain{
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: before, rules: []rule{jump(chServices)}},
		{name: "output", hook: nftables.ChainHookOutput, priority: before, rules: []rule{jump(chServices)}},
		{name: "unknown-prerouting", hook: nftables.ChainHookPrerouting, priority: after, rules: []rule{
			seq(f.toLoopback(), isNot(meta(expr.MetaKeyIIFNAME), ifname("lo", false)), drop()),
			jump(chUnknown),
		}},
		{name: "unknown-output", hook: nftables.ChainHookOutput, priority: after, rules: []rule{jump(chUnknown)}},
		{name: "postrouting", hook: nftables.ChainHookPostrouting, priority: *nftables.ChainPriorityNATSource, rules: f.postrouting()},
		{name: chDecide, rules: []rule{
			seq(bits(priority, masqueradeAll, masqueradeAll), changeMark(f.mark, true)),
			seq(bits(priority, masqueradeOthers, masqueradeOthers), jump(chMasquerade)),
			dispatch(f.sets.actions, masked(priority, actionMask)),
		}},
		{name: chFinal, rules: []rule{
			seq(bits(priority, masqueradeAll, masqueradeAll), changeMark(f.mark, true)),
			dispatch(f.sets.finals, masked(priority, actionMask)),
		}},
		{name: chReject, rules: f.reject()},
		{name: chDrop, rules: []rule{drop()}},
	}
	for i := range sizes {
		chains = append(chains, f.choose(i))
	}
	return append(chains, f.pickers()...)
}

// variable returns the chains that depend on the globals.
func (f *family) variable(g *l4.Globals) []chain {
	return []chain{
		{name: chServices, rules: f.services(g)},
		{name: chMasquerade, rules: append(f.fromPods(g, leave()), changeMark(f.mark, true))},
		{name: chSpecial, rules: f.special(g)},
		{name: chUnknown, rules: f.unknown(g)},
	}
}

// services: which front a connection is for.
func (f *family) services(g *l4.Globals) []rule {
	nodePort := seq(is(addrType(false), word(unix.RTN_LOCAL)), f.notLoopback())
	if !g.NodePorts.All {
		nodePort = in(f.sets.nodeAddresses, f.daddr())
	}
	return []rule{
		seq(lookup(f.sets.fronts, f.daddr(), protocol, dport), setPriority(), goTo(chDecide)),
		seq(nodePort, lookup(f.sets.nodePorts, protocol, dport), setPriority(), goTo(chDecide)),
	}
}

// special fronts are those with source ranges, and those whose rules differ by
// origin in more than masquerading.
func (f *family) special(g *l4.Globals) []rule {
	next := func(s *nftables.Set) rule { return seq(lookup(s, priority), setPriority(), goTo(chFinal)) }
	rules := []rule{
		keepOperand(operandTag),
		seq(anyBits(priority, rangedBit), notIn(f.sets.ranges, priority, f.saddr()), drop()),
	}
	rules = append(rules, f.fromPods(g, next(f.sets.pod))...)
	return append(rules,
		seq(is(addrType(true), word(unix.RTN_LOCAL)), next(f.sets.host)),
		next(f.sets.outside))
}

// unknown: what no Service has, and no other program's NAT wanted either.
func (f *family) unknown(g *l4.Globals) []rule {
	rules := []rule{seq(in(f.sets.clusterIPs, f.daddr()), goTo(chReject))}
	for _, p := range f.own(g.ServiceCIDRs) {
		rules = append(rules, seq(within(f.daddr(), p), drop()))
	}
	return rules
}

// fromPods repeats an action for everything that pods are recognised by.
func (f *family) fromPods(g *l4.Globals, then rule) []rule {
	var rules []rule
	for _, p := range f.own(g.Pods.CIDRs) {
		rules = append(rules, seq(within(f.saddr(), p), then))
	}
	if len(g.Pods.CIDRs) == 0 && g.Pods.Interface != "" {
		rules = append(rules, seq(is(meta(expr.MetaKeyIIFNAME), ifname(g.Pods.Interface, g.Pods.InterfacePrefix)), then))
	}
	return rules
}

// choose takes an endpoint of a pool of the i-th size.
func (f *family) choose(i int) chain {
	ask := func(n uint32) rule { return seq(lookup(f.sets.endpoints, priority, random(n)), f.dnat()) }
	return chain{name: sizeChain(i), rules: append([]rule{keepOperand(operandTag)}, askSome(i, ask)...)}
}

// askSome asks for a random endpoint of a pool of the i-th size until there is
// one. Beyond the exact sizes a random index may have no endpoint: so it asks
// some times more, and then among as many as there are for certain. The last
// rule is for a packet that is on its way while the pool becomes smaller.
func askSome(i int, ask func(n uint32) rule) []rule {
	rules := []rule{ask(sizes[i])}
	if i >= exactSizes {
		rules = append(rules, ask(sizes[i]), ask(sizes[i]), ask(sizes[i]), ask(sizes[i-1]))
	}
	return append(rules, ask(1))
}

func sizeChain(i int) string { return fmt.Sprintf("endpoints-%d", sizes[i]) }

// translated is the bit of a connection's status that says that its destination
// was (IPS_DST_NAT).
const translated value = 1 << 5

// postrouting masquerades what was marked, and endpoints that reached
// themselves through a Service; what they do without one is their own. What is left of an operand in the priority is taken away.
func (f *family) postrouting() []rule {
	return []rule{
		seq(bits(priority, tagMask, operandTag), clearPriority()),
		seq(anyBits(mark, value(f.mark)), changeMark(f.mark, false), masquerade()),
		seq(anyBits(status, translated), in(f.sets.loops, f.saddr(), f.daddr(), protocol, dport), masquerade()),
	}
}

func (f *family) toLoopback() rule {
	if f.ipv6 {
		return is(f.daddr(), netip.IPv6Loopback().AsSlice())
	}
	return within(f.daddr(), loopback4)
}

func (f *family) notLoopback() rule {
	if f.ipv6 {
		return isNot(f.daddr(), netip.IPv6Loopback().AsSlice())
	}
	return append(load(f.daddr()),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, []byte{127, 0, 0, 0}))
}

var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// own returns those prefixes that are of the table's family.
func (f *family) own(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is6() == f.ipv6 {
			out = append(out, p.Masked())
		}
	}
	return out
}

func within(f field, p netip.Prefix) rule {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return inPrefix(f, p.Addr().AsSlice(), mask)
}

// ifname is an interface's name as the kernel compares it: all of its 16
// bytes, or only the beginning.
func ifname(name string, prefix bool) []byte {
	if prefix {
		return []byte(name)
	}
	return []byte(name + strings.Repeat("\x00", unix.IFNAMSIZ-len(name)))
}

// verdicts are the elements of one of the two maps of actions.
func (f *family) verdicts(s *nftables.Set) []element {
	to := func(action value, chain string) element {
		return element{set: s, key: string(word(action << operandBits)), chain: chain}
	}
	out := []element{to(actReject, chReject), to(actDrop, chDrop)}
	if s == f.sets.actions {
		out = append(out, to(actSpecial, chSpecial))
	}
	for i := range sizes {
		out = append(out, to(actPlain+value(i), sizeChain(i)))
	}
	return out
}
