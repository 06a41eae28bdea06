package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// The read buffer of a connection starts small, since most connections are
// idle most of the time, and grows with the head that needs it.
const (
	h1Buffer    = 4 << 10
	h1MaxBuffer = 16 << 10 // what is kept from one request to the next
)

// h1Conn is the HTTP/1.1 side of one client connection. Its goroutine owns it;
// while a request is under way, the request body and after that the watcher own
// the read buffer.
type h1Conn struct {
	*h1Tools // nil while it is parked; set with mu held

	e     *Engine           // const
	nc    net.Conn          // const
	info  *view.Conn        // const
	ctx   context.Context   // const; of the server
	over  func()            // const
	uncut func() bool       // const; ends the wait for the end of ctx
	life  upstream.Lifetime // of the requests
	peer  string            // const; its address
	reads readLimit

	since  time.Time // when the connection came
	served int

	mu    sync.Mutex // protects the following, and the read deadline while idle
	idle  bool
	until time.Time // when it has been idle for too long
	spot  parking
}

// h1Tools are what a connection needs unless it is parked. Others have them then.
type h1Tools struct {
	buf  []byte
	r, w int // buf[r:w] is read but not consumed
	head wire.RequestHead
	x    exchange
	body h1Body
	resp h1Response
	watch
}

var h1ToolsPool = sync.Pool{New: func() any { return &h1Tools{buf: make([]byte, h1Buffer)} }}

func (e *Engine) serveH1(ctx context.Context, nc net.Conn, info *view.Conn, over func()) {
	c := &h1Conn{e: e, nc: nc, info: info, ctx: ctx, over: over, since: time.Now()}
	c.peer, c.reads.nc = info.Peer.Addr().Unmap().String(), nc
	c.spot = parking{lot: &e.lot, c: c, tcp: socketOf(nc)}
	c.borrow() // nobody else knows c
	c.uncut = context.AfterFunc(ctx, c.cut)
	e.track(c)
	c.serve()
}

// outcome is how a connection's goroutine goes on.
type outcome int

const (
	more  outcome = iota // another request may follow
	done                 // the connection is to be closed
	taken                // it is not this goroutine's any more
)

// serve runs until the connection ends or is parked.
func (c *h1Conn) serve() {
	defer c.e.guard(c.end)
	now := more
	for now == more {
		now = c.next()
	}
	if now == done {
		c.end()
	}
}

// end leaves nothing of the connection behind.
func (c *h1Conn) end() {
	c.uncut()
	c.e.untrack(c)
	c.over()
}

// cut ends the connection, whatever is under way on it.
func (c *h1Conn) cut() {
	c.life.End(context.Cause(c.ctx))
	c.nc.Close()
	c.spot.wake()
}

// borrow takes tools. mu is held.
func (c *h1Conn) borrow() {
	c.h1Tools = h1ToolsPool.Get().(*h1Tools)
	c.body.c, c.resp.c = c, c
	c.watch.of(c)
}

// giveBack leaves the tools to others. No request is under way; mu is held.
func (c *h1Conn) giveBack() {
	t := c.h1Tools
	c.h1Tools = nil
	if len(t.buf) > h1Buffer {
		return
	}
	t.r, t.w = 0, 0
	clear(t.head.Fields[:cap(t.head.Fields)]) // what was added for the backend is behind them
	t.head = wire.RequestHead{Fields: t.head.Fields[:0]}
	t.x, t.resp = exchange{}, h1Response{out: t.resp.out[:0]}
	t.body.c, t.body.chunks = nil, wire.Chunks{}
	t.watch.of(nil)
	h1ToolsPool.Put(t)
}

