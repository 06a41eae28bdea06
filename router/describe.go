package router

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Host is one entry of a table, for people and for the certificate store.
type Host struct {
	Name   string // "*.example.com" for a wildcard, "" for rules without host
	Owner  Origin // the oldest Ingress that names it
	Routed bool   // false: only spec.tls names it
	TLS    *TLSClaim
	Routes []*Route // in order of precedence; the caller must not write to them
	// Default is where requests go that no path takes; nil: the global
	// default.
	Default *Route
}

// Host returns one entry by name.
func (t *Table) Host(name string) (Host, bool) {
	h := t.hosts[name]
	if h == nil {
		return Host{}, false
	}
	return h.describe(), true
}

// Hosts returns every entry, sorted by name.
func (t *Table) Hosts() []Host {
	out := make([]Host, 0, len(t.hosts))
	for _, name := range slices.Sorted(maps.Keys(t.hosts)) {
		out = append(out, t.hosts[name].describe())
	}
	return out
}

// Len returns the number of entries.
func (t *Table) Len() int { return len(t.hosts) }

// Global returns the global default, nil if there is none.
func (t *Table) Global() *Route { return t.global }

func (h *host) describe() Host {
	return Host{Name: h.name, Owner: h.owner, Routed: h.routed, TLS: h.tls, Routes: h.routes, Default: h.fallback}
}

// String returns the table's canonical text: equal tables have equal texts.
// Generations and pool indexes, which depend on history, are left out.
func (t *Table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, h := range t.Hosts() {
		fmt.Fprintf(w, "host %s  owner %s%s\n", displayHost(h.Name), h.Owner.Name(), tlsText(h.TLS))
		for _, r := range h.Routes {
			fmt.Fprintf(w, "  %s\t%s\t-> %s\t%s\t%s%s\n", r.Type, r.Path, r.Backend, r.Ingress, r.Field, policyText(r))
		}
		if r := h.Default; r != nil {
			fmt.Fprintf(w, "  default\t\t-> %s\t%s\t%s%s\n", r.Backend, r.Ingress, r.Field, policyText(r))
		}
	}
	if r := t.global; r != nil {
		fmt.Fprintf(w, "default\t\t-> %s\t%s\t%s%s\n", r.Backend, r.Ingress, r.Field, policyText(r))
	}
	_ = w.Flush() // a strings.Builder does not fail
	return b.String()
}

func displayHost(name string) string {
	if name == "" {
		return "(any other)"
	}
	return name
}

func tlsText(c *TLSClaim) string {
	if c == nil {
		return ""
	}
	secret := c.Secret
	if secret == "" {
		secret = "(default certificate)"
	} else {
		secret = c.Origin.Ref.Namespace + "/" + secret
	}
	return fmt.Sprintf("  tls %s (%s %s)", secret, c.Origin.Name(), c.Field)
}

func policyText(r *Route) string {
	if s := r.Policy.String(); s != "" {
		return "\t" + s
	}
	return ""
}
