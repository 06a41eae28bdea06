package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// What one client may cost on one HTTP/2 connection.
const (
	h2ResetWindow  = 30 * time.Second
	h2StreamWindow = 256 << 10
	h2ConnWindow   = 1 << 20
	h2MaxOut       = 64 << 10 // bytes that wait for the connection before streams wait too
	h2Buffer       = 4 << 10
	h2LargeBuffer  = 32 << 10
)

// How a silent connection with streams on it is told from a dead one.
const (
	h2PingAfter = time.Minute
	h2PongWait  = 15 * time.Second
)

// h2Conn drives wire/h2 on one client connection. One goroutine reads; one
// writes, while there is something to write; each stream has one. While the
// connection is parked nobody reads.
type h2Conn struct {
	e     *Engine         // const
	nc    net.Conn        // const
	info  *view.Conn      // const
	ctx   context.Context // const; of the server
	peer  string          // const; its address
	over  func()          // const
	uncut func() bool     // const; ends the wait for the end of ctx

	work  sync.WaitGroup // streams and the writer
	stall stallLimit     // the writer's

	mu        sync.Mutex // protects the following, and what is in the streams
	conn      *h2.Conn
	writing   bool      // a goroutine writes
	waiting   []bell    // of streams that wait for room in the buffer, or did
	running   int       // streams with a goroutine
	lost      bool      // nothing can be sent any more
	departing bool      // the first GOAWAY was sent
	closing   bool      // to be closed when everything is sent
	armed     time.Time // the read deadline
	lastRead  time.Time
	idleSince time.Time // when the last stream ended
	looked    time.Time // the idleSince whose end was put off
	partial   time.Time // when what is incomplete began to come; zero: nothing is
	pinged    time.Time // zero: no answer is due
	farewell  *time.Timer
	parked    bool // nobody reads
	spot      parking
}

// h2Buffers are for frames on their way out; an idle connection has none.
var h2Buffers = sync.Pool{New: func() any { return new([h2Buffer]byte) }}

func (e *Engine) serveH2(ctx context.Context, nc net.Conn, info *view.Conn, read []byte, over func()) {
	now := time.Now()
	c := &h2Conn{e: e, nc: nc, ctx: ctx, info: info, peer: info.Peer.Addr().Unmap().String(), over: over, lastRead: now, idleSince: now}
	c.spot = parking{lot: &e.lot, c: c, tcp: socketOf(nc)}
	c.conn = h2.New(h2.Options{
		Limits: &e.opts.Limits, MaxStreams: e.opts.Streams, StreamWindow: h2StreamWindow, ConnWindow: h2ConnWindow,
		ResetBudget: e.opts.Resets, ResetWindow: h2ResetWindow, ControlBudget: e.opts.ControlFrames,
	}, c)
	c.uncut = context.AfterFunc(ctx, func() {
		nc.Close()
		c.spot.wake()
	})
	e.trackH2(c)
	if e.draining() {
		c.depart()
	}
	c.serve(read)
}

// serve runs until the connection ends or is parked.
func (c *h2Conn) serve(read []byte) {
	defer c.e.guard(c.abort)
	if c.read(read) == taken {
		return
	}
	c.end()
	c.close()
}

// abort ends a connection that nobody reads any more, nobody knows in what state.
func (c *h2Conn) abort() {
	c.mu.Lock()
	c.lose("the connection failed")
	c.mu.Unlock()
	c.close()
}

// close leaves nothing of the connection behind, once its streams have ended.
func (c *h2Conn) close() {
	c.work.Wait()
	c.mu.Lock()
	if c.farewell != nil {
		c.farewell.Stop()
	}
	c.mu.Unlock()
	c.uncut()
	c.e.untrackH2(c)
	c.over()
}

// read feeds the connection until it ends or is parked. What was read ahead comes
// first.
func (c *h2Conn) read(ahead []byte) outcome {
	buf := h2Buffers.Get().(*[h2Buffer]byte)[:]
	if len(ahead) > len(buf) {
		buf = make([]byte, len(ahead))
	}
	r, w := 0, copy(buf, ahead)
	for {
		n, more := c.feed(buf[r:w])
		if !more {
			return done
		}
		if r += n; r == w {
			r, w = 0, 0
			buf = c.fit(buf)
		} else if w == len(buf) {
			buf, w, r = roomier(buf, r, w), w-r, 0
		}
		n, err := c.nc.Read(buf[w:])
		w += n
		if n == 0 && err != nil {
			late := errors.Is(err, os.ErrDeadlineExceeded)
			if late && c.park() {
				giveBackH2(buf)
				return taken
			}
			if !late || !c.patient() {
				return done
			}
		}
		if w == len(buf) && len(buf) < h2LargeBuffer {
			buf, w, r = roomier(buf, r, w), w-r, 0
		}
	}
}

