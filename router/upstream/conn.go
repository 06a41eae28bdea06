package upstream

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	raw       syscall.RawConn // nil if nc has no descriptor
	addr      *address
	remote    netip.AddrPort
	reused    bool // has carried a request before
	idleSince time.Time
	head      wire.ResponseHead // its Fields are used again and again

	pooled *[bufferSize]byte
	buf    []byte // pooled, or larger for a large head
	r, w   int    // buf[r:w] is read but not consumed
}

func newConn(a *address, nc net.Conn, remote netip.AddrPort) *conn {
	c := &conn{nc: nc, addr: a, remote: remote}
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	return c
}

// close may be called by anybody, any number of times.
func (c *conn) close() { c.nc.Close() }

// fresh reports whether an unused connection may carry another request: still
// open, with nothing to read. Bytes that nobody asked for would be taken as the
// answer to the next request (response-queue poisoning).
func (c *conn) fresh(ctx context.Context) bool {
	if c.raw == nil || c.addr.key.host != "" && !c.current(ctx) {
		return false
	}
	if c.nc.SetDeadline(time.Time{}) != nil {
		return false
	}
	quiet := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
		return true
	})
	return err == nil && quiet
}

// current reports whether the name still leads to where c is connected.
func (c *conn) current(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.addr.reg.opts.Timeouts.Connect)
	defer cancel()
	now, err := c.addr.resolve(ctx)
	return err == nil && slices.Contains(now, c.remote) && c.addr.reg.opts.Policy.Check(c.remote) == nil
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
