package upstream

import (
	"math/rand/v2"
	"sync/atomic"
)

// RoundRobin gives each target its turn. It starts anywhere, so that many
// replicas that learn of a pool at the same time do not all begin with the same
// endpoint.
type RoundRobin struct {
	next atomic.Uint32
}

// NewRoundRobin returns a RoundRobin.
func NewRoundRobin() Balancer {
	rr := new(RoundRobin)
	rr.next.Store(rand.Uint32())
	return rr
}

// Pick implements Balancer.
func (rr *RoundRobin) Pick(targets []*Target) int {
	return int(rr.next.Add(1) % uint32(len(targets)))
}
