package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/wire"
)

// bufferSize is what one read from a backend may return.
const bufferSize = 32 << 10

// buffers are lent to connections that carry a request; an unused connection
// has none.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// conn is a connection to a backend. One request owns it at a time.
type conn struct {
	nc        net.Conn
	tcp       net.Conn // what nc is secured on; nc itself in plaintext
	socket    *socket  // of tcp; nil if it has none
	lane      *lane
	remote    netip.AddrPort
	reused    bool // has carried a request before
	idleSince time.Time
	head      wire.ResponseHead // its Fields are used again and again
	// The deadlines that are set. They are set with an eighth on top, so that
	// the next requests need not set them again. While an upload sets them
	// too, they are not known: zero.
	readUntil, writeUntil time.Time

	x       h1Exchange // of the request that owns it
	readErr error      // what waiting for its answer failed with

	pooled *[bufferSize]byte
	buf    []byte // pooled, or larger for a large head
	r, w   int    // buf[r:w] is read but not consumed
}

func newConn(l *lane, nc net.Conn, remote netip.AddrPort) *conn {
	c := &conn{nc: nc, tcp: nc, lane: l, remote: remote}
	if tc, ok := nc.(*tls.Conn); ok {
		c.tcp = tc.NetConn()
	}
	c.socket = socketOf(c.tcp)
	return c
}

// close may be called by anybody, any number of times. It says no farewell: that
// one could wait for a backend that takes nothing.
func (c *conn) close() { c.tcp.Close() }

// interrupt ends the request under way.
func (c *conn) interrupt() { c.close() }

// registry is where the options are.
func (c *conn) registry() *Registry { return c.lane.addr.reg }

// fresh reports whether an unused connection may carry another request: still
// open, with nothing to read. Bytes that nobody asked for would be taken as the
// answer to the next request (response-queue poisoning). Where send looks for them
// it is not done here.
func (c *conn) fresh(ctx context.Context, req *Request) bool {
	if c.lane.addr.key.host != "" {
		req.now = time.Time{} // a lookup may take its time
		if !c.current(ctx) {
			return false
		}
	}
	switch {
	case c.socket == nil || !c.quietInside():
		return false
	case c.asks(req):
		return true
	}
	return c.socket.quiet()
}

// limitRead has reads fail when nothing has come for that long.
func (c *conn) limitRead(now time.Time, wait time.Duration) {
	if left := c.readUntil.Sub(now); left < wait || left > wait+wait/8 {
		c.readUntil = now.Add(wait + wait/8)
		c.nc.SetReadDeadline(c.readUntil)
	}
}

// limitWrite has writes fail that take that long.
func (c *conn) limitWrite(now time.Time, wait time.Duration) {
	if left := c.writeUntil.Sub(now); left < wait || left > wait+wait/8 {
		c.writeUntil = now.Add(wait + wait/8)
		c.nc.SetWriteDeadline(c.writeUntil)
	}
}

// forgetLimits is for when somebody else has set deadlines.
func (c *conn) forgetLimits() { c.readUntil, c.writeUntil = time.Time{}, time.Time{} }

// quietInside reports whether TLS holds no bytes that it has read already.
func (c *conn) quietInside() bool {
	if c.nc == c.tcp {
		return true
	}
	var b [1]byte
	if c.tcp.SetReadDeadline(longAgo) != nil {
		return false
	}
	c.readUntil = time.Time{}
	n, err := c.nc.Read(b[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

var longAgo = time.Unix(1, 0)

// current reports whether the name still leads to where c is connected.
func (c *conn) current(ctx context.Context) bool {
	opts := &c.registry().opts
	ctx, cancel := context.WithTimeout(ctx, opts.Timeouts.Connect)
	defer cancel()
	now, err := c.lane.addr.resolve(ctx)
	return err == nil && slices.Contains(now, c.remote) && opts.Policy.Check(c.remote) == nil
}

// lend gives c its buffer for one request.
func (c *conn) lend() {
	c.pooled = buffers.Get().(*[bufferSize]byte)
	c.buf, c.r, c.w = c.pooled[:], 0, 0
}

// giveBack takes the buffer away again.
func (c *conn) giveBack() {
	if c.pooled != nil {
		buffers.Put(c.pooled)
		c.pooled, c.buf, c.r, c.w = nil, nil, 0, 0
	}
}

// fill reads once into the free end of the buffer, making room if need be.
func (c *conn) fill() error {
	if c.readErr != nil {
		return c.readErr
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if c.r > 0 {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		} else {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// unread returns the bytes that are read but not consumed.
func (c *conn) unread() []byte { return c.buf[c.r:c.w] }
