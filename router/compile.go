package router

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/internal/trie"
)

// Reasons of the problems that compilation finds.
const (
	ReasonPathConflict       diag.Reason = "PathConflict"
	ReasonHostShared         diag.Reason = "HostShared"
	ReasonHostRefused        diag.Reason = "HostRefused"
	ReasonCertificateRefused diag.Reason = "CertificateRefused"
	ReasonTLSConflict        diag.Reason = "TLSConflict"
	ReasonCatchAll           diag.Reason = "CatchAll"
	ReasonCatchAllRefused    diag.Reason = "CatchAllRefused"
	ReasonDefaultConflict    diag.Reason = "DefaultBackendConflict"
)

// host is one entry of the table. Never written after compilation.
type host struct {
	name   string
	owner  Origin // the oldest Ingress that names the host
	routed bool   // a rule names it; else only spec.tls does
	exact  map[string]*Route
	prefix trie.Trie[*Route]
	// routes holds every path in order of precedence: longest first, Exact
	// before Prefix.
	routes []*Route
	// fallback is the default backend of the oldest Ingress that names the
	// host and has one; nil if none has.
	fallback *Route
	tls      *TLSClaim // nil: no Ingress of the owner's namespace asks for TLS
}

func (h *host) defaultRoutes() []*Route { return routeList(h.fallback) }

func routeList(r *Route) []*Route {
	if r == nil {
		return nil
	}
	return []*Route{r}
}

// hostCompiler collects one host and the problems found on the way.
type hostCompiler struct {
	opts     Options
	host     *host
	problems []diag.Problem
	prefixes map[string]*Route // canonical prefixes without trailing slash
}

// compileHost settles one host. The claims are sorted, oldest first, so the
// first to ask for something gets it.
func compileHost(opts Options, name string, claims []*Ingress) *hostCompiler {
	c := &hostCompiler{
		opts:     opts,
		host:     &host{name: name, owner: claims[0].Origin, exact: map[string]*Route{}},
		prefixes: map[string]*Route{},
	}
	for _, ing := range claims {
		c.addTLS(ing)
		if c.admit(ing) {
			c.addRules(ing)
			c.addDefault(ing)
		}
	}
	slices.SortFunc(c.host.routes, byPrecedence)
	c.problems = diag.Sort(c.problems)
	return c
}

// byPrecedence orders paths as a match tries them.
func byPrecedence(a, b *Route) int {
	return cmp.Or(
		cmp.Compare(len(b.matchPath()), len(a.matchPath())),
		cmp.Compare(b.Type, a.Type), // Exact first
		strings.Compare(a.matchPath(), b.matchPath()),
	)
}

// matchPath is the path as its length counts: a prefix without its trailing
// slash.
func (r *Route) matchPath() string {
	if r.Type == Exact {
		return r.Path
	}
	return strings.TrimSuffix(r.Path, "/")
}

// admit decides whether an Ingress may add paths to this host, and reports
// what its owner should know.
func (c *hostCompiler) admit(ing *Ingress) bool {
	field, names := namesInRule(ing, c.host.name)
	if c.host.name == "" {
		return c.admitCatchAll(ing, field)
	}
	if ing.Origin.Ref.Namespace == c.host.owner.Ref.Namespace || !names {
		return ing.Origin.Ref.Namespace == c.host.owner.Ref.Namespace
	}
	if c.opts.StrictHosts {
		c.report(ing, field, ReasonHostRefused,
			fmt.Sprintf("host %s belongs to namespace %s: Ingress %s named it first, and --host-ownership=strict refuses paths from other namespaces",
				c.host.name, c.host.owner.Ref.Namespace, c.host.owner.Name()),
			"Use another host, or move the Ingress into that namespace")
		return false
	}
	c.report(ing, field, ReasonHostShared,
		fmt.Sprintf("host %s belongs to namespace %s: Ingress %s named it first; these paths are merged into it",
			c.host.name, c.host.owner.Ref.Namespace, c.host.owner.Name()),
		"If that is not intended use another host; --host-ownership=strict refuses such paths")
	return true
}

func (c *hostCompiler) admitCatchAll(ing *Ingress, field string) bool {
	p, ok := catchAll(c.opts, ing, field, "a rule without host")
	c.problems = append(c.problems, p)
	return ok
}

// catchAll judges an Ingress that serves hosts which no rule names.
func catchAll(opts Options, ing *Ingress, field, what string) (diag.Problem, bool) {
	p := diag.Problem{Object: ing.Origin.Ref, Generation: ing.Origin.Generation, Field: field}
	if opts.CatchAll != nil && !opts.CatchAll(ing.Origin.Ref.Namespace) {
		p.Reason = ReasonCatchAllRefused
		p.Message = fmt.Sprintf("%s serves every host that no other rule names, and namespace %s is not in --catch-all-namespaces", what, ing.Origin.Ref.Namespace)
		p.Remedy = "Name the host in the rule, or have the namespace added to --catch-all-namespaces"
		return p, false
	}
	p.Reason = ReasonCatchAll
	p.Message = what + " serves every host that no other rule names, in all namespaces"
	p.Remedy = "Name the host in the rule if that is not intended; --catch-all-namespaces restricts who may do this"
	return p, true
}

func namesInRule(ing *Ingress, host string) (field string, ok bool) {
	for _, r := range ing.Rules {
		if r.Host == host {
			return r.Field + ".host", true
		}
	}
	return "", false
}

