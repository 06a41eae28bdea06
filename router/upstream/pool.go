package upstream

import (
	"slices"
	"sync/atomic"
	"time"
)

// Pool is the endpoints behind one Service port. It lives as long as its
// Registry keeps it; its endpoints change underneath. Safe for concurrent use.
type Pool struct {
	key      Key
	balancer Balancer
	reg      *Registry
	// live is replaced as a whole by Registry.Set, never nil. A request loads
	// it once, so a change disturbs nobody.
	live atomic.Pointer[live]
}

// live is one state of a pool. Never written once stored.
type live struct {
	state   *State
	targets []*Target // what state.Usable returned
}

// Target is an endpoint that traffic may go to, as one pool sees it.
type Target struct {
	Endpoint Endpoint
	addr     *address // shared by all pools with this endpoint
}

// InFlight returns the number of requests this process has under way at the
// endpoint, from all pools.
func (t *Target) InFlight() int { return int(t.addr.inFlight.Load()) }

// Key returns the name of the pool.
func (p *Pool) Key() Key { return p.key }

// State returns what is known of the endpoints. Must not be written.
func (p *Pool) State() *State { return p.live.Load().state }

// Usable returns how many endpoints traffic may go to now.
func (p *Pool) Usable() int { return len(p.live.Load().targets) }

// Pick chooses an endpoint, but none of those already tried and, if there is a
// choice, none that refused a connection moments ago. Nil if none is left.
func (p *Pool) Pick(tried ...*Target) *Target { return p.pick(p.live.Load(), tried) }

func (p *Pool) pick(l *live, tried []*Target) *Target {
	n := len(l.targets)
	if n == 0 {
		return nil
	}
	first := p.balancer.Pick(l.targets)
	var fallback *Target
	for i := range n {
		t := l.targets[(first+i)%n]
		if slices.Contains(tried, t) {
			continue
		}
		if !t.addr.down() {
			return t
		}
		if fallback == nil {
			fallback = t
		}
	}
	return fallback
}

// down reports whether the last dial failed within the past few seconds.
func (a *address) down() bool {
	until := a.downUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}
