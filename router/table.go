package router

import (
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
