package upstream

import (
	"context"
	"errors"
	"time"
)

// enter takes one of the address's places for requests in flight. If all are
// taken it waits, as long as connecting may take, in a queue that is bounded
// too.
func (a *address) enter(ctx context.Context) *Error {
	if a.tryEnter() {
		return nil
	}
	w, err := a.queue()
	if w == nil {
		return err
	}
	a.reg.stats.waited.Add(1)
	patience := time.NewTimer(a.reg.opts.Timeouts.Connect)
	defer patience.Stop()
	select {
	case <-w:
		return nil
	case <-patience.C:
		err = a.full("no request ended in time")
	case <-ctx.Done():
		err = &Error{Kind: Canceled, Endpoint: a.name, Err: context.Cause(ctx)}
	}
	if !a.unqueue(w) {
		a.leave() // the place came meanwhile
	}
	return err
}

func (a *address) tryEnter() bool {
	for {
		n := a.inFlight.Load()
		if n >= int64(a.reg.opts.MaxInFlight) {
			return false
		}
		if a.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (a *address) full(why string) *Error {
	a.reg.stats.overloaded.Add(1)
	return &Error{Kind: Overloaded, Endpoint: a.name, dialing: true, Err: errors.New("the endpoint has as many requests in flight as it may: " + why)}
}

// queue returns what is closed when a place is free; nil without an error: one
// is, and was taken.
func (a *address) queue() (chan struct{}, *Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending.Load() >= int64(a.reg.opts.MaxPending) {
		return nil, a.full("and as many wait")
	}
	a.pending.Add(1) // before the last look: who leaves from now on sees it
	if a.tryEnter() {
		a.pending.Add(-1)
		return nil, nil
	}
	w := make(chan struct{})
	a.waiters = append(a.waiters, w)
	return w, nil
}

// unqueue reports whether w was still waiting.
func (a *address) unqueue(w chan struct{}) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, o := range a.waiters {
		if o == w {
			a.waiters = append(a.waiters[:i], a.waiters[i+1:]...)
			a.pending.Add(-1)
			return true
		}
	}
	return false
}

// leave gives a place back, to who waits the longest.
func (a *address) leave() {
	a.inFlight.Add(-1)
	if a.pending.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.waiters) > 0 && a.tryEnter() {
		close(a.waiters[0])
		a.waiters = a.waiters[1:]
		a.pending.Add(-1)
	}
}
