package view

import (
	"net/netip"
	"strings"
)

// Trust are the proxies in front whose word about the client is taken.
type Trust []netip.Prefix

// Trusts reports whether an address is one of them. IPv4 in IPv6 counts as
// IPv4.
func (t Trust) Trusts(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Identify sets the client's address and the scheme that it used, from the
// connection and, where its peer is trusted, from X-Forwarded-For and
// X-Forwarded-Proto. It reports whether the peer is trusted.
func (t Trust) Identify(r *Request) (trusted bool) {
	peer := r.Conn.Peer.Addr()
	r.Client = peer.Unmap()
	r.Scheme = "http"
	if r.Conn.TLS != nil {
		r.Scheme = "https"
	}
	if !t.Trusts(peer) {
		return false
	}
	r.Client = t.client(r)
	for said := range r.Fields.Tokens("X-Forwarded-Proto") {
		switch {
		case strings.EqualFold(said, "https"):
			r.Scheme = "https"
		case strings.EqualFold(said, "http"):
			r.Scheme = "http"
		}
		break // the first is what the client used
	}
	return true
}

// client walks X-Forwarded-For from its end, where the nearest proxy wrote, to
// the first address that is not trusted. What is left of that, or of something
// that is not an address, is hearsay.
func (t Trust) client(r *Request) netip.Addr {
	var said []string
	for s := range r.Fields.Tokens("X-Forwarded-For") {
		said = append(said, s)
	}
	client := r.Conn.Peer.Addr().Unmap()
	for i := len(said) - 1; i >= 0; i-- {
		a, ok := parseClient(said[i])
		if !ok {
			break
		}
		client = a
		if !t.Trusts(a) {
			break
		}
	}
	return client
}

// parseClient reads an address with or without a port.
func parseClient(s string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil
}
