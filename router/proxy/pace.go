package proxy

import (
	"sync/atomic"
	"time"
)

// pace is how slowly a request body may come: never silent for longer than
// BodyStall, and, after BodyGrace, with MinBodyRate on average. Only the time
// spent waiting for the client counts, not that of a backend that takes the
// body slowly. Once the response has begun the average no longer counts: the
// two then talk to each other, and a slow talk is not an attack.
type pace struct {
	t      *Timeouts
	bytes  int64
	waited time.Duration
	since  time.Time // when the wait under way began
	talk   atomic.Bool
}

func (p *pace) begin(t *Timeouts) {
	p.t, p.bytes, p.waited = t, 0, 0
	p.talk.Store(false)
}

// deadline begins a wait and returns until when the next bytes must be there.
func (p *pace) deadline(now time.Time) time.Time {
	p.since = now
	wait := p.t.BodyStall
	if !p.talk.Load() {
		// In parts, since bytes times a second overflows from 9 GB on.
		earned := time.Duration(p.bytes/p.t.MinBodyRate) * time.Second
		wait = min(wait, p.t.BodyGrace+earned-p.waited)
	}
	return now.Add(wait)
}

// got ends a wait.
func (p *pace) got(n int, now time.Time) {
	p.bytes += int64(n)
	p.waited += now.Sub(p.since)
}
