package node

import (
	"sync"
	"time"
)

// lateAfter is how old a change may become before the node counts as
// unhealthy, as in kube-proxy: twice its sync period.
const lateAfter = time.Minute

// state is what the health pages tell. Safe for concurrent use.
type state struct {
	programmed chan struct{} // closed after the first commit
	now        func() time.Time

	mu        sync.Mutex // protects the following
	oldest    time.Time  // when the oldest change arrived that nobody has taken; zero: none
	taken     time.Time  // the same of those that are taken and not committed
	committed time.Time  // the last commit
	complete  bool       // all first lists were delivered
	eligible  bool       // the node is there and nobody is about to delete it
}

func newState() *state { return &state{programmed: make(chan struct{}), now: time.Now, eligible: true} }

// queued notes that a change arrived.
func (s *state) queued() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.oldest.IsZero() {
		s.oldest = s.now()
	}
}

// take notes that all changes were taken. It must come before the taking, or a
// change would seem committed that was not taken.
func (s *state) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.IsZero() {
		s.taken = s.oldest
	}
	s.oldest = time.Time{}
}

// commit notes that what was taken is in the kernel.
func (s *state) commit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.committed = time.Time{}, s.now()
	select {
	case <-s.programmed:
	default:
		close(s.programmed)
	}
}

// setComplete notes that there is something to program from now on.
func (s *state) setComplete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.complete {
		s.complete, s.oldest, s.taken = true, time.Time{}, s.now()
	}
}

func (s *state) setEligible(e bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eligible = e
}

// healthy reports whether changes reach the kernel in time. While lists are
// awaited there are none: what an earlier process programmed goes on working,
// and without an apiserver no node is worse than the others.
func (s *state) healthy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isHealthy()
}

func (s *state) isHealthy() bool {
	oldest := s.taken
	if oldest.IsZero() {
		oldest = s.oldest
	}
	return !s.complete || oldest.IsZero() || s.now().Sub(oldest) < lateAfter
}

// health is the body of the health pages, as kube-proxy writes it.
type health struct {
	LastUpdated  time.Time `json:"lastUpdated"`
	CurrentTime  time.Time `json:"currentTime"`
	NodeEligible *bool     `json:"nodeEligible,omitempty"`
}

// report returns what the health pages say. While all is well, lastUpdated is
// now: there was nothing to update.
func (s *state) report() (h health, healthy, eligible bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.CurrentTime, h.LastUpdated = s.now(), s.committed
	healthy = s.isHealthy()
	if healthy {
		h.LastUpdated = h.CurrentTime
	}
	return h, healthy, s.eligible
}