func (c *hostCompiler) addRules(ing *Ingress) {
	for _, rule := range ing.Rules {
		if rule.Host != c.host.name {
			continue
		}
		c.host.routed = true
		for _, p := range rule.Paths {
			c.addPath(ing, p)
		}
	}
}

func (c *hostCompiler) addPath(ing *Ingress, p Path) {
	r := newRoute(ing, c.host.name, p.Field, p.Backend)
	r.Path, r.Type = p.Path, p.Type
	index, key := c.prefixes, r.matchPath()
	if p.Type == Exact {
		index = c.host.exact
	}
	if winner := index[key]; winner != nil {
		c.reportPathConflict(ing, r, winner)
		return
	}
	index[key] = r
	if p.Type == Prefix {
		c.host.prefix.Insert(r.Path, r)
	}
	c.host.routes = append(c.host.routes, r)
}

func (c *hostCompiler) reportPathConflict(ing *Ingress, loser, winner *Route) {
	if loser.Ingress == winner.Ingress && loser.Backend == winner.Backend {
		return // the same thing said twice
	}
	who := "Ingress " + winner.Ingress + ", which is older"
	if loser.Ingress == winner.Ingress {
		who = "an earlier path of the same Ingress"
	} else if loser.Origin.Created == winner.Origin.Created {
		who = "Ingress " + winner.Ingress + ", which is as old and comes first by name"
	}
	c.report(ing, loser.Field+".path", ReasonPathConflict,
		fmt.Sprintf("%s %s is taken by %s (%s): both would match a request for http://%s%s, and it goes to %s",
			loser.Type, loser.Path, who, winner.Field, exampleHost(c.host.name), loser.Path, winner.Backend),
		"Remove one of the two, or give this one another host or path")
}

// exampleHost is a host that an entry matches, to be shown to people.
func exampleHost(name string) string {
	if name == "" {
		return "any-other-host"
	}
	if suffix := wildcardSuffix(name); suffix != "" {
		return "any" + suffix
	}
	return name
}

func (c *hostCompiler) addDefault(ing *Ingress) {
	if ing.Default == nil || c.host.fallback != nil {
		return
	}
	c.host.fallback = newRoute(ing, c.host.name, ing.Default.Field, ing.Default.Backend)
}

// addTLS settles which Secret the host's certificate comes from: the first
// that an Ingress of the owner's namespace names. A certificate from another
// namespace is never served for the host.
func (c *hostCompiler) addTLS(ing *Ingress) {
	if c.host.name == "" {
		return
	}
	for _, t := range ing.TLS {
		i := slices.Index(t.Hosts, c.host.name)
		switch {
		case i < 0:
		case ing.Origin.Ref.Namespace != c.host.owner.Ref.Namespace:
			c.report(ing, t.Field, ReasonCertificateRefused,
				fmt.Sprintf("host %s belongs to namespace %s: Ingress %s named it first; a certificate of namespace %s is not served for it",
					c.host.name, c.host.owner.Ref.Namespace, c.host.owner.Name(), ing.Origin.Ref.Namespace),
				"Take the host out of spec.tls, or move the Ingress and its Secret into that namespace")
		case c.host.tls == nil:
			c.host.tls = &TLSClaim{Origin: ing.Origin, Field: t.Field, Secret: t.Secret}
		case c.host.tls.Secret != t.Secret:
			c.report(ing, t.Field, ReasonTLSConflict,
				fmt.Sprintf("host %s has its certificate from %s of Ingress %s already", c.host.name, secretName(c.host.tls.Secret), c.host.tls.Origin.Name()),
				"Name the same Secret in both, or take the host out of one of them")
		}
	}
}

func secretName(name string) string {
	if name == "" {
		return "the default certificate"
	}
	return "Secret " + name
}

func (c *hostCompiler) report(ing *Ingress, field string, reason diag.Reason, message, remedy string) {
	c.problems = append(c.problems, diag.Problem{
		Object: ing.Origin.Ref, Generation: ing.Origin.Generation,
		Field: field, Reason: reason, Message: message, Remedy: remedy,
	})
}

// compileGlobal settles where requests go that nothing else takes. candidates
// are sorted, oldest first.
func compileGlobal(opts Options, candidates []*Ingress) (*Route, []diag.Problem) {
	var winner *Route
	var problems []diag.Problem
	for _, ing := range candidates {
		p, ok := catchAll(opts, ing, ing.Default.Field, "a default backend without rules")
		if ok && winner != nil {
			p.Reason = ReasonDefaultConflict
			p.Message = fmt.Sprintf("Ingress %s is the default backend of all hosts already and takes http://%s/", winner.Ingress, exampleHost(""))
			p.Remedy = "Remove one of the two, or give this one rules with hosts"
		}
		problems = append(problems, p)
		if ok && winner == nil {
			winner = newRoute(ing, "", ing.Default.Field, ing.Default.Backend)
		}
	}
	if winner == nil && opts.Default != nil {
		winner = newRoute(&Ingress{}, "", "--default-backend-service", *opts.Default)
		winner.Ingress = ""
	}
	return winner, problems
}

func newRoute(ing *Ingress, host, field string, b Backend) *Route {
	return &Route{
		Origin: ing.Origin, Field: field, Host: host, Backend: b, Policy: ing.Policy,
		Ingress: ing.Origin.Name(), Service: b.Namespace + "/" + b.Service,
	}
}
