// Package policy is the typed behaviour of a route. Values are default, off
// or set; a malformed value is a diag.Problem beside the default, never a
// zero that silently means something.
//
// The table Keys is the single source: the parser, the documentation and the
// hint for an unknown annotation all come from it.
package policy

import (
	"strconv"
	"strings"
)

// Switch is a setting with three values, so that "not said" stays apart from
// "off".
type Switch uint8

// The values of a Switch.
const (
	Default Switch = iota
	Off
	On
)

// Or returns whether s is on, with def for Default.
func (s Switch) Or(def bool) bool {
	if s == Default {
		return def
	}
	return s == On
}

// Policy is what an Ingress asks of its routes beyond host, path and backend.
// The zero value is the default behaviour. A published Policy is never
// written; it is comparable, so that a compile can tell whether it changed.
type Policy struct {
	// SSLRedirect answers plaintext requests for a host with TLS by 308 to
	// https. Default: on.
	SSLRedirect Switch
	// Backend is how the endpoints are spoken to.
	Backend Backend
	// Refuse is why the route must not be served although it matches: the
	// Ingress asks for a protection that is not enforced here, and serving
	// it unprotected would fail open. Empty: serve. The answer is 503.
	Refuse string
}

// String lists what differs from the default, e.g. "ssl-redirect=off".
func (p Policy) String() string {
	var parts []string
	if p.SSLRedirect != Default {
		parts = append(parts, "ssl-redirect="+p.SSLRedirect.String())
	}
	parts = append(parts, p.Backend.text()...)
	if p.Refuse != "" {
		parts = append(parts, "refused="+strconv.Quote(p.Refuse))
	}
	return strings.Join(parts, " ")
}

// String returns "default", "off" or "on".
func (s Switch) String() string { return [...]string{"default", "off", "on"}[s] }
