package router

import (
	"fmt"
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// Explanation is a Decision with the way that led to it. It is made by Match
// itself; only the reasons are added.
type Explanation struct {
	Decision Decision
	// Hosts are the entries that were looked for, most specific first, up to
	// the one chosen.
	Hosts []HostStep
	// Paths are the paths under the chosen host in the order of precedence.
	Paths []PathStep
	// Default says what happens, or would happen, where no path matches.
	Default string
}

// HostStep is one entry that was looked for.
type HostStep struct {
	Entry  string // "shop.example", "*.example", "(any other)"
	Chosen bool
	Why    string
}

// PathStep is one candidate.
type PathStep struct {
	Route  *Route
	Chosen bool
	Why    string
}

// Explain matches a request as Match does and says why.
func (t *Table) Explain(r *view.Request) Explanation {
	x := Explanation{Decision: t.Match(r)}
	x.Hosts = t.explainHosts(r.Host)
	if h := t.lookup(r.Host); h != nil {
		for _, c := range h.routes {
			x.Paths = append(x.Paths, PathStep{Route: c, Chosen: c == x.Decision.Route, Why: why(c, x.Decision.Route, r.Path)})
		}
	}
	x.Default = t.explainDefault(r.Host, x.Decision)
	return x
}

func (t *Table) explainHosts(name string) []HostStep {
	chosen := t.lookup(name)
	var steps []HostStep
	add := func(entry string, h *host, found string) (done bool) {
		s := HostStep{Entry: displayHost(entry), Chosen: h != nil && h == chosen, Why: found}
		switch {
		case h == nil:
			s.Why = "no Ingress that is served names it"
		case !h.routed:
			s.Why = fmt.Sprintf("named in spec.tls of Ingress %s only, by no rule", h.owner.Name())
		}
		steps = append(steps, s)
		return s.Chosen
	}
	if name != "" && add(name, t.hosts[name], "exact host; more specific than any wildcard, and final") {
		return steps
	}
	if suffix := view.WildcardOf(name); suffix != "" && add("*"+suffix, t.wildcards[suffix], "wildcard for one label, and final") {
		return steps
	}
	add("", t.hosts[""], "rules without host take every host that no rule names")
	return steps
}

func why(c, winner *Route, path string) string {
	matches := c.matches(path)
	switch {
	case c == winner:
		return "matches; the longest path that does"
	case matches && len(c.matchPath()) == len(winner.matchPath()):
		return "matches too, but Exact goes before Prefix"
	case matches:
		return "matches too, but is shorter"
	case c.Type == Exact:
		return whyNotExact(c.Path, path)
	}
	return fmt.Sprintf("no: %s is not a prefix by whole path elements", c.Path)
}

func whyNotExact(want, path string) string {
	switch {
	case strings.TrimSuffix(want, "/") == strings.TrimSuffix(path, "/"):
		return "no: the trailing slash counts for Exact"
	case strings.EqualFold(want, path):
		return "no: case counts"
	}
	return "no: the path is another"
}

// matches is the definition of a path match, written down literally; tests
// hold it against the index that Match uses.
func (r *Route) matches(path string) bool {
	short := r.matchPath()
	return path == r.Path || r.Type == Prefix && (path == short || strings.HasPrefix(path, short+"/"))
}

func (t *Table) explainDefault(name string, d Decision) string {
	switch d.Outcome {
	case ByPath:
		return "not needed: a path matched"
	case ByHostDefault:
		return fmt.Sprintf("no path matches; %s is the oldest Ingress that names the host and has a default backend", d.Route.Ingress)
	case ByGlobal:
		if d.Route.Ingress == "" {
			return "nothing else takes the request; --default-backend-service does"
		}
		return fmt.Sprintf("nothing else takes the request; %s is the oldest Ingress with a default backend and no rules", d.Route.Ingress)
	}
	if t.lookup(name) != nil {
		return "no path matches, no Ingress that names the host has a default backend, and there is no global default: 404"
	}
	return "no rule takes this host and there is no global default: 404"
}
