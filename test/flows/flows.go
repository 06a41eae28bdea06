// Package flows holds what must happen to packets on a node: tables of
// Services, and of connections with the endpoints that they must reach. The
// model is held against them without a kernel (router/l4), and its rendering
// with real packets.
package flows

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/portico-ingress/portico/router/l4"
)

//go:embed tables/*.yaml
var tables embed.FS

// Case is one node with Services, and the flows that are tried there. Every
// table is a Case for each of its nodes and for both families.
type Case struct {
	Name      string // "table/node/IPv4"
	Node      l4.Node
	Addresses []netip.Addr // all addresses of the node but the loopback ones
	Services  []*l4.Service
	Flows     []Flow
}

// Flow is one connection and what must become of it.
type Flow struct {
	Name   string
	Packet l4.Packet
	// From is where the packet comes from in fact, as a packet test must send
	// it: what the node takes it for is for the node to find out.
	From l4.Origin
	// Want is the outcome in the form of l4.Outcome.String.
	Want string
	// Action and Endpoints are Want, taken apart.
	Action    l4.Action
	Endpoints []l4.Candidate
}

// Load reads all tables.
func Load() ([]Case, error) {
	files, err := fs.Glob(tables, "tables/*.yaml")
	if err != nil {
		return nil, err
	}
	var cases []Case
	for _, f := range files {
		data, err := tables.ReadFile(f)
		if err != nil {
			return nil, err
		}
		c, err := Parse(strings.TrimSuffix(path.Base(f), ".yaml"), data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		cases = append(cases, c...)
	}
	return cases, nil
}

// Parse reads one table.
func Parse(name string, data []byte) ([]Case, error) {
	var t table
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&t); err != nil {
		return nil, err
	}
	if len(t.Nodes) == 0 || len(t.Flows) == 0 {
		return nil, fmt.Errorf("a table needs nodes and flows")
	}
	var cases []Case
	for _, n := range t.Nodes {
		for _, m := range []mapper{{}, {ipv6: true}} {
			c, err := t.build(n, m)
			if err != nil {
				return nil, err
			}
			c.Name = name + "/" + n.Name + "/" + m.String()
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// mapper carries a table, which is written in IPv4, to the family that is
// wanted: the address a.b.c.d becomes fd00::a.b.c.d.
type mapper struct{ ipv6 bool }

func (m mapper) String() string {
	if m.ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (m mapper) addr(a netip.Addr) netip.Addr {
	switch {
	case !m.ipv6 || !a.Is4():
		return a
	case a.IsLoopback():
		return netip.IPv6Loopback()
	}
	to := netip.MustParseAddr("fd00::").As16()
	from := a.As4()
	copy(to[12:], from[:])
	return netip.AddrFrom16(to)
}

func (m mapper) prefix(p netip.Prefix) netip.Prefix {
	switch {
	case !m.ipv6 || !p.Addr().Is4():
		return p
	case p.Bits() == 0:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(m.addr(p.Addr()), p.Bits()+96)
}

func (m mapper) addrs(in []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		out = append(out, m.addr(a))
	}
	return out
}

func (m mapper) prefixes(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		out = append(out, m.prefix(p))
	}
	return out
}

func (m mapper) addrPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(m.addr(a.Addr()), a.Port())
}

func (t *table) build(n node, m mapper) (Case, error) {
	c := Case{Node: n.model(m), Addresses: m.addrs(n.Addresses)}
	for _, s := range t.Services {
		svc, err := s.model(m, n.Hostname)
		if err != nil {
			return c, fmt.Errorf("service %s: %w", s.Name, err)
		}
		c.Services = append(c.Services, svc)
	}
	for _, f := range t.Flows {
		flow, err := f.model(n, m, c.Addresses)
		if err != nil {
			return c, fmt.Errorf("flow from %s to %s: %w", f.From, f.To, err)
		}
		c.Flows = append(c.Flows, flow)
	}
	return c, nil
}

// want splits a result, the masquerading of which stands beside it.
func want(result, masquerade string, source netip.Addr, m mapper) (l4.Action, []l4.Candidate, error) {
	for _, a := range []l4.Action{l4.Pass, l4.Rejected, l4.Dropped} {
		if result == a.String() {
			return a, nil, nil
		}
	}
	var list []l4.Candidate
	for _, field := range strings.Fields(result) {
		a, err := netip.ParseAddrPort(field)
		if err != nil {
			return 0, nil, fmt.Errorf("result %q is neither pass, reject, drop nor a list of endpoints", result)
		}
		c := l4.Candidate{Address: m.addrPort(a)}
		switch masquerade {
		case "yes":
			c.Masquerade = true
		case "hairpin":
			c.Masquerade = c.Address.Addr() == source
		case "no", "":
		default:
			return 0, nil, fmt.Errorf(`masquerade %q is not "yes", "no" or "hairpin"`, masquerade)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b l4.Candidate) int { return a.Address.Compare(b.Address) })
	return l4.Forward, list, nil
}
