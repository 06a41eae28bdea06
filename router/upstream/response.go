package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// Response is a backend's answer. Its head is complete, its body is read with
// Read. Not safe for concurrent use.
type Response struct {
	// Head is what the backend sent. Valid until Close.
	Head *wire.ResponseHead
	// At is when the head was complete.
	At time.Time
	// Endpoint is the address that answered, Attempts how many were tried.
	Endpoint string
	Attempts int

	exchange
}

// exchange is a request and its response as the protocol towards the backend
// holds them.
type exchange interface {
	// Read reads the body. It returns as soon as there is anything, be it what
	// frames the body: 0 bytes, then; io.EOF only at the true end, ErrTruncated
	// where the backend stopped before.
	Read(p []byte) (int, error)
	// Ready reports whether Read can return without waiting for the backend.
	Ready() bool
	// Source returns the socket that the rest of the body comes from as it
	// is, how much that is, and how long each part of it may take; nil where
	// there is no such socket. Skipped tells how much was taken from it.
	Source() (tc *net.TCPConn, left int64, stall time.Duration)
	Skipped(n int64)
	// Trailers returns the trailer fields once Read has returned io.EOF.
	Trailers() view.Fields
	// Sent reports whether the whole request body has been taken from the
	// client.
	Sent() bool
	// Close ends the exchange; it is called once, and nothing after it. The
	// connection is kept for another request only if this one ended cleanly on
	// both sides: request sent, response read to its end, nothing left over.
	// What is left of the request body is not read; reading it has ended when
	// Close returns.
	Close()
	// Hijack hands out the connection after a 101, with the bytes that came
	// behind the head. The caller closes it; Close does nothing more. The
	// context of the request no longer matters to it.
	Hijack() net.Conn
}

// h1Exchange is one on an HTTP/1.1 connection.
type h1Exchange struct {
	Response
	conn     *conn
	req      *Request
	ctx      context.Context
	link     link    // to ctx
	upload   *upload // nil without a request body
	informed bool    // a 1xx has been seen
	// clientErr is what passing a 1xx on to the client failed with.
	clientErr error

	left   int64 // of a body with a length
	chunks wire.Chunks
	ended  bool // the body was read to its end
	closed bool
	waited bool // for the body
}

// maxInformational bounds the 1xx responses to one request.
const maxInformational = 64

// readHead reads up to the head of the final response.
func (r *h1Exchange) readHead() error {
	for range maxInformational {
		if err := r.nextHead(); err != nil {
			return err
		}
		h := r.Head
		switch {
		case h.Status == 101:
			return r.switching()
		case h.Status >= 200:
			r.left = h.Length
			r.chunks.Limits = &r.conn.registry().opts.Limits
			r.ended = h.Framing == wire.NoBody || h.Framing == wire.Length && h.Length == 0
			return nil
		case h.Status == 100 && !r.req.Continue || r.req.Client == nil:
		default:
			if r.clientErr = r.req.Client.Inform(h.Status, h.Fields); r.clientErr != nil {
				return r.clientErr
			}
		}
		r.informed = true
	}
	return errors.New("the backend sends informational responses without end")
}

