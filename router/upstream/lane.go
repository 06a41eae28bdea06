package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// lane is the connections to one address that speak the same way. What changes
// in it is protected by address.mu.
type lane struct {
	addr *address    // const
	way  way         // const
	tls  *tls.Config // const; nil: plaintext

	idle     []*conn // HTTP/1.1 connections without a request, the longest unused first
	sessions []*session
	dialing  bool         // a session is under way
	seekers  []seeker     // requests that wait for room on a session, in their order
	seeking  atomic.Int32 // how many seekers there are, for those without the lock
	retired  bool         // nobody needs unused connections any more
	reaper   *time.Timer
	lastPut  time.Time
}

// lane returns the lane of a way, a new one if need be. names are the Service's.
func (a *address) lane(w *way, names []string) *lane {
	a.mu.Lock()
	defer a.mu.Unlock()
	if *w == (way{}) {
		if a.plain == nil {
			a.plain = &lane{addr: a, retired: a.retired}
		}
		return a.plain
	}
	l := a.lanes[*w]
	if l == nil {
		l = &lane{addr: a, way: *w, retired: a.retired}
		if w.protocol.Secure() {
			l.tls = w.tlsConfig(names)
		}
		if a.lanes == nil {
			a.lanes = make(map[way]*lane)
		}
		a.lanes[*w] = l
	}
	return l
}

// retireLanes closes unused connections of the lanes that are not needed any
// more, and the others when their requests end.
func (a *address) retireLanes(which func(*way) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for w, l := range a.lanes {
		if which(&w) {
			delete(a.lanes, w)
			l.retire()
		}
	}
}

// retire closes everything now and for ever.
func (a *address) retire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retired = true
	if a.plain != nil {
		a.plain.retire()
	}
	for _, l := range a.lanes {
		l.retire()
	}
}

// retire closes unused connections now and the others when they come back.
// a.mu is held.
func (l *lane) retire() {
	l.retired = true
	if l.reaper != nil {
		l.reaper.Stop()
	}
	for _, c := range l.idle {
		c.close()
	}
	l.idle = nil
	for _, s := range l.sessions {
		go s.leave() // it has a lock of its own
	}
	l.sessions = nil
	l.callNext()
}

// take returns an unused connection that is still good, the most recently used
// first, or nil.
func (l *lane) take(ctx context.Context, req *Request) *conn {
	for {
		c := l.pop()
		if c == nil || c.fresh(ctx, req) {
			return c
		}
		c.close()
	}
}

func (l *lane) pop() *conn {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	n := len(l.idle)
	if n == 0 {
		return nil
	}
	c := l.idle[n-1]
	l.idle[n-1] = nil
	l.idle = l.idle[:n-1]
	return c
}

// put keeps c for the next request, or closes it.
func (l *lane) put(c *conn) {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	opts := &l.addr.reg.opts
	if l.retired || len(l.idle) >= opts.MaxIdle {
		c.close()
		return
	}
	l.lastPut = c.idleSince
	l.idle = append(l.idle, c)
	if l.reaper == nil {
		l.reaper = time.AfterFunc(opts.Timeouts.KeepAlive, l.reap)
	}
}

// reap closes what has been unused for too long, and comes back for the rest. A
// lane that nobody has used meanwhile goes.
func (l *lane) reap() {
	a := l.addr
	a.mu.Lock()
	defer a.mu.Unlock()
	limit := time.Now().Add(-a.reg.opts.Timeouts.KeepAlive)
	n := 0
	for n < len(l.idle) && !l.idle[n].idleSince.After(limit) {
		l.idle[n].close()
		n++
	}
	l.idle = slices.Delete(l.idle, 0, n)
	l.reaper = nil
	next := l.lastPut // busy as they are
	if len(l.idle) > 0 {
		next = l.idle[0].idleSince
	}
	if wait := next.Sub(limit); wait > 0 && !l.retired {
		l.reaper = time.AfterFunc(wait, l.reap)
		return
	}
	l.dissolve()
}

// dissolve forgets a lane without connections. Who still holds it has its
// connections closed after use. a.mu is held.
func (l *lane) dissolve() {
	if l.addr.lanes[l.way] == l && len(l.idle) == 0 && len(l.sessions) == 0 && !l.dialing {
		l.retired = true
		delete(l.addr.lanes, l.way)
	}
}

// dial opens a new connection and makes it secure, if that is the way.
func (l *lane) dial(request context.Context) (nc net.Conn, remote netip.AddrPort, e *Error) {
	a := l.addr
	ctx, cancel := context.WithTimeout(request, a.reg.opts.Timeouts.Connect)
	defer cancel()
	nc, remote, err := a.dial(ctx)
	if err != nil {
		return nil, remote, a.unreachable(request, err, false)
	}
	if l.tls != nil {
		if nc, err = l.handshake(ctx, nc); err != nil {
			return nil, remote, a.unreachable(request, err, true)
		}
	}
	a.downUntil.Store(0)
	return nc, remote, nil
}

func (l *lane) handshake(ctx context.Context, nc net.Conn) (net.Conn, error) {
	tc := tls.Client(nc, l.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return tc, nil
}

// connect opens a connection for HTTP/1.1.
func (l *lane) connect(request context.Context) (*conn, *Error) {
	nc, remote, err := l.dial(request)
	if err != nil {
		return nil, err
	}
	return newConn(l, nc, remote), nil
}
