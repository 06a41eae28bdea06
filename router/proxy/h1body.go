package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/splice"
	"github.com/portico-ingress/portico/router/tcp"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// h1Body is the request body of the exchange under way. Read is called by one
// goroutine at a time, which owns the connection's buffer meanwhile; Close may
// be called beside it.
type h1Body struct {
	c       *h1Conn
	framing wire.Framing
	left    int64 // of a body with a length
	chunks  wire.Chunks
	ended   bool  // read to its end
	err     error // what reading failed with
	pace    pace

	mu     sync.Mutex // protects the following, and the read deadline
	closed bool
}

var errBodyClosed = errors.New("the request body is no longer wanted")

func (b *h1Body) begin(h *wire.RequestHead) {
	b.framing, b.left = h.Framing, max(h.Length, 0)
	b.ended, b.err = h.Framing == wire.NoBody, nil
	b.chunks = wire.Chunks{Limits: &b.c.e.opts.Limits}
	b.pace.begin(&b.c.e.opts.Timeouts)
	b.closed = false
}

// broken marks a body whose extent nobody knows.
func (b *h1Body) broken() {
	b.ended, b.err = false, errBodyClosed
}

// Read implements upstream.Body.
func (c *h1Conn) Read(p []byte) (int, error) { return c.body.Read(p) }

// Trailers implements upstream.Body.
func (c *h1Conn) Trailers() view.Fields { return c.body.chunks.Trailers() }

// Interrupt implements upstream.Body.
func (c *h1Conn) Interrupt() { _ = c.body.Close() }

// Resume implements upstream.Body.
func (c *h1Conn) Resume() {
	c.body.reopen()
	if c.body.ended { // the interruption has ended the watch, too
		c.watch.stop()
		c.watch.arm()
	}
}

// Close implements upstream.Body.
func (c *h1Conn) Close() error { return c.body.Close() }

// Read returns io.EOF together with the last bytes where it can, so that the
// backend gets the end of the body with them.
func (b *h1Body) Read(p []byte) (n int, err error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.ended:
		return 0, io.EOF
	case b.framing == wire.Chunked:
		n, err = b.readChunked(p)
	default:
		n, err = b.readLength(p)
	}
	b.note(err)
	return n, err
}

// note takes note of what reading has come to.
func (b *h1Body) note(err error) {
	if err == io.EOF {
		b.ended = true
		b.c.watch.arm()
	} else if err != nil && !b.interruption(err) {
		b.err = err
	}
}

// Bare implements upstream.Source: a body with a length in plaintext, of which nothing
// has been read ahead.
func (c *h1Conn) Bare() bool {
	_, plain := c.nc.(*tcp.Conn)
	b := &c.body
	return plain && b.framing == wire.Length && !b.ended && b.err == nil && c.r == c.w
}

// Fill implements upstream.Source.
func (c *h1Conn) Fill(p *splice.Pipe) (n int, err error) {
	b := &c.body
	if err = b.patience(); err == nil {
		n, err = p.Fill(socketOf(c.nc), b.left)
		b.pace.got(n, time.Now())
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if err != nil {
			err = cutShort(err)
		}
	}
	b.note(err)
	return n, err
}

func (b *h1Body) readLength(p []byte) (n int, err error) {
	c := b.c
	p = p[:min(int64(len(p)), b.left)]
	if c.r < c.w {
		n = copy(p, c.buf[c.r:c.w])
		c.r += n
	} else {
		if err := b.patience(); err != nil {
			return 0, err
		}
		n, err = c.nc.Read(p)
		b.pace.got(n, time.Now())
	}
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case n > 0:
		return n, nil
	}
	return 0, cutShort(err)
}

func (b *h1Body) readChunked(p []byte) (total int, err error) {
	c := b.c
	for total < len(p) {
		for c.r < c.w && total < len(p) && !b.chunks.Done() {
			data, n, err := b.chunks.Scan(c.buf[c.r:min(c.w, c.r+len(p)-total)])
			c.r += n
			total += copy(p[total:], data)
			if err != nil {
				return total, err
			}
		}
		if b.chunks.Done() {
			return total, io.EOF
		}
		if total > 0 {
			break
		}
		if err := b.patience(); err != nil {
			return 0, err
		}
		before := c.w - c.r
		err := c.fill()
		b.pace.got(c.w-c.r-before, time.Now())
		if err != nil {
			return 0, cutShort(err)
		}
	}
	return total, nil
}

// patience sets the deadline for the next read, unless the body was closed.
func (b *h1Body) patience() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errBodyClosed
	}
	return b.c.reads.set(b.pace.deadline(time.Now()))
}

// Close makes a Read that waits return, and every later one that would wait.
func (b *h1Body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.c.reads.set(longAgo)
}

// reopen lets the connection's goroutine read on, after whoever read the body
// before has stopped.
func (b *h1Body) reopen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = false
	b.pace.begin(&b.c.e.opts.Timeouts)
}

// interruption reports whether it was Close that made a read fail: then the body may
// be read on after reopen.
func (b *h1Body) interruption(err error) bool {
	return b.isClosed() && (err == errBodyClosed || errors.Is(err, os.ErrDeadlineExceeded))
}

func (b *h1Body) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

var longAgo = time.Unix(1, 0)

// cutShort names the end of a connection inside a body.
func cutShort(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return errClientGone
}