func (r *h1Exchange) nextHead() error {
	c := r.conn
	limits := &c.registry().opts.Limits
	var s wire.HeadScanner
	for {
		n, err := s.Scan(c.unread(), limits)
		if err != nil {
			return err
		}
		if n > 0 {
			err := wire.ParseResponse(c.buf[c.r:c.r+n], limits, r.req.Method, &c.head)
			c.r += n
			r.Head = &c.head
			return err
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// switching checks a 101: only if the client asked, and only to what it offered
// (RFC 9110 §15.2.2).
func (r *h1Exchange) switching() error {
	if r.req.Upgrade == "" || !strings.EqualFold(r.Head.Fields.Get("Upgrade"), r.req.Upgrade) {
		return errors.New("the backend switches to a protocol that the client did not offer")
	}
	r.ended = true
	return nil
}

// fail gives the request up and says why.
func (r *h1Exchange) fail(err error) *Error {
	e := &Error{Kind: Broken, Endpoint: r.Endpoint, Err: err}
	canceled := !r.link.undo()
	r.conn.close()
	bodyFailed := r.upload != nil && !r.upload.finish(false) && r.upload.bodyErr != nil && !r.upload.cutOff
	switch {
	case bodyFailed:
		e.Kind, e.Err = BodyFailed, r.upload.bodyErr
	case r.clientErr != nil:
		e.Kind = Canceled
	case canceled || r.ctx.Err() != nil:
		e.Kind, e.Err = Canceled, context.Cause(r.ctx)
	case isTimeout(err):
		e.Kind = Timeout
	}
	r.closed = true
	r.conn.giveBack()
	r.rethrow()
	return e
}

// rethrow lets a panic of the request body surface where the request is served
// and can be recovered, instead of ending the process.
func (r *h1Exchange) rethrow() {
	if r.upload != nil && r.upload.panicked != nil {
		panic(r.upload.panicked)
	}
}

// Read implements exchange.
func (r *h1Exchange) Read(p []byte) (int, error) {
	if r.ended {
		return 0, io.EOF
	}
	n, err := r.readBody(p)
	switch {
	case err == io.EOF:
		r.ended = true
		if n > 0 {
			err = nil
		}
	case err != nil && r.ctx.Err() != nil:
		err = context.Cause(r.ctx)
	}
	return n, err
}

// readBody returns io.EOF with the last bytes, or alone.
func (r *h1Exchange) readBody(p []byte) (n int, err error) {
	switch r.Head.Framing {
	case wire.Length:
		n, err = r.readSome(p[:min(int64(len(p)), r.left)])
		if r.left -= int64(n); r.left == 0 {
			return n, io.EOF
		}
		if err == io.EOF {
			err = ErrTruncated
		}
		return n, err
	case wire.Chunked:
		return r.readChunked(p)
	default:
		return r.readSome(p)
	}
}

func (r *h1Exchange) readChunked(p []byte) (int, error) {
	c, total := r.conn, 0
	for total < len(p) {
		b := c.unread()
		data, n, err := r.chunks.Scan(b[:min(len(b), len(p)-total)])
		c.r += n
		total += copy(p[total:], data)
		switch {
		case err != nil:
			return total, err
		case r.chunks.Done():
			return total, io.EOF
		case c.r < c.w:
			continue
		case total > 0 || n > 0:
			return total, nil // who reads looks whether it is Ready before it waits
		}
		r.await()
		if err := c.fill(); err == io.EOF {
			return 0, ErrTruncated
		} else if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// readSome takes what is buffered, or reads straight into p.
func (r *h1Exchange) readSome(p []byte) (int, error) {
	c := r.conn
	if c.r < c.w {
		n := copy(p, c.unread())
		c.r += n
		return n, nil
	}
	r.await()
	n, err := c.nc.Read(p)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (r *h1Exchange) await() {
	c := r.conn
	r.waited = true
	now, stall := time.Now(), c.registry().opts.Timeouts.Stall
	if r.upload != nil {
		c.nc.SetReadDeadline(now.Add(stall))
		return
	}
	c.limitRead(now, stall)
}

// Source implements exchange.
func (r *h1Exchange) Source() (*net.TCPConn, int64, time.Duration) {
	c := r.conn
	tc, ok := c.nc.(*net.TCPConn)
	if !ok || r.Head.Framing != wire.Length || r.ended || c.r < c.w || r.upload != nil {
		return nil, 0, 0
	}
	r.waited = true
	c.forgetLimits()
	return tc, r.left, c.registry().opts.Timeouts.Stall
}

// Skipped implements exchange.
func (r *h1Exchange) Skipped(n int64) {
	r.left -= n
	r.ended = r.left == 0
}

// Trailers implements exchange.
func (r *h1Exchange) Trailers() view.Fields { return r.chunks.Trailers() }

// Ready implements exchange.
func (r *h1Exchange) Ready() bool { return r.ended || r.conn.r < r.conn.w }

// Sent implements exchange.
func (r *h1Exchange) Sent() bool { return r.upload == nil || r.upload.taken.Load() }

// Close implements exchange.
func (r *h1Exchange) Close() {
	if r.closed {
		return
	}
	r.closed = true
	c := r.conn
	alive := r.link.undo()
	if r.upload != nil {
		alive = r.upload.finish(true) && alive
	}
	reusable := alive && r.ended && r.Head.Status != 101 && r.Head.KeepAlive &&
		r.Head.Framing != wire.Close && c.r == c.w
	c.giveBack()
	c.lane.addr.leave()
	if !reusable {
		c.close()
		r.rethrow()
		return
	}
	c.reused = true
	if c.idleSince = r.At; r.waited {
		c.idleSince = time.Now()
	}
	*r = h1Exchange{closed: true} // an unused connection holds nothing of a client's
	c.lane.put(c)
}

// Hijack implements exchange.
func (r *h1Exchange) Hijack() net.Conn {
	c := r.conn
	r.link.undo()
	if !r.closed {
		r.closed = true
		c.lane.addr.leave()
	}
	c.nc.SetDeadline(time.Time{})
	rest := append([]byte(nil), c.unread()...)
	c.giveBack()
	return &tunnelConn{Conn: c.nc, rest: rest}
}

// tunnelConn is a connection of which some bytes have been read already.
type tunnelConn struct {
	net.Conn
	rest []byte
}

// Read implements io.Reader.
func (t *tunnelConn) Read(p []byte) (int, error) {
	if len(t.rest) > 0 {
		n := copy(p, t.rest)
		t.rest = t.rest[n:]
		return n, nil
	}
	return t.Conn.Read(p)
}

// CloseWrite tells the backend that nothing more will come.
func (t *tunnelConn) CloseWrite() error {
	if cw, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
