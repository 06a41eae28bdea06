package certstore

import (
	"fmt"
	"slices"
	"strings"
)

// Selection is the certificate that a handshake gets, and why that one.
type Selection struct {
	Certificate *Certificate // never nil
	// Entry is the host or wildcard that chose it; empty for the default.
	Entry string
	// Source is where it comes from: "Secret shop/shop-tls" or "self-signed".
	Source string
	// Why says in words why the default certificate was chosen; empty if it
	// was not.
	Why string
}

// Select returns the certificate for a canonical server name. It takes no
// lock. An exact host that Ingresses name takes a wildcard's certificate only
// from its own namespace.
func (s *Store) Select(serverName string) Selection {
	ix := s.index.Load()
	if serverName == "" {
		return ix.fallback("the client named no server (no SNI)")
	}
	exact, known := ix.hosts[serverName]
	if known && exact.tls {
		return ix.selection(serverName, exact)
	}
	i := strings.IndexByte(serverName, '.')
	if i <= 0 {
		return ix.fallback("no spec.tls names the host")
	}
	wild, ok := ix.wildcards[serverName[i:]]
	switch {
	case !ok || !wild.tls:
		return ix.fallback("no spec.tls names the host or its wildcard")
	case known && exact.owner != wild.owner:
		return ix.fallback(fmt.Sprintf("the wildcard's certificate belongs to namespace %s, the host to namespace %s", wild.owner, exact.owner))
	}
	return ix.selection("*"+serverName[i:], wild)
}

func (ix *index) selection(name string, e entry) Selection {
	switch {
	case e.cert != nil && e.cert.Source != "":
		return Selection{Certificate: e.cert, Entry: name, Source: e.cert.Source}
	case e.cert != nil:
		return Selection{Certificate: e.cert, Entry: name, Source: "Secret " + e.ref.String()}
	case e.why != "":
		return ix.fallback(e.why)
	}
	return ix.fallback("spec.tls names no Secret for the host")
}

func (ix *index) fallback(why string) Selection {
	return Selection{Certificate: ix.def, Source: ix.defSource, Why: why}
}

// Served is one host of the index, for people and metrics.
type Served struct {
	Host   string
	Source string
	Why    string // why it is the default certificate; empty if it is not
	*Certificate
}

// List returns what every host with TLS is served, sorted by host. The default
// certificate comes first, under an empty host.
func (s *Store) List() []Served {
	ix := s.index.Load()
	out := []Served{{Source: ix.defSource, Certificate: ix.def}}
	add := func(host string, e entry) {
		if e.tls {
			sel := ix.selection(host, e)
			out = append(out, Served{Host: host, Source: sel.Source, Why: sel.Why, Certificate: sel.Certificate})
		}
	}
	for host, e := range ix.hosts {
		add(host, e)
	}
	for suffix, e := range ix.wildcards {
		add("*"+suffix, e)
	}
	slices.SortFunc(out, func(a, b Served) int { return strings.Compare(a.Host, b.Host) })
	return out
}
