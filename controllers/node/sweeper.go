package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router/l4"
)

// sweeper has UDP flows forgotten that lead to endpoints that are gone. It
// works beside the owner, so that going through flows delays no change.
type sweeper struct {
	conntrack Conntrack // nil: does nothing
	metrics   *Metrics
	log       logr.Logger
	ready     chan struct{} // has one value while there is work

	mu    sync.Mutex // protects the following
	plan  *l4.Plan   // to reconcile with; nil: none
	stale []l4.Stale // to clean after that
}

func newSweeper(c Conntrack, m *Metrics, log logr.Logger) *sweeper {
	return &sweeper{conntrack: c, metrics: m, log: log, ready: make(chan struct{}, 1)}
}

// reconcile asks for all flows to be held against a plan. What was asked for
// before is in it.
func (s *sweeper) reconcile(p *l4.Plan) {
	if s.conntrack == nil {
		return
	}
	s.mu.Lock()
	s.plan, s.stale = p, nil
	s.mu.Unlock()
	s.wake()
}

// clean asks for flows to be forgotten.
func (s *sweeper) clean(stale []l4.Stale) {
	if s.conntrack == nil || len(stale) == 0 {
		return
	}
	s.mu.Lock()
	s.stale = append(s.stale, stale...)
	s.mu.Unlock()
	s.wake()
}

func (s *sweeper) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *sweeper) run(ctx context.Context) {
	for {
		select {
		case <-s.ready:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		plan, stale := s.plan, s.stale
		s.plan, s.stale = nil, nil
		s.mu.Unlock()
		s.sweep(ctx, plan, stale)
	}
}

// sweep goes through the flows of each family by itself, so that they are counted
// so.
func (s *sweeper) sweep(ctx context.Context, plan *l4.Plan, stale []l4.Stale) {
	for _, ipv6 := range []bool{false, true} {
		began := time.Now()
		deleted := 0
		if plan != nil {
			n, err := s.conntrack.Reconcile(ctx, &l4.Plan{Globals: plan.Globals, Forwardings: slices.DeleteFunc(slices.Clone(plan.Forwardings),
				func(f *l4.Forwarding) bool { return f.Key.IPv6 != ipv6 })})
			s.failed(ctx, err)
			deleted += n
		}
		if theirs := slices.DeleteFunc(slices.Clone(stale), func(t l4.Stale) bool { return t.Key.IPv6 != ipv6 }); len(theirs) > 0 {
			n, err := s.conntrack.Clean(ctx, theirs)
			s.failed(ctx, err)
			deleted += n
		}
		s.metrics.swept(ipv6, time.Since(began), deleted)
		if deleted > 0 {
			s.log.V(1).Info("forgot UDP flows to endpoints that are gone", "flows", deleted, "family", familyName(ipv6))
		}
	}
}

// failed logs an error. The audit goes through all flows again.
func (s *sweeper) failed(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		s.log.Error(err, "forgetting UDP flows to endpoints that are gone")
	}
}
