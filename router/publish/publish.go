// Package publish makes one snapshot after the other from what a source
// delivers (the cluster's controllers, or a folder) and serves the newest
// through one atomic pointer.
//
// One goroutine publishes. The first event after quiet is published at once;
// what follows within the interval is gathered, so that a storm of changes
// costs a bounded number of tables and none waits longer than the interval.
package publish

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/certstore"
)

// DefaultInterval is how long changes are gathered after a publish.
const DefaultInterval = 50 * time.Millisecond

// Snapshot is what the engine loads once a request. Never written after it is
// published.
type Snapshot struct {
	Table *router.Table
	// Pools has the pool of every Route.Pool.
	Pools      []*upstream.Pool
	Generation uint64
	Published  time.Time
}

// Stats say what one publish did.
type Stats struct {
	Hosts   int           // hosts recompiled
	Compile time.Duration // time spent compiling
	Latency time.Duration // from the oldest change gathered to the served table
}

// Entry is one translated Ingress and what translation found.
type Entry struct {
	Ingress  *router.Ingress
	Problems []diag.Problem
}

// Options configure a Publisher. Registry and Certs are required.
type Options struct {
	Router   router.Options
	Registry *upstream.Registry
	Certs    *certstore.Store
	// Interval bounds how often tables are published; 0: DefaultInterval.
	Interval time.Duration
	Log      logr.Logger
	// OnPublish is called by the publisher goroutine after each publish; may
	// be nil.
	OnPublish func(*Snapshot, Stats)
}

// Publisher gathers translated Ingresses and publishes tables. Its methods are
// safe for concurrent use.
type Publisher struct {
	opts     Options
	snapshot atomic.Pointer[Snapshot]
	wake     chan struct{} // has room for one: a change is waiting

	// builder is owned by the goroutine of Start.
	builder *router.Builder

	// mu protects the following.
	mu       sync.Mutex
	pending  map[router.Key]*router.Ingress // nil: deleted
	since    time.Time                      // when the oldest pending change came
	released bool
	found    map[router.Key][]diag.Problem // by translation
	sources  map[string][]diag.Problem
	changed  chan struct{}
}

// New returns a Publisher that publishes nothing before Release.
func New(opts Options) *Publisher {
	if opts.Interval == 0 {
		opts.Interval = DefaultInterval
	}
	return &Publisher{
		opts:    opts,
		wake:    make(chan struct{}, 1),
		builder: router.NewBuilder(opts.Router),
		pending: map[router.Key]*router.Ingress{},
		found:   map[router.Key][]diag.Problem{},
		sources: map[string][]diag.Problem{},
		changed: make(chan struct{}),
	}
}

// Set adds or replaces one Ingress. The Publisher keeps it.
func (p *Publisher) Set(ing *router.Ingress, problems []diag.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(ing.Key(), ing, problems)
}

// Delete removes one Ingress and its problems.
func (p *Publisher) Delete(k router.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(k, nil, nil)
}

// Replace makes entries the whole picture: Ingresses that are not in it are
// removed. Equal ones are not compiled again.
func (p *Publisher) Replace(entries []Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := map[router.Key]struct{}{}
	for _, e := range entries {
		keep[e.Ingress.Key()] = struct{}{}
	}
	for k := range p.found {
		if _, ok := keep[k]; !ok {
			p.set(k, nil, nil)
		}
	}
	for _, e := range entries {
		p.set(e.Ingress.Key(), e.Ingress, e.Problems)
	}
}

// set is called with mu held. Every Ingress that was ever set and not deleted
// has an entry in found, empty if nothing is wrong with it.
func (p *Publisher) set(k router.Key, ing *router.Ingress, problems []diag.Problem) {
	if ing == nil {
		delete(p.found, k)
	} else {
		p.found[k] = problems
	}
	if len(p.pending) == 0 {
		p.since = time.Now()
	}
	p.pending[k] = ing
	p.signal()
}

// SetProblems replaces the problems of a source other than a single Ingress:
// manifests that cannot be read, Services, Secrets refused.
func (p *Publisher) SetProblems(source string, ps []diag.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ps = diag.Sort(slices.Clone(ps))
	if slices.Equal(p.sources[source], ps) {
		return
	}
	if p.sources[source] = ps; len(ps) == 0 {
		delete(p.sources, source)
	}
	p.notify()
}

// Release says that the first complete picture has been handed over. From now
// on tables are published; calling it again does nothing.
func (p *Publisher) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return
	}
	p.released, p.since = true, time.Now()
	p.signal()
}

// signal wakes the publisher goroutine.
func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default: // it will see this change too
	}
}

// notify is called with mu held.
func (p *Publisher) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Start publishes until ctx is done. The last snapshot stays served.
func (p *Publisher) Start(ctx context.Context) error {
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	certs := p.opts.Certs.Changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-certs:
			certs = p.opts.Certs.Changed()
			p.mu.Lock()
			p.notify() // the problems of certificates may have changed
			p.mu.Unlock()
			continue
		case <-p.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C: // the interval since the last publish is over
		}
		p.publish()
		quiet.Reset(p.opts.Interval)
	}
}

