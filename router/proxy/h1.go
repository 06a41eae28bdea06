package proxy

import (
	"context"
	"crypto/tls"
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
	e    *Engine
	nc   net.Conn
	info *view.Conn
	ctx  context.Context   // of the server
	life upstream.Lifetime // of the requests

	buf  []byte
	r, w int // buf[r:w] is read but not consumed
	head wire.RequestHead
	x    exchange
	body h1Body
	resp h1Response
	watch
	reads  readLimit
	peer   string
	since  time.Time // when the connection came
	served int

	mu   sync.Mutex // protects the following, and the read deadline while idle
	idle bool
}

func (e *Engine) serveH1(ctx context.Context, nc net.Conn, info *view.Conn) {
	c := &h1Conn{e: e, nc: nc, info: info, ctx: ctx, buf: make([]byte, h1Buffer), since: time.Now()}
	defer context.AfterFunc(ctx, c.cut)()
	c.body.c, c.resp.c, c.watch.c, c.reads.nc = c, c, c, nc
	c.peer = info.Peer.Addr().Unmap().String()
	e.track(c)
	defer e.untrack(c)
	for c.next() {
		c.served++
	}
}

// cut ends the connection, whatever is under way on it.
func (c *h1Conn) cut() {
	c.life.End(context.Cause(c.ctx))
	c.nc.Close()
}

// next serves one request and reports whether another one may follow.
func (c *h1Conn) next() bool {
	start, n, err := c.readHead()
	if n == 0 && err == nil {
		return false // the client has ended the connection
	}
	if c.served == 0 && c.info.TLS == nil && n > 0 && strings.HasPrefix(h2.Preface, string(c.buf[c.r:c.r+n])) {
		c.e.serveH2(c.ctx, c.nc, c.info, c.buf[c.r:c.w]) // prior knowledge, RFC 9113 §3.3
		return false
	}
	c.x = exchange{} // before the fields are set, or it would be made and then copied
	c.x.ctx, c.x.front, c.x.peer, c.x.rec.Start = &c.life, c, c.peer, start
	c.resp.reset()
	if err == nil {
		err = wire.ParseRequest(c.buf[c.r:c.r+n], &c.e.opts.Limits, &c.head)
		c.r += n
	}
	c.x.req = c.request()
	if err != nil {
		c.refuse(err)
		return false
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
	return c.finish()
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

// readHead waits for a request and reads its head of n bytes. Neither n nor an
// error means that no request came.
func (c *h1Conn) readHead() (start time.Time, n int, err error) {
	if c.r == c.w {
		c.shrink()
		if !c.await() {
			return start, 0, nil
		}
	}
	start = time.Now()
	var scan wire.HeadScanner
	for waits := false; ; waits = true {
		n, err := scan.Scan(c.buf[c.r:c.w], &c.e.opts.Limits)
		if n > 0 || err != nil {
			return start, n, err
		}
		if !waits {
			c.reads.set(c.headDeadline(start))
		}
		if err := c.fill(); err != nil {
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
func (c *h1Conn) await() bool {
	now, t := c.x.ended, &c.e.opts.Timeouts
	if now.IsZero() {
		now = time.Now()
	}
	c.mu.Lock()
	switch {
	case c.e.draining():
		c.reads.set(now.Add(min(t.Idle, t.DrainIdle)))
	case c.served == 0:
		c.reads.set(now.Add(t.ReadHeader))
	default:
		c.reads.keep(now, t.Idle)
	}
	c.idle = true
	c.mu.Unlock()
	err := c.fill()
	c.mu.Lock()
	c.idle = false
	c.mu.Unlock()
	return err == nil
}

// lastChance shortens the wait of an idle connection because the engine drains.
func (c *h1Conn) lastChance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.reads.set(time.Now().Add(c.e.opts.Timeouts.DrainIdle))
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
	}
	c.x.req = view.Request{Proto: "HTTP/1.1", Conn: c.info, Client: c.info.Peer.Addr().Unmap(), ID: newID()}
	c.body.broken()
	c.resp.keepAlive = false
	c.x.answer(f)
	c.linger()
	c.e.report(&c.x)
}

// maxDrain is how much of an unread body is read and dropped to keep a
// connection.
const maxDrain = 256 << 10

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
	c.reads.set(time.Now().Add(2 * time.Second))
	io.CopyN(io.Discard, c.nc, maxDrain)
}

// farewell is the connection below TLS where it can hold the last bytes back, so that
// they leave together with the close_notify.
type farewell interface {
	Hold(stall time.Duration)
	Release()
}

// part closes a connection, and lets what is held back go first.
func part(nc net.Conn) {
	if tc, ok := nc.(*tls.Conn); ok {
		if _, ok := tc.NetConn().(farewell); ok {
			_ = closeWrite(tc)
		}
	}
	nc.Close()
}

// closeWrite ends the sending half of a connection.
func closeWrite(nc net.Conn) error {
	switch c := nc.(type) {
	case *tls.Conn:
		err := c.CloseWrite()
		if f, ok := c.NetConn().(farewell); ok {
			f.Release()
		}
		return err
	case interface{ CloseWrite() error }:
		return c.CloseWrite()
	case interface{ TCPConn() (*net.TCPConn, bool) }: // behind a PROXY header
		if tc, ok := c.TCPConn(); ok {
			return tc.CloseWrite()
		}
	}
	return errors.ErrUnsupported
}