// roomier moves what is unread to the start of a buffer that has room behind.
func roomier(buf []byte, r, w int) []byte {
	to := buf
	if len(buf) < h2LargeBuffer {
		to = make([]byte, h2LargeBuffer)
	}
	copy(to, buf[r:w])
	return to
}

// fit gives a large buffer back while nobody needs it.
func (c *h2Conn) fit(buf []byte) []byte {
	if len(buf) == h2Buffer {
		return buf
	}
	c.mu.Lock()
	idle := c.conn.Streams() == 0
	c.mu.Unlock()
	if idle {
		return make([]byte, h2Buffer)
	}
	return buf
}

// feed takes received bytes, and sends what they lead to. Without more, the
// connection is over.
func (c *h2Conn) feed(p []byte) (n int, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(p) > 0 {
		c.lastRead, c.pinged = now, time.Time{}
	}
	if cap(c.conn.Out()) == 0 {
		c.conn.TakeOut(h2Buffers.Get().(*[h2Buffer]byte)[:])
	}
	n, err := c.conn.Feed(p, now.UnixNano())
	switch {
	case n == len(p) && !c.conn.Partial():
		c.partial = time.Time{}
	case c.partial.IsZero() || n > 0:
		c.partial = now
	}
	if err != nil {
		c.closing = true
	}
	c.arm(now)
	c.flush()
	return n, err == nil && !c.lost
}

// deadline is until when something must come. mu is held.
func (c *h2Conn) deadline() time.Time {
	t := &c.e.opts.Timeouts
	switch {
	case !c.partial.IsZero():
		return c.partial.Add(t.ReadHeader)
	case !c.pinged.IsZero():
		return c.pinged.Add(h2PongWait)
	case c.busy():
		return c.lastRead.Add(h2PingAfter)
	}
	until := c.idleSince.Add(t.Idle)
	if c.looked.Equal(c.idleSince) {
		until = until.Add(lookWait)
	}
	return until
}

// busy reports whether idleSince is not known yet: a stream that is over may still
// have its goroutine. mu is held.
func (c *h2Conn) busy() bool { return c.conn.Streams() > 0 || c.running > 0 }

// idle reports whether the connection may be parked after a while. mu is held.
func (c *h2Conn) idle() bool {
	return c.spot.tcp != nil && !c.busy() && c.partial.IsZero() && c.pinged.IsZero()
}

// arm sets the read deadline, if the one that is set is too late: one that is
// too early only looks at the clock again. mu is held.
func (c *h2Conn) arm(now time.Time) {
	if c.closing || c.lost {
		return
	}
	d := c.deadline()
	if c.idle() {
		rested := c.idleSince.Add(c.e.opts.parkAfter)
		if !rested.After(now) { // it was resumed
			rested = now.Add(c.e.opts.parkAfter)
		}
		if rested.Before(d) {
			d = rested
		}
	}
	if c.armed.Before(now) || d.Before(c.armed) {
		c.armed = d
		c.nc.SetReadDeadline(d)
	}
}

// park leaves the connection without the goroutine that reads, and with no
// buffers. Nothing of a frame is buffered, by TLS neither: a read has found nothing.
func (c *h2Conn) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, until := time.Now(), c.deadline()
	if !c.idle() || now.Before(c.idleSince.Add(c.e.opts.parkAfter)) || !now.Before(until) ||
		c.closing || c.lost || c.writing || len(c.conn.Out()) > 0 || !c.spot.park(until) {
		return false
	}
	c.parked = true
	giveBackH2(c.conn.TakeOut(nil))
	return true
}

// resume implements resident.
func (c *h2Conn) resume() {
	c.mu.Lock()
	c.spot.unpark()
	c.parked, c.armed = false, time.Time{}
	c.mu.Unlock()
	c.serve(nil)
}

// unread has the goroutine that reads see that the connection is over. mu is held.
func (c *h2Conn) unread() {
	c.nc.SetReadDeadline(longAgo)
	if c.parked {
		go c.spot.wake()
	}
}

