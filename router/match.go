package router

import "github.com/portico-ingress/portico/router/view"

// Match decides where a request goes. It reads Host and Path, is safe for
// concurrent use and does not allocate; its cost does not grow with the number
// of hosts.
//
// The most specific host is chosen first and is final: exact, else one-label
// wildcard, else the rules without host. Within it the longest path wins, Exact
// before Prefix; if none matches, the default backend of the oldest Ingress
// that names the host; else the global default. A known host never falls
// through to the rules without host.
func (t *Table) Match(r *view.Request) Decision {
	h := t.lookup(r.Host)
	d := Decision{TLS: t.hasTLS(r.Host)}
	if h != nil {
		d.Host = h.name
		if d.Route = h.match(r.Path); d.Route != nil {
			d.Outcome = ByPath
			return d
		}
		if d.Route = h.fallback; d.Route != nil {
			d.Outcome = ByHostDefault
			return d
		}
	}
	if d.Route = t.global; d.Route != nil {
		d.Outcome = ByGlobal
	}
	return d
}

// lookup returns the entry that takes a host's requests, nil if none does.
func (t *Table) lookup(name string) *host {
	if h := t.hosts[name]; h != nil && h.routed {
		return h
	}
	if h := t.wildcardFor(name); h != nil && h.routed {
		return h
	}
	if h := t.hosts[""]; h != nil && h.routed {
		return h
	}
	return nil
}

func (t *Table) wildcardFor(name string) *host {
	if suffix := view.WildcardOf(name); suffix != "" {
		return t.wildcards[suffix]
	}
	return nil
}

// hasTLS reports whether spec.tls names the host, or a wildcard of the
// namespace that owns it does.
func (t *Table) hasTLS(name string) bool {
	h, wild := t.hosts[name], t.wildcardFor(name)
	switch {
	case h != nil && h.tls != nil:
		return true
	case wild == nil || wild.tls == nil:
		return false
	}
	return h == nil || h.owner.Ref.Namespace == wild.owner.Ref.Namespace
}

// match finds the longest path. An Exact path that matches is the whole
// request path, so no prefix is longer.
func (h *host) match(path string) *Route {
	if r := h.exact[path]; r != nil {
		return r
	}
	r, _ := h.prefix.Longest(path)
	return r
}