// next waits for one request and serves it.
func (c *h1Conn) next() outcome {
	if c.r == c.w {
		c.shrink()
		if o := c.await(); o != more {
			return o
		}
	}
	start, n, err := c.readHead()
	if n == 0 && err == nil {
		return done // the client has ended the connection
	}
	if c.served == 0 && c.info.TLS == nil && n > 0 && strings.HasPrefix(h2.Preface, string(c.buf[c.r:c.r+n])) {
		c.e.serveH2(c.ctx, c.nc, c.info, c.buf[c.r:c.w], c.end) // prior knowledge, RFC 9113 §3.3
		c.mu.Lock()
		defer c.mu.Unlock()
		c.giveBack()
		return taken
	}
	c.x = exchange{} // before the fields are set, or it would be made and then copied
	c.x.ctx, c.x.server, c.x.front, c.x.peer, c.x.rec.Start = &c.life, c.ctx, c, c.peer, start
	c.resp.reset()
	if err == nil {
		err = wire.ParseRequest(c.buf[c.r:c.r+n], &c.e.opts.Limits, &c.head)
		c.r += n
	} else {
		c.head = wire.RequestHead{Fields: c.head.Fields[:0]} // it is still that of the last request
	}
	c.x.req = c.request()
	if err != nil {
		c.refuse(err)
		return done
	}
	c.x.path, c.x.length, c.x.expects = c.head.Path, c.head.Length, c.head.Continue
	c.resp.keepAlive = c.head.KeepAlive && c.head.Method != "CONNECT" // what follows that is no request
	c.body.begin(&c.head)
	if c.body.ended {
		c.watch.arm()
	}
	c.e.run(&c.x)
	c.watch.stop()
	c.head.Fields = c.x.req.Fields // which may have room for more by now
	if !c.finish() {
		return done
	}
	c.served++
	return more
}

// request returns the view of what was parsed; empty after a refusal, so that
// nothing acts on half a head.
func (c *h1Conn) request() view.Request {
	h := &c.head
	return view.Request{
		Method: h.Method, Authority: h.Authority, Query: h.Query, HasQuery: h.HasQuery,
		Proto: h.Proto(), Fields: h.Fields, Conn: c.info, Client: c.info.Peer.Addr().Unmap(),
	}
}

// readHead reads the head of a request, of n bytes. Neither n nor an error means
// that no request came.
func (c *h1Conn) readHead() (start time.Time, n int, err error) {
	start = time.Now()
	var scan wire.HeadScanner
	for waits, looked := false, false; ; waits = true {
		n, err := scan.Scan(c.buf[c.r:c.w], &c.e.opts.Limits)
		if n > 0 || err != nil {
			return start, n, err
		}
		if !waits {
			c.reads.set(c.headDeadline(start))
		}
		if c.r == 0 && c.w == len(c.buf) && c.e.opts.Overloaded() { // many that never end would take all memory
			return start, 0, &wire.Error{Status: 503, Reason: "overload", Detail: "there is no room for a head of this size here"}
		}
		if err = c.fill(); err != nil && !looked {
			err, looked = c.lastLook(err), true
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return start, 0, &wire.Error{Status: 408, Reason: "head_timeout", Detail: "the request head came too slowly"}
			}
			return start, 0, nil
		}
	}
}

// headDeadline is until when a head whose first byte came at start must be
// complete. The wait for the first byte of a connection counts.
func (c *h1Conn) headDeadline(start time.Time) time.Time {
	if c.served == 0 {
		start = c.since
	}
	return start.Add(c.e.opts.Timeouts.ReadHeader)
}

// await waits for the first byte of a request.
func (c *h1Conn) await() outcome {
	for {
		parks := c.limitWait()
		err := c.fill()
		if parks && errors.Is(err, os.ErrDeadlineExceeded) {
			if c.park() {
				return taken
			}
			continue
		}
		err = c.lastLook(err)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.idle = false; err != nil {
			c.giveBack()
			return done
		}
		return more
	}
}

// lastLook reads what has come although the wait is over: it was sent in time, and is
// only noticed late.
func (c *h1Conn) lastLook(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) || !readable(c.nc) {
		return err
	}
	c.mu.Lock()
	c.reads.set(time.Now().Add(lookWait))
	c.mu.Unlock()
	return c.fill()
}

