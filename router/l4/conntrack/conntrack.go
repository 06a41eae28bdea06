//go:build linux

// Package conntrack has the kernel forget UDP flows to endpoints that are gone.
// A TCP connection ends; a UDP flow goes on being translated to where it was
// sent first for as long as the client keeps sending.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// Table is the connection table of the network namespace in which it was
// opened. Safe for concurrent use.
type Table struct {
	// Addresses returns the node's own addresses: flows to a NodePort of
	// others are not touched. Set before use.
	Addresses func() ([]netip.Addr, error)

	mu   sync.Mutex // protects the following
	conn *netlink.Conn
}

// Open connects to the kernel. The capability NET_ADMIN is needed.
func Open(addresses func() ([]netip.Addr, error)) (*Table, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// A node may have a million flows; without room, listing them fails.
	_ = c.SetReadBuffer(8 << 20)
	return &Table{Addresses: addresses, conn: c}, nil
}

// Close ends the connection.
func (t *Table) Close() error { return t.conn.Close() }

// fewFronts is up to how many fronts are looked for one by one. The kernel goes
// through its table for each, but answers only with what is asked for.
const fewFronts = 8

// Clean deletes the flows that are meant. Their number is returned also with
// an error.
func (t *Table) Clean(ctx context.Context, stale []l4.Stale) (int, error) {
	w := newWanted()
	for i := range stale {
		w.add(&stale[i])
	}
	return t.delete(ctx, w)
}

// Reconcile deletes all flows to UDP fronts of a plan that are answered from
// elsewhere than its serving endpoints.
func (t *Table) Reconcile(ctx context.Context, p *l4.Plan) (int, error) {
	w := newWanted()
	for _, f := range p.Forwardings {
		if f.Key.Protocol != l4.UDP {
			continue
		}
		for _, fr := range f.Fronts {
			w.addFront(f.Key.IPv6, fr, rule{serving: f.Serving, others: true})
		}
	}
	return t.delete(ctx, w)
}

// Translated counts the connections and flows that lead elsewhere than they were
// sent, whoever translated them: those that break when translations go.
func (t *Table) Translated() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v4, err4 := t.translated(false)
	v6, err6 := t.translated(true)
	return v4 + v6, errors.Join(err4, err6)
}

// delete goes through the flows that may be meant and deletes those that are.
func (t *Table) delete(ctx context.Context, w *wanted) (int, error) {
	if w.empty() {
		return 0, nil
	}
	own := map[netip.Addr]bool{}
	if len(w.ports) > 0 {
		all, err := t.Addresses()
		if err != nil {
			return 0, fmt.Errorf("addresses of the node: %w", err)
		}
		for _, a := range all {
			own[a] = true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	deleted := 0
	for _, q := range w.queries() {
		if err := ctx.Err(); err != nil {
			return deleted, err
		}
		flows, err := t.list(q)
		if err != nil {
			return deleted, err
		}
		for _, f := range flows {
			if !w.means(f, own) {
				continue
			}
			switch err := t.remove(f); {
			case err == nil:
				deleted++
			case !errors.Is(err, unix.ENOENT): // it ended by itself
				return deleted, err
			}
		}
	}
	return deleted, nil
}

// rule says which flows to a front are meant.
type rule struct {
	gone, serving []netip.AddrPort // sorted
	// others are flows answered from whatever does not serve; untranslated are
	// those that are answered from where they were sent.
	others, untranslated bool
}

func (r rule) means(f flow) bool {
	from := f.answeredFrom
	switch {
	case has(r.serving, from):
		return false
	case r.others, has(r.gone, from):
		return true
	}
	return r.untranslated && from == f.to
}

func has(sorted []netip.AddrPort, a netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(sorted, a, netip.AddrPort.Compare)
	return found
}

// wanted is what to delete, by where flows were sent.
type wanted struct {
	fronts map[netip.AddrPort][]rule
	ports  map[nodePort][]rule
}

type nodePort struct {
	ipv6 bool
	port uint16
}

func newWanted() *wanted {
	return &wanted{fronts: map[netip.AddrPort][]rule{}, ports: map[nodePort][]rule{}}
}

func (w *wanted) empty() bool { return len(w.fronts)+len(w.ports) == 0 }

func (w *wanted) add(s *l4.Stale) {
	r := rule{gone: s.Gone, serving: s.Serving, untranslated: s.Untranslated}
	for _, d := range s.Destinations {
		w.fronts[d] = append(w.fronts[d], r)
	}
	if s.NodePort != 0 {
		w.addPort(nodePort{s.Key.IPv6, s.NodePort}, r)
	}
}

func (w *wanted) addFront(ipv6 bool, fr l4.Front, r rule) {
	if fr.Kind == l4.NodePort {
		w.addPort(nodePort{ipv6, fr.Port}, r)
		return
	}
	a := netip.AddrPortFrom(fr.Address, fr.Port)
	w.fronts[a] = append(w.fronts[a], r)
}

// addPort leaves out NodePorts that nothing serves: something else on the node
// may use the number then.
func (w *wanted) addPort(p nodePort, r rule) {
	if len(r.serving) > 0 || len(r.gone) > 0 {
		w.ports[p] = append(w.ports[p], r)
	}
}

func (w *wanted) means(f flow, own map[netip.Addr]bool) bool {
	rules := w.fronts[f.to]
	if own[f.to.Addr()] {
		rules = append(slices.Clip(rules), w.ports[nodePort{f.to.Addr().Is6(), f.to.Port()}]...)
	}
	return slices.ContainsFunc(rules, func(r rule) bool { return r.means(f) })
}

// queries are what to ask the kernel for: few fronts one by one, many with all
// UDP flows of their families.
func (w *wanted) queries() []query {
	var out []query
	families := map[bool]bool{}
	for a := range w.fronts {
		out = append(out, query{ipv6: a.Addr().Is6(), address: a.Addr(), port: a.Port()})
		families[a.Addr().Is6()] = true
	}
	for p := range w.ports {
		out = append(out, query{ipv6: p.ipv6, port: p.port})
		families[p.ipv6] = true
	}
	if len(out) <= fewFronts {
		return out
	}
	out = out[:0]
	for ipv6 := range families {
		out = append(out, query{ipv6: ipv6})
	}
	return out
}
