package proxy

import (
	"net"
	"time"
)

// parkAfter is how long a connection is idle before it is parked: it has neither
// goroutine nor buffers until its client sends something. Who asks more often
// pays nothing for it.
const parkAfter = time.Second

// resident is a connection that can be parked.
type resident interface {
	// resume goes on with a connection that has left the lot. It may have
	// been woken for nothing.
	resume()
}

// parking is what a connection needs to be parked.
type parking struct {
	lot *lot     // const
	c   resident // const
	fd  int32    // protected by the lot's lock

	// The connection's lock protects the following.
	tcp   *net.TCPConn // nil: it cannot be parked
	timer *time.Timer  // resumes it when it has been idle for too long
}

// park leaves the connection to the lot until something comes, or the deadline.
// True: it may have been resumed already, and is not the caller's any more once
// the connection's lock is free.
func (p *parking) park(until time.Time) bool {
	if err := p.lot.enter(p); err != nil {
		p.tcp = nil // it goes on as it is
		return false
	}
	wait := time.Until(until)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.wake)
	} else {
		p.timer.Reset(wait)
	}
	return true
}

// wake resumes the connection if it is parked. The connection's lock is not held.
func (p *parking) wake() {
	if p.lot.leave(p) {
		p.c.resume()
	}
}

// unpark undoes park when the connection has left the lot.
func (p *parking) unpark() {
	p.timer.Stop()
	p.lot.forget(p.tcp)
}