// limitWait sets the read deadline, and reports whether the connection is then to
// be parked rather than closed. A wait that parking has interrupted goes on.
func (c *h1Conn) limitWait() (parks bool) {
	now := c.x.ended
	if now.IsZero() || c.idle {
		now = time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.idle {
		c.until = now.Add(c.patience())
		c.idle = true
	}
	switch left := c.until.Sub(now); {
	case c.spot.tcp != nil && left > 2*c.e.opts.parkAfter:
		c.reads.keep(now, c.e.opts.parkAfter, c.e.opts.parkAfter)
		return true
	case c.spot.tcp == nil && c.served > 0 && !c.e.draining():
		c.reads.keep(now, left, left/8)
	default:
		c.reads.set(c.until)
	}
	return false
}

// patience is how long an idle connection may be idle.
func (c *h1Conn) patience() time.Duration {
	t := &c.e.opts.Timeouts
	switch {
	case c.e.draining():
		return min(t.Idle, t.DrainIdle)
	case c.served == 0:
		return t.ReadHeader
	}
	return t.Idle
}

// park leaves the connection without a goroutine and tools. Nothing is buffered,
// by TLS neither: a read has found nothing.
func (c *h1Conn) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.spot.park(c.until) {
		return false
	}
	c.giveBack()
	return true
}

// resume implements resident.
func (c *h1Conn) resume() {
	c.mu.Lock()
	c.spot.unpark()
	c.borrow()
	c.mu.Unlock()
	c.serve()
}

// lastChance shortens the wait of an idle connection because the engine drains.
func (c *h1Conn) lastChance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.idle {
		return
	}
	wait := c.e.opts.Timeouts.DrainIdle
	c.until = time.Now().Add(wait)
	if c.h1Tools == nil {
		c.spot.timer.Reset(wait)
	} else {
		c.reads.set(c.until)
	}
}

// shrink moves to the start of the buffer, and gives a large one back.
func (c *h1Conn) shrink() {
	c.r, c.w = 0, 0
	if len(c.buf) > h1MaxBuffer {
		c.buf = make([]byte, h1Buffer)
	}
	if cap(c.resp.out) > h1Buffer {
		c.resp.out = nil
	}
}

// fill reads once, making room if need be.
func (c *h1Conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if c.r == 0 {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		} else {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		}
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// refuse answers a head that cannot be understood. Nothing behind it can be.
func (c *h1Conn) refuse(err error) {
	f := &fault{status: 400, reason: "bad_request", detail: "the request cannot be understood"}
	var bad *wire.Error
	if errors.As(err, &bad) {
		f = &fault{status: bad.Status, reason: bad.Reason, detail: bad.Detail}
		if bad.Status == 503 {
			f = overloaded(bad.Reason, bad.Detail)
		}
	}
	c.x.req = refused(c.info, "HTTP/1.1", c.head.Method, c.head.Authority, c.head.Target)
	c.body.broken()
	c.resp.keepAlive = false
	c.x.answer(f)
	c.e.report(&c.x)
	c.linger()
}

// maxDrain is how much of an unread body is read and dropped to keep a
// connection.
const maxDrain = 256 << 10

// lingerTime is how long a client that has the whole response is listened to, for
// the sake of its reading it.
const lingerTime = 2 * time.Second

// finish reports whether the connection may carry another request. No byte of
// the body may be left on it.
func (c *h1Conn) finish() bool {
	switch {
	case c.resp.gone:
		return false
	case c.resp.keepAlive && c.drainBody():
		c.watch.stop() // the end of the body has armed it
		return true
	}
	c.linger()
	return false
}

// drainBody reads what is left of a body that was not wanted. It need not be
// waited for where the client waits for 100 Continue.
func (c *h1Conn) drainBody() bool {
	b := &c.body
	if b.ended || b.err != nil || c.x.expects || b.left > maxDrain {
		return b.ended && b.err == nil
	}
	b.reopen()
	c.x.ended = time.Time{}
	var sink [4 << 10]byte
	for dropped := 0; dropped <= maxDrain; {
		n, err := b.Read(sink[:])
		dropped += n
		if err != nil {
			return err == io.EOF
		}
	}
	return false
}

// linger ends the connection so that the client can still read the response:
// closing while bytes of it are unread would send a RST, which may overtake
// the response (RFC 9112 §9.6).
func (c *h1Conn) linger() {
	if c.body.ended && c.r == c.w || closeWrite(c.nc) != nil {
		return
	}
	c.reads.set(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.nc, maxDrain)
}
