package upstream

import (
	"sync/atomic"
	"time"
)

// health is what the requests to an address have shown of it. A run of failures
// takes it out of the balance for a while; then one request is tried, and one
// more failure takes it out again, for longer.
type health struct {
	failures  atomic.Int32 // in a row; not 0 while ejections is not
	ejections atomic.Int32 // in a row
	// outUntil is until when others go first, UnixNano; 0: it is in.
	outUntil atomic.Int64
	// trialUntil is until when the outcome of the trial is waited for, UnixNano.
	trialUntil atomic.Int64
}

// maxEjections bounds how many times EjectTime an ejection grows to.
const maxEjections = 10

// out reports whether others go first, so also during the trial.
func (h *health) out() bool {
	until := h.outUntil.Load()
	return until != 0 && time.Now().UnixNano() < max(until, h.trialUntil.Load())
}

// begin takes note of a request. The first one after an ejection is the trial.
func (h *health) begin(patience time.Duration) {
	until := h.outUntil.Load()
	if until == 0 {
		return
	}
	if now := time.Now(); now.UnixNano() >= until {
		h.trialUntil.CompareAndSwap(0, now.Add(patience).UnixNano())
	}
}

// good takes the news of a request that went well.
func (h *health) good() {
	if h.failures.Load() != 0 {
		h.failures.Store(0)
		h.ejections.Store(0)
		h.outUntil.Store(0)
		h.trialUntil.Store(0)
	}
}

// judge takes the outcome of a request to t: a response, or why there is none.
func (p *Pool) judge(l *live, t *Target, resp *Response, err *Error) {
	h := &t.addr.health
	switch {
	case err != nil && (err.mismatch || err.Kind == Canceled || err.Kind == BodyFailed || err.Kind == Overloaded):
		// It says nothing about the endpoint. The next request may tell.
		h.trialUntil.Store(0)
	case err == nil && !failing(resp.Head.Status):
		h.good()
	case p.reg.opts.EjectAfter > 0:
		p.fault(l, t)
	}
}

// fault takes note of a failure.
func (p *Pool) fault(l *live, t *Target) {
	h, after := &t.addr.health, int32(p.reg.opts.EjectAfter)
	if h.failures.Add(1) < after || time.Now().UnixNano() < h.outUntil.Load() {
		return
	}
	p.ejecting.Lock() // or several at once would each see that there is room
	defer p.ejecting.Unlock()
	if !l.mayEject(t, p.reg.opts.EjectPercent) {
		return
	}
	h.failures.Store(after) // the next one is a trial
	times := min(h.ejections.Add(1), maxEjections)
	h.outUntil.Store(time.Now().Add(time.Duration(times) * p.reg.opts.EjectTime).UnixNano())
	h.trialUntil.Store(0)
	p.reg.stats.ejections.Add(1)
}

// failing reports a status by which a backend says that it, or what is behind
// it, does not work.
func failing(status int) bool { return status == 502 || status == 503 || status == 504 }

// mayEject keeps a part of the endpoints in the balance, whatever they answer: if
// more fail, it is not the endpoints.
func (l *live) mayEject(t *Target, percent int) bool {
	others := l.ejected()
	if t.addr.health.out() { // on trial
		others--
	}
	return 100*(others+1) <= percent*len(l.targets)
}

func (l *live) ejected() (n int) {
	for _, t := range l.targets {
		if t.addr.health.out() {
			n++
		}
	}
	return n
}

// Ejected returns how many endpoints are out of the balance for their failures.
func (p *Pool) Ejected() int { return p.live.Load().ejected() }

// retryBudget bounds what a failing backend is asked in vain: requests that
// were sent once already may be some percent of all. It counts in percents.
type retryBudget struct{ balance atomic.Int64 }

const (
	retryCost    = 100
	retryInitial = 10 * retryCost
	retryMax     = 100 * retryCost
)

// earn takes note of a request.
func (b *retryBudget) earn(percent int) {
	if b.balance.Load() < retryMax {
		b.balance.Add(int64(percent))
	}
}

// spend reports whether a request may be sent again.
func (b *retryBudget) spend() bool {
	if b.balance.Add(-retryCost) >= 0 {
		return true
	}
	b.balance.Add(retryCost)
	return false
}

// Stats count what a Registry has done since it was made.
type Stats struct {
	Ejections     int64 // endpoints taken out of the balance
	Retries       int64 // requests sent again after the backend had them
	RetriesDenied int64 // those that were not, for want of budget
	Waited        int64 // requests that waited for an endpoint to have room
	Overloaded    int64 // requests refused since there was no room to wait
}

type stats struct{ ejections, retries, denied, waited, overloaded atomic.Int64 }

// Stats returns the counts so far.
func (r *Registry) Stats() Stats {
	s := &r.stats
	return Stats{s.ejections.Load(), s.retries.Load(), s.denied.Load(), s.waited.Load(), s.overloaded.Load()}
}