// NeedLeaderElection tells controller-runtime that every replica publishes.
func (*Publisher) NeedLeaderElection() bool { return false }

// publish compiles what is pending and makes it the served snapshot.
func (p *Publisher) publish() {
	p.mu.Lock()
	released, since := p.released, p.since
	var pending map[router.Key]*router.Ingress
	if released {
		pending, p.pending = p.pending, map[router.Key]*router.Ingress{}
	}
	p.mu.Unlock()
	if !released {
		return
	}
	started := time.Now()
	for k, ing := range pending {
		if ing == nil {
			p.builder.Delete(k)
		} else {
			p.builder.Set(ing)
		}
	}
	if p.snapshot.Load() != nil && !p.builder.Dirty() {
		p.mu.Lock()
		p.notify() // translation may have found other problems in the same routes
		p.mu.Unlock()
		return
	}
	table, changed := p.builder.Build()
	stats := Stats{Hosts: len(changed), Compile: time.Since(started)}
	p.opts.Certs.SetClaims(claims(table, changed))
	snap := &Snapshot{Table: table, Pools: p.poolsFor(table), Generation: table.Generation(), Published: time.Now()}
	p.snapshot.Store(snap)
	stats.Latency = time.Since(since)

	p.opts.Log.V(1).Info("published table", "generation", snap.Generation, "hosts", table.Len(), "recompiled", stats.Hosts)
	if p.opts.OnPublish != nil {
		p.opts.OnPublish(snap, stats)
	}
	p.mu.Lock()
	p.notify()
	p.mu.Unlock()
}

// poolsFor resolves the pool of every backend. What the last table led to
// already is taken from there: a registry keeps the pools of a published table.
func (p *Publisher) poolsFor(t *router.Table) []*upstream.Pool {
	backends := t.Backends()
	var known []router.Backend
	var pools []*upstream.Pool
	if last := p.snapshot.Load(); last != nil {
		known, pools = last.Table.Backends(), last.Pools
		if len(known) == len(backends) && len(known) > 0 && &known[0] == &backends[0] {
			return pools
		}
	}
	out := make([]*upstream.Pool, len(backends))
	for i, b := range backends {
		switch {
		case b == (router.Backend{}):
		case i < len(known) && known[i] == b:
			out[i] = pools[i]
		default:
			out[i] = p.opts.Registry.Pool(upstream.Key(b))
		}
	}
	return out
}

// Claims returns the certificate claims of all hosts of a table.
func Claims(t *router.Table) []certstore.Claim {
	var names []string
	for _, h := range t.Hosts() {
		names = append(names, h.Name)
	}
	set, _ := claims(t, names)
	return set
}

// claims returns the certificate claims of the changed hosts, and the hosts
// that are gone.
func claims(t *router.Table, changed []string) (set []certstore.Claim, removed []string) {
	for _, name := range changed {
		h, ok := t.Host(name)
		switch {
		case name == "":
			continue
		case !ok:
			removed = append(removed, name)
			continue
		}
		c := certstore.Claim{Host: name, Owner: h.Owner.Ref.Namespace}
		if h.TLS != nil {
			c.TLS, c.Field = true, h.TLS.Field
			c.Object, c.Generation = h.TLS.Origin.Ref, h.TLS.Origin.Generation
			if h.TLS.Secret != "" {
				c.Secret = certstore.SecretRef{Namespace: c.Owner, Name: h.TLS.Secret}
			}
		}
		set = append(set, c)
	}
	return set, removed
}

// Snapshot returns the served snapshot, nil before the first.
func (p *Publisher) Snapshot() *Snapshot { return p.snapshot.Load() }

// Match matches a request against the served table and returns the pool that
// the decision leads to: nil without a route. Before the first snapshot the
// outcome is router.NoTable.
func (p *Publisher) Match(r *view.Request) (router.Decision, *upstream.Pool) {
	snap := p.snapshot.Load()
	if snap == nil {
		return router.Decision{Outcome: router.NoTable}, nil
	}
	d := snap.Table.Match(r)
	if d.Route == nil {
		return d, nil
	}
	return d, snap.Pools[d.Route.Pool]
}

// Problems returns everything that is known to be wrong, sorted: found by
// translation, by compilation, with certificates, and by the sources.
func (p *Publisher) Problems() []diag.Problem {
	var all []diag.Problem
	if snap := p.snapshot.Load(); snap != nil { // before that, Secrets may not have been read
		all = append(p.opts.Certs.Problems(), snap.Table.Problems()...)
	}
	p.mu.Lock()
	for _, ps := range p.found {
		all = append(all, ps...)
	}
	for _, ps := range p.sources {
		all = append(all, ps...)
	}
	p.mu.Unlock()
	return diag.Sort(all)
}

// Changed returns a channel that is closed at the next publish or change of
// the problems. Take it before you look.
func (p *Publisher) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}
