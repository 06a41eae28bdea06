package upstream

import (
	"context"
	"sync"
	"time"
)

// Lifetime is the context of the requests on a client's connection or stream, one
// after another: to watch it costs a request no allocation. The zero value has not
// ended. It implements context.Context.
type Lifetime struct {
	mu    sync.Mutex
	cause error         // why it has ended; nil: it has not
	done  chan struct{} // made for the first who asks
	under interrupter   // what ends with it; nil: no request is under way
}

// interrupter is a request that is under way.
type interrupter interface{ interrupt() }

// End ends the lifetime, and the request that is under way. Only the first cause
// counts.
func (l *Lifetime) End(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return
	}
	l.cause = cause
	if l.done != nil {
		close(l.done)
	}
	if l.under != nil {
		go l.under.interrupt() // which has locks of its own
	}
}

// attach has r ended with l.
func (l *Lifetime) attach(r interrupter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under = r
	if l.cause != nil {
		go r.interrupt()
	}
}

// detach is link.undo.
func (l *Lifetime) detach() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under = nil
	return l.cause == nil
}

// Done implements context.Context.
func (l *Lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.cause != nil {
			close(l.done)
		}
	}
	return l.done
}

// Watched reports whether anybody has asked for Done, and so may hold the lifetime
// still when the last request has ended.
func (l *Lifetime) Watched() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done != nil
}

// Err implements context.Context. It returns the cause.
func (l *Lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Deadline implements context.Context.
func (l *Lifetime) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (l *Lifetime) Value(any) any { return nil }

// link ties a request to its context.
type link struct {
	life *Lifetime
	stop func() bool // of any other context
}

// tie has r ended with ctx.
func tie(ctx context.Context, r interrupter) link {
	if l, ok := ctx.(*Lifetime); ok {
		l.attach(r)
		return link{life: l}
	}
	return link{stop: context.AfterFunc(ctx, r.interrupt)}
}

// undo reports whether the request was left in peace. If not, interrupt may still
// be on its way.
func (k link) undo() bool {
	if k.life != nil {
		return k.life.detach()
	}
	return k.stop()
}