// patient decides at a deadline whether the connection may stay.
func (c *h2Conn) patient() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.lost || c.closing {
		return false
	}
	if !now.Before(c.deadline()) {
		switch {
		case c.partial.IsZero() && c.pinged.IsZero() && c.busy():
			c.conn.Ping()
			c.pinged = now
		case c.busy():
			return false
		case c.partial.IsZero() && !c.looked.Equal(c.idleSince) && readable(c.nc):
			c.looked = c.idleSince // what has come was sent in time, and is only noticed late
		default:
			c.conn.GoAway()
			c.closing = true
			c.flush()
			return false
		}
	}
	c.armed = time.Time{}
	c.arm(now)
	c.flush()
	return true
}

// flush starts the writer if there is something to do for it. mu is held.
func (c *h2Conn) flush() {
	if c.writing || c.lost || len(c.conn.Out()) == 0 {
		return
	}
	c.writing = true
	c.work.Add(1)
	go c.write()
}

// write sends all that there is, as often as there is more.
func (c *h2Conn) write() {
	defer c.work.Done()
	runtime.Gosched() // streams that are ready add their frames: one write for all
	c.mu.Lock()
	defer c.mu.Unlock()
	var used []byte
	for !c.lost && len(c.conn.Out()) > 0 {
		if used == nil {
			used = h2Buffers.Get().(*[h2Buffer]byte)[:]
		}
		out := c.conn.TakeOut(used)
		c.mu.Unlock()
		err := sendAll(c.nc, out, c.e.opts.Timeouts.WriteStall, &c.stall, c.info.TLS != nil)
		c.mu.Lock()
		used = out
		if err != nil {
			c.lose("the client takes nothing")
		}
		c.wake()
	}
	c.writing = false
	giveBackH2(used)
	if c.conn.Streams() == 0 {
		giveBackH2(c.conn.TakeOut(nil))
	}
	if c.closing {
		c.unread()
	}
}

// giveBackH2 keeps a buffer for others, unless it has grown.
func giveBackH2(b []byte) {
	if cap(b) == h2Buffer {
		h2Buffers.Put((*[h2Buffer]byte)(b[:h2Buffer]))
	}
}

// wake lets the streams go on that waited for room. mu is held.
func (c *h2Conn) wake() {
	for _, b := range c.waiting {
		b.ring()
	}
	c.waiting = c.waiting[:0]
}

// lose ends the connection without a word. mu is held.
func (c *h2Conn) lose(why string) {
	if c.lost {
		return
	}
	c.lost = true
	c.conn.Abandon(why)
	c.wake()
	c.nc.SetDeadline(longAgo)
	c.unread()
}

// end is the end of reading. Streams that are open are over; what is to be
// sent, like the GOAWAY that says why, still is.
func (c *h2Conn) end() {
	c.mu.Lock()
	c.conn.Abandon("the connection ended")
	c.wake()
	closing := c.closing && !c.lost
	c.closing = true
	c.flush()
	writing := c.writing
	c.mu.Unlock()
	if writing {
		c.work.Wait()
	}
	if closing && closeWrite(c.nc) == nil {
		c.nc.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, c.nc, maxDrain)
	}
	c.nc.Close()
}

// farewellWait bounds the wait for a client to answer that it has seen the
// first GOAWAY.
const farewellWait = time.Second

// depart ends the connection in two steps, so that no request is lost that is
// on its way (RFC 9113 §6.8).
func (c *h2Conn) depart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.departing || c.closing || c.lost { // a GOAWAY must not take back what one before has said
		return
	}
	c.departing = true
	c.conn.Notice()
	c.flush()
	c.farewell = time.AfterFunc(farewellWait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.leave()
	})
}

// leave is the second step. mu is held.
func (c *h2Conn) leave() {
	if c.closing || c.lost {
		return
	}
	c.conn.GoAway()
	c.departed()
	c.flush()
}

// departed closes a connection that takes no requests and has none. mu is held.
func (c *h2Conn) departed() {
	if c.conn.Leaving() && c.conn.Streams() == 0 && !c.closing {
		c.closing = true
		if !c.writing && len(c.conn.Out()) == 0 {
			c.unread()
		}
	}
}

// departAll asks every HTTP/2 connection to end.
func (e *Engine) departAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.h2conns {
		go c.depart()
	}
}

func (e *Engine) trackH2(c *h2Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.h2conns[c] = struct{}{}
}

func (e *Engine) untrackH2(c *h2Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.h2conns, c)
}
