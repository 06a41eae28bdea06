package proxy

import (
	"sync/atomic"
	"time"
)

// pace is how slowly a request body may come: never silent for longer than
// BodyStall, and, after BodyGrace, with MinBodyRate on average. Once the
// response has begun the average no longer counts: the two then talk to each
// other, and a slow talk is not an attack.
type pace struct {
	t     *Timeouts
	start time.Time
	bytes int64
	talk  atomic.Bool
}

func (p *pace) begin(t *Timeouts) {
	p.t, p.start, p.bytes = t, time.Now(), 0
	p.talk.Store(false)
}

func (p *pace) add(n int) { p.bytes += int64(n) }

// deadline returns until when the next bytes must be there.
func (p *pace) deadline(now time.Time) time.Time {
	stall := now.Add(p.t.BodyStall)
	if p.talk.Load() {
		return stall
	}
	// In parts, since bytes times a second overflows from 9 GB on.
	earned := time.Duration(p.bytes/p.t.MinBodyRate) * time.Second
	rate := p.start.Add(p.t.BodyGrace + earned)
	if rate.Before(stall) {
		return rate
	}
	return stall
}
