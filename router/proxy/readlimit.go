package proxy

import (
	"net"
	"sync/atomic"
	"time"
)

// readLimit is the read deadline of a client's connection. Between requests it is
// set with something on top, so that the next waits need not set it again.
type readLimit struct {
	nc   net.Conn
	idle atomic.Int64 // the deadline if keep has set it, UnixNano; else 0
}

// set sets the deadline; zero: none.
func (l *readLimit) set(t time.Time) error {
	l.idle.Store(0)
	return l.nc.SetReadDeadline(t)
}

// keep has reads wait for at least that long, and for slack more at most.
func (l *readLimit) keep(now time.Time, wait, slack time.Duration) {
	left := time.Duration(l.idle.Load() - now.UnixNano())
	if left < wait || left > wait+slack {
		until := now.Add(wait + slack)
		l.nc.SetReadDeadline(until)
		l.idle.Store(until.UnixNano())
	}
}
