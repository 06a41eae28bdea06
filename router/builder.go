package router

import (
	"maps"
	"reflect"
	"slices"
)

// Builder keeps what every Ingress asks for and the hosts compiled from it, so
// that a change recompiles only the hosts it touches. It has one owner: it is
// not safe for concurrent use. The tables that it builds are.
type Builder struct {
	opts       Options
	generation uint64
	ingresses  map[Key]*Ingress
	// claims lists, for every host, the Ingresses that name it in a rule or
	// in spec.tls, oldest first.
	claims map[string][]*Ingress
	// global lists the Ingresses with a default backend and no rules, oldest
	// first.
	global []*Ingress
	pools  pools
	table  *Table // the last one built

	// dirty hosts and dirtyGlobal wait for the next Build.
	dirty       map[string]struct{}
	dirtyGlobal bool
}

// NewBuilder returns a Builder without Ingresses.
func NewBuilder(opts Options) *Builder {
	return &Builder{
		opts:        opts,
		ingresses:   map[Key]*Ingress{},
		claims:      map[string][]*Ingress{},
		pools:       newPools(),
		table:       emptyTable(),
		dirty:       map[string]struct{}{},
		dirtyGlobal: true, // for Options.Default
	}
}

// Compile builds the table of a whole set of Ingresses at once.
func Compile(opts Options, ingresses []*Ingress) *Table {
	b := NewBuilder(opts)
	for _, ing := range ingresses {
		b.Set(ing)
	}
	t, _ := b.Build()
	return t
}

// Set adds an Ingress or replaces the one of the same key. The Builder keeps
// it; the caller must not write to it any more.
func (b *Builder) Set(ing *Ingress) {
	old := b.ingresses[ing.Key()]
	if old != nil && reflect.DeepEqual(old, ing) {
		return
	}
	b.Delete(ing.Key())
	b.ingresses[ing.Key()] = ing
	for _, host := range hostsOf(ing) {
		b.claims[host] = insert(b.claims[host], ing)
		b.dirty[host] = struct{}{}
	}
	if isGlobal(ing) {
		b.global = insert(b.global, ing)
		b.dirtyGlobal = true
	}
}

// Delete removes an Ingress, if it is there.
func (b *Builder) Delete(k Key) {
	ing := b.ingresses[k]
	if ing == nil {
		return
	}
	delete(b.ingresses, k)
	for _, host := range hostsOf(ing) {
		if b.claims[host] = remove(b.claims[host], ing); len(b.claims[host]) == 0 {
			delete(b.claims, host)
		}
		b.dirty[host] = struct{}{}
	}
	if isGlobal(ing) {
		b.global = remove(b.global, ing)
		b.dirtyGlobal = true
	}
}

// Get returns the Ingress of that key, or nil.
func (b *Builder) Get(k Key) *Ingress { return b.ingresses[k] }

// Keys returns the keys of all Ingresses, in no order.
func (b *Builder) Keys() []Key { return slices.Collect(maps.Keys(b.ingresses)) }

// Dirty reports whether Build would make a new table.
func (b *Builder) Dirty() bool { return len(b.dirty) > 0 || b.dirtyGlobal }

// Build returns the table of what was set, and the hosts that were recompiled
// for it, sorted. Without a change it returns the last table again. Its cost is
// the work on the changed hosts plus the copy of a map with one pointer a host.
func (b *Builder) Build() (t *Table, changed []string) {
	if !b.Dirty() {
		return b.table, nil
	}
	b.generation++
	next := b.table.clone(b.generation)
	changed = slices.Sorted(maps.Keys(b.dirty))
	for _, host := range changed {
		b.replaceHost(next, host)
	}
	if b.dirtyGlobal {
		b.compileGlobal(next)
	}
	next.backends = b.pools.list()
	b.dirty, b.dirtyGlobal, b.table = map[string]struct{}{}, false, next
	return next, changed
}

// replaceHost compiles one host into next. Pools of the new routes are taken
// before those of the old are given back, so that a pool in both keeps its
// index.
func (b *Builder) replaceHost(next *Table, name string) {
	old := next.hosts[name]
	delete(next.problems, name)
	delete(next.hosts, name)
	delete(next.wildcards, wildcardSuffix(name))
	if claims := b.claims[name]; len(claims) > 0 {
		c := compileHost(b.opts, name, claims)
		b.take(c.host.routes)
		b.take(c.host.defaultRoutes())
		next.hosts[name] = c.host
		if suffix := wildcardSuffix(name); suffix != "" {
			next.wildcards[suffix] = c.host
		}
		if len(c.problems) > 0 {
			next.problems[name] = c.problems
		}
	}
	if old != nil {
		b.giveBack(old.routes)
		b.giveBack(old.defaultRoutes())
	}
}

// compileGlobal settles the default backend for what nothing else takes.
func (b *Builder) compileGlobal(next *Table) {
	old := next.global
	next.global, next.globalProblems = compileGlobal(b.opts, b.global)
	b.take(routeList(next.global))
	b.giveBack(routeList(old))
}

func (b *Builder) take(routes []*Route) {
	for _, r := range routes {
		r.Pool = b.pools.take(r.Backend)
	}
}

func (b *Builder) giveBack(routes []*Route) {
	for _, r := range routes {
		b.pools.giveBack(r.Backend)
	}
}

// hostsOf returns every host that an Ingress names, in a rule or in spec.tls,
// each once.
func hostsOf(ing *Ingress) []string {
	var hosts []string
	for _, r := range ing.Rules {
		hosts = append(hosts, r.Host)
	}
	for _, t := range ing.TLS {
		hosts = append(hosts, t.Hosts...)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func isGlobal(ing *Ingress) bool { return ing.Default != nil && len(ing.Rules) == 0 }

func compareIngress(a, b *Ingress) int { return a.Origin.Compare(b.Origin) }

func insert(list []*Ingress, ing *Ingress) []*Ingress {
	i, _ := slices.BinarySearchFunc(list, ing, compareIngress)
	return slices.Insert(list, i, ing)
}

func remove(list []*Ingress, ing *Ingress) []*Ingress {
	return slices.DeleteFunc(list, func(e *Ingress) bool { return e == ing })
}

// pools gives every backend that routes lead to a small index, and takes the
// index back when the last route is gone.
type pools struct {
	slots map[Backend]*slot
	byID  []Backend
	free  []int
	dirty bool
	view  []Backend // what the last table got; shared while nothing changes
}

type slot struct{ id, refs int }

func newPools() pools { return pools{slots: map[Backend]*slot{}} }

func (p *pools) take(b Backend) int {
	s := p.slots[b]
	if s == nil {
		s = &slot{id: len(p.byID)}
		if n := len(p.free); n > 0 {
			s.id, p.free = p.free[n-1], p.free[:n-1]
			p.byID[s.id] = b
		} else {
			p.byID = append(p.byID, b)
		}
		p.slots[b] = s
		p.dirty = true
	}
	s.refs++
	return s.id
}

func (p *pools) giveBack(b Backend) {
	s := p.slots[b]
	if s.refs--; s.refs == 0 {
		delete(p.slots, b)
		p.byID[s.id] = Backend{}
		p.free = append(p.free, s.id)
		p.dirty = true
	}
}

func (p *pools) list() []Backend {
	if p.dirty {
		p.view, p.dirty = slices.Clone(p.byID), false
	}
	return p.view
}

// wildcardSuffix returns ".example.com" for "*.example.com", else "".
func wildcardSuffix(host string) string {
	if len(host) > 2 && host[0] == '*' && host[1] == '.' {
		return host[1:]
	}
	return ""
}
