package router

import (
	"maps"
	"slices"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
)

// Route is one way a request may go: a path of a rule, or a default backend.
// Never written after compilation.
type Route struct {
	Origin  Origin
	Field   string // field of the Ingress, "spec.rules[0].http.paths[1]"
	Host    string // host of the rule; "" for host-less rules and global defaults
	Path    string // canonical; "" for a default backend
	Type    PathType
	Backend Backend
	// Pool is the index of the backend's pool in the snapshot that the table
	// was published with.
	Pool   int
	Policy policy.Policy
	// Ingress and Service are "namespace/name", made once for logs and
	// metrics. Ingress is empty for --default-backend-service.
	Ingress string
	Service string
}

// Outcome is which rule of precedence ended the search.
type Outcome uint8

// The outcomes of a match, most specific first.
const (
	NoRoute       Outcome = iota // nothing takes the request: 404
	ByPath                       // a path under the chosen host
	ByHostDefault                // the default backend of an Ingress that names the host
	ByGlobal                     // the global default backend
	NoTable                      // nothing has been published yet: 503
)

// Decision is the full result of matching one request.
type Decision struct {
	Outcome Outcome
	// Route is nil exactly with NoRoute.
	Route *Route
	// Host is the entry of the table that was chosen: an exact host, a
	// wildcard, or "" for host-less rules and unknown hosts.
	Host string
	// TLS tells that the request's host is named in spec.tls (itself or by a
	// wildcard of its namespace), so plaintext requests may be redirected.
	TLS bool
	// TLSPolicy is the TLS policy of the request's host, to be compared with
	// the connection's.
	TLSPolicy string
}

// TLSClaim says where a host's certificate comes from.
type TLSClaim struct {
	Origin Origin // the Ingress whose spec.tls entry won
	Field  string
	// Secret is the name in the Origin's namespace; empty: the default
	// certificate.
	Secret string
}

// Table is a compiled, immutable routing table. Safe for concurrent use.
type Table struct {
	generation uint64
	hosts      map[string]*host // by name: exact, "*.suffix" and "" for host-less rules
	// wildcards has the hosts "*.example.com" again under ".example.com", so
	// that a lookup needs no new string.
	wildcards      map[string]*host
	global         *Route
	backends       []Backend
	problems       map[string][]diag.Problem // by host
	globalProblems []diag.Problem
}

func emptyTable() *Table {
	return &Table{hosts: map[string]*host{}, wildcards: map[string]*host{}, problems: map[string][]diag.Problem{}}
}

// clone copies the maps, not the hosts.
func (t *Table) clone(generation uint64) *Table {
	next := *t
	next.generation = generation
	next.hosts = maps.Clone(t.hosts)
	next.wildcards = maps.Clone(t.wildcards)
	next.problems = maps.Clone(t.problems)
	return &next
}

// Generation counts the tables of one Builder; it never goes back.
func (t *Table) Generation() uint64 { return t.generation }

// Backends returns the pool that each Route.Pool stands for; unused indexes
// hold the zero Backend. The caller must not write to it.
func (t *Table) Backends() []Backend { return t.backends }

// Problems returns what compilation found, sorted.
func (t *Table) Problems() []diag.Problem {
	all := slices.Clone(t.globalProblems)
	for _, ps := range t.problems {
		all = append(all, ps...)
	}
	return diag.Sort(all)
}
