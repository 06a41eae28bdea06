package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrRefused is wrapped by every error of DialPolicy.Check.
var ErrRefused = errors.New("address refused")

// DialPolicy says which addresses may never be backends. Whoever can write an
// EndpointSlice or answer for a DNS name chooses where this process connects
// to; without the policy that reaches the node's metadata service, the
// listeners on loopback, and ourselves. The zero value is the strict policy of
// a cluster. Safe for concurrent use.
type DialPolicy struct {
	// AllowLoopback lets 127.0.0.0/8 and ::1 pass, for backends on a
	// developer's machine.
	AllowLoopback bool
	// Listeners are the addresses we listen on; none of them may be dialled.
	// An unspecified address stands for loopback and every address in Local.
	Listeners []netip.AddrPort
	// Local are the addresses of this host, see LocalAddrs.
	Local []netip.Addr
}

// LocalAddrs returns the addresses of this host's interfaces.
func LocalAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// Check returns an error that wraps ErrRefused and says why if ap must not be
// dialled. Addresses that carry an IPv4 address inside (v4-mapped, NAT64,
// 6to4) are judged by that one as well.
func (p DialPolicy) Check(ap netip.AddrPort) error {
	addr := ap.Addr()
	switch {
	case !addr.IsValid() || ap.Port() == 0:
		return fmt.Errorf("%w: %s has no address or no port", ErrRefused, ap)
	case addr.Zone() != "":
		return fmt.Errorf("%w: %s is bound to an interface", ErrRefused, addr)
	}
	for a := addr.Unmap(); ; {
		if why := p.forbidden(a, ap.Port()); why != "" {
			return fmt.Errorf("%w: %s is %s", ErrRefused, addr, why)
		}
		inner, ok := embedded(a)
		if !ok {
			return nil
		}
		a = inner
	}
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	broadcast   = netip.MustParseAddr("255.255.255.255")
	metadataV6  = netip.MustParseAddr("fd00:ec2::254")
	nat64       = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour   = netip.MustParsePrefix("2002::/16")
	compatible  = netip.MustParsePrefix("::/96")
)

// forbidden says what is wrong with a, or "".
func (p DialPolicy) forbidden(a netip.Addr, port uint16) string {
	switch {
	case a.IsUnspecified() || thisNetwork.Contains(a):
		return "an unspecified address"
	case a.IsLoopback() && !p.AllowLoopback:
		return "a loopback address"
	case a.IsMulticast() || a == broadcast:
		return "a multicast address"
	case a == metadataV6 || a.IsLinkLocalUnicast():
		return "a link-local or metadata address"
	case p.ours(a, port):
		return "one of our own listeners"
	}
	return ""
}

func (p DialPolicy) ours(a netip.Addr, port uint16) bool {
	for _, l := range p.Listeners {
		if l.Port() != port {
			continue
		}
		if l.Addr().Unmap() == a {
			return true
		}
		if l.Addr().IsUnspecified() && (a.IsLoopback() || containsAddr(p.Local, a)) {
			return true
		}
	}
	return false
}

func containsAddr(list []netip.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x.Unmap() == a {
			return true
		}
	}
	return false
}

// embedded returns the IPv4 address that an IPv6 address leads to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() || a.IsLoopback() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), compatible.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
