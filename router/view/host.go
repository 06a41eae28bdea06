package view

import (
	"errors"
	"net/netip"
	"strings"
)

// Errors of CanonicalHost.
var (
	errHostSyntax = errors.New("host is not a valid name, IPv4 address or bracketed IPv6 address")
	errHostPort   = errors.New("port of the host is not a number from 0 to 65535")
)

// maxHost is the longest host name that DNS can carry (RFC 1035 §2.3.4), with
// room for the trailing dot.
const maxHost = 254

// CanonicalHost returns the one form in which hosts are compared: lower case,
// without port and without one trailing dot, an IPv6 literal in brackets and in
// its canonical text (RFC 5952). An empty authority is valid and gives "".
//
// It accepts what RFC 3986 §3.2.2 calls reg-name, restricted to letters,
// digits, "-", "." and "_": percent-encoding, user information and other
// delimiters have no honest use in a Host field and are refused. It does not
// allocate unless the host has upper-case letters or is an IPv6 literal.
func CanonicalHost(authority string) (string, error) {
	if authority == "" {
		return "", nil
	}
	if authority[0] == '[' {
		return canonicalIPv6(authority)
	}
	host, port, hasPort := strings.Cut(authority, ":")
	if hasPort && !validPort(port) {
		return "", errHostPort
	}
	if len(host) > maxHost {
		return "", errHostSyntax
	}
	host = strings.TrimSuffix(host, ".")
	upper := false
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '.' && i > 0 && host[i-1] != '.':
		default:
			return "", errHostSyntax
		}
	}
	if host == "" || host[len(host)-1] == '.' {
		return "", errHostSyntax
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, nil
}

func canonicalIPv6(authority string) (string, error) {
	end := strings.IndexByte(authority, ']')
	if end < 0 {
		return "", errHostSyntax
	}
	if rest := authority[end+1:]; rest != "" && (rest[0] != ':' || !validPort(rest[1:])) {
		return "", errHostPort
	}
	addr, err := netip.ParseAddr(authority[1:end])
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", errHostSyntax
	}
	return "[" + addr.String() + "]", nil
}

// validPort accepts RFC 3986's *DIGIT, bounded: the empty port is legal.
func validPort(port string) bool {
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
		if n = n*10 + int(port[i]-'0'); n > 65535 {
			return false
		}
	}
	return true
}

// WildcardOf returns the one-label wildcard that would cover a canonical host:
// "*.example.com" covers "shop.example.com", neither "example.com" nor
// "a.shop.example.com". It returns the suffix behind the star (".example.com"),
// so that callers can look it up without building a string; "" if the host has
// no label to replace.
func WildcardOf(host string) (suffix string) {
	if i := strings.IndexByte(host, '.'); i > 0 && host[0] != '[' {
		return host[i:]
	}
	return ""
}
