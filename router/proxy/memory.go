package proxy

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// memoryEvery is how often the memory in use is looked at: thousands of clients can
// have taken much in a quarter of a second.
const memoryEvery = 50 * time.Millisecond

// MemoryGuard watches what of the memory limit (GOMEMLIMIT) is in use for good:
// what the last collection found alive, and what is not heap. Garbage does not
// count, since the limit has it collected. Safe for concurrent use.
type MemoryGuard struct {
	limit   int64        // const; bytes; math.MaxInt64: none is set
	percent int          // const
	used    func() int64 // const
	over    atomic.Bool  // the last answer
	full    atomic.Bool  // likewise
}

// NewMemoryGuard returns a guard that reports an overload from percent of the
// memory limit on; 0: never.
func NewMemoryGuard(percent int) *MemoryGuard {
	g := &MemoryGuard{limit: debug.SetMemoryLimit(-1), percent: percent, used: memoryInUse}
	if percent <= 0 {
		g.limit = math.MaxInt64
	}
	return g
}

// Overloaded reports whether requests are to be shed.
func (g *MemoryGuard) Overloaded() bool { return g.over.Load() }

// Full reports whether not even connections are to be taken any more: of the memory
// that shedding leaves, less than a third is free.
func (g *MemoryGuard) Full() bool { return g.full.Load() }

// Start watches until ctx ends.
func (g *MemoryGuard) Start(ctx context.Context) error {
	if g.limit == math.MaxInt64 {
		<-ctx.Done()
		return nil
	}
	clock := time.NewTicker(memoryEvery)
	defer clock.Stop()
	for {
		select {
		case <-clock.C:
			g.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look compares. What was too much must fall by some, so that the answers do not
// flutter.
func (g *MemoryGuard) look() {
	used, shed := g.used(), g.limit/100*int64(g.percent)
	if g.over.Load() {
		shed -= shed / 10
	}
	g.over.Store(used >= shed)
	full := g.limit - (g.limit-shed)*3/10
	g.full.Store(used >= full || g.full.Load() && used >= shed)
}

// memoryInUse is what the runtime holds less free and dead heap.
func memoryInUse() int64 {
	samples := [...]metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples[:])
	v := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return v(0) - v(1) - v(2) - v(3) - v(4) + v(5)
}
