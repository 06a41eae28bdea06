package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is the endpoints behind one Service port. It lives as long as its
// Registry keeps it; its endpoints change underneath. Safe for concurrent use.
type Pool struct {
	key      Key
	balancer Balancer
	reg      *Registry
	budget   retryBudget
	spilled  atomic.Uint64 // requests that went elsewhere than the balancer wanted
	ejecting sync.Mutex    // held while an endpoint is taken out of the balance
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
// choice, none that refused a connection moments ago or has failed again and
// again, or has no room. Nil if none is left.
func (p *Pool) Pick(tried ...*Target) *Target { return p.pick(p.live.Load(), tried) }

func (p *Pool) pick(l *live, tried []*Target) *Target {
	n := len(l.targets)
	if n == 0 {
		return nil
	}
	first := l.targets[p.balancer.Pick(l.targets)]
	if !slices.Contains(tried, first) && first.addr.usable() {
		return first
	}
	return p.pickOther(l.targets, tried, first)
}

// pickOther spreads what cannot go where the balancer wants it over all that are
// good. If none is, one that was not tried will do.
func (p *Pool) pickOther(targets, tried []*Target, first *Target) *Target {
	good, rest := 0, 0
	for _, t := range targets {
		if !slices.Contains(tried, t) {
			rest++
			if t.addr.usable() {
				good++
			}
		}
	}
	if good == 0 && !slices.Contains(tried, first) {
		return first
	}
	if rest == 0 {
		return nil
	}
	choice := good
	if good == 0 {
		choice = rest
	}
	nth := int(p.spilled.Add(1) % uint64(choice))
	for _, t := range targets {
		if slices.Contains(tried, t) || good > 0 && !t.addr.usable() {
			continue
		}
		if nth == 0 {
			return t
		}
		nth--
	}
	if slices.Contains(tried, first) {
		return nil
	}
	return first // what was good is not any more
}

// usable reports whether requests should go there while there is a choice.
func (a *address) usable() bool { return !a.down() && !a.crowded() }

// crowded reports whether as many requests are in flight as may be.
func (a *address) crowded() bool { return a.inFlight.Load() >= int64(a.reg.opts.MaxInFlight) }

// down reports whether the last dial failed within the past few seconds, or the
// endpoint is out of the balance.
func (a *address) down() bool {
	until := a.downUntil.Load()
	return until != 0 && time.Now().UnixNano() < until || a.health.out()
}
