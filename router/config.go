// Package router compiles what Ingress objects ask for into an immutable
// routing table, and matches requests against it.
//
// Config is the plain input, one Ingress per object. A Builder keeps the
// compiled hosts and recompiles only those that changed; Compile is a Builder
// used once. A Table has no setter, no clock and no endpoint addresses: the
// same objects always compile to the same table, whatever order they came in.
package router

import (
	"cmp"
	"strings"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
)

// Origin says which object something comes from, and how old that object is.
type Origin struct {
	Ref        diag.Ref
	Generation int64
	// Created is metadata.creationTimestamp in seconds since the epoch, 0 if
	// the object has none (a manifest in a folder).
	Created int64
}

// Compare orders origins by age, then namespace, then name: the order in which
// equal claims are settled. The lesser origin wins.
func (o Origin) Compare(p Origin) int {
	return cmp.Or(
		cmp.Compare(o.Created, p.Created),
		strings.Compare(o.Ref.Namespace, p.Ref.Namespace),
		strings.Compare(o.Ref.Name, p.Ref.Name),
		strings.Compare(o.Ref.UID, p.Ref.UID),
	)
}

// Name returns "namespace/name" of the object.
func (o Origin) Name() string { return o.Ref.Namespace + "/" + o.Ref.Name }

// Key names an Ingress; the unit in which a Builder takes its input.
type Key struct{ Namespace, Name string }

// Backend names the pool a route leads to. It has the fields of upstream.Key
// and converts to it.
type Backend struct {
	Namespace string
	Service   string
	Port      string // decimal number or port name, as the Ingress spells it
}

// String returns "namespace/service:port".
func (b Backend) String() string { return b.Namespace + "/" + b.Service + ":" + b.Port }

// PathType is how a rule's path is compared with a request's.
type PathType uint8

// The path types of the Ingress API. ImplementationSpecific is translated to
// Prefix.
const (
	// Prefix matches element by element; a trailing slash is ignored.
	Prefix PathType = iota
	// Exact matches the whole path, case-sensitively.
	Exact
)

// String returns the name that the Ingress API uses.
func (t PathType) String() string {
	if t == Exact {
		return "Exact"
	}
	return "Prefix"
}

// Ingress is what one Ingress object asks for, translated and valid: hosts are
// canonical, paths are canonical. Once handed to a Builder it is never written.
type Ingress struct {
	Origin  Origin
	Rules   []Rule
	Default *DefaultBackend // nil without spec.defaultBackend
	TLS     []TLS
	Policy  policy.Policy
}

// Rule is one host with its paths.
type Rule struct {
	// Host is canonical; "*.example.com" for a wildcard, "" for every host
	// that no rule names.
	Host  string
	Paths []Path
	Field string // "spec.rules[0]"
}

// Path is one path of a rule and the backend that it leads to.
type Path struct {
	Path    string // canonical, starts with "/"
	Type    PathType
	Backend Backend
	Field   string // "spec.rules[0].http.paths[1]"
}

// DefaultBackend is spec.defaultBackend.
type DefaultBackend struct {
	Backend Backend
	Field   string // "spec.defaultBackend"
}

// TLS is one entry of spec.tls.
type TLS struct {
	// Hosts are canonical; where the entry lists none, the hosts of the
	// Ingress's rules.
	Hosts  []string
	Secret string // name in the Ingress's namespace; empty: the default certificate
	Field  string // "spec.tls[0]"
}

// Key returns the key of the object.
func (i *Ingress) Key() Key { return Key{i.Origin.Ref.Namespace, i.Origin.Ref.Name} }

// Options are the rules of the house that compilation follows. Fixed for the
// life of a Builder.
type Options struct {
	// StrictHosts refuses paths under a host that belongs to another
	// namespace, instead of merging and reporting them.
	StrictHosts bool
	// CatchAll reports whether a namespace may serve hosts that no rule
	// names. Nil: all may.
	CatchAll func(namespace string) bool
	// Default is used where neither a path nor an Ingress's default backend
	// takes the request. Nil: 404.
	Default *Backend
}
