package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// call is a request and its response on an HTTP/2 stream.
type call struct {
	Response
	s        *session        // const
	st       *h2.Stream      // const
	req      *Request        // const
	ctx      context.Context // const
	readable bell
	writable bell

	// owned by the request's goroutine
	link   link          // to ctx
	upload *streamUpload // nil without a request body
	// clientErr is what passing a 1xx on to the client failed with.
	clientErr error
	finished  bool

	// protected by s.mu
	informed []*h2.Head // informational responses, not passed on yet
	informs  int        // how many there were
	head     *h2.Head   // of the final response
	body     h2.Received
	ended    bool // nothing follows
	trailers view.Fields
	answered bool      // anything of a response was received
	until    time.Time // the head must be there; zero: it is the client that is waited for
	over     bool      // nobody reads any more
	err      *h2.StreamError
}

// bell wakes the one goroutine that waits for it; rung before, it is not waited
// for.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// wait returns when the bell has rung or the time has come; zero never comes.
func (b bell) wait(until time.Time) {
	if until.IsZero() {
		<-b
		return
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-b:
	case <-t.C:
	}
}

// newCall is called with s.mu held.
func newCall(ctx context.Context, s *session, st *h2.Stream, req *Request, now time.Time) *call {
	c := &call{s: s, st: st, req: req, ctx: ctx, readable: make(bell, 1), writable: make(bell, 1)}
	c.Response = Response{Endpoint: s.lane.addr.name, exchange: c}
	c.until = now.Add(s.lane.addr.reg.opts.Timeouts.Head)
	st.Owner = c
	return c
}

// streamHead is the request's head on HTTP/2.
func (r *Request) streamHead(scheme string) *h2.Head {
	h := &h2.Head{Method: r.Method, Scheme: scheme, Authority: r.Host, Path: r.Target, Fields: r.Fields, Length: r.Length}
	if r.Length == 0 && !wantsLength(r.Method) {
		h.Length = -1
	}
	if r.Trailers || r.Continue { // a copy: a retry begins with the same fields
		h.Fields = append(make(view.Fields, 0, len(r.Fields)+2), r.Fields...)
	}
	if r.Trailers {
		h.Fields = h.Fields.Add("te", "trailers")
	}
	if r.Continue {
		h.Fields = h.Fields.Add("expect", "100-continue")
	}
	return h
}

// exchange starts the body and waits for the response's head.
func (c *call) exchange() (*Response, *Error) {
	c.link = tie(c.ctx, c)
	c.req.rewind()
	if c.req.Length != 0 {
		c.upload = newStreamUpload(c)
		go c.upload.run()
	}
	h, err := c.await()
	if err != nil {
		return nil, c.fail(err)
	}
	c.Head, c.At = responseHead(h, c.req.Method), time.Now()
	return &c.Response, nil
}

// interrupt ends the stream when the request's context ends.
func (c *call) interrupt() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.reset(h2.Cancel)
	c.readable.ring()
	c.writable.ring()
}

// reset ends the stream unless it is over. s.mu is held.
func (c *call) reset(code h2.Code) {
	c.st.Reset(code)
	c.s.rest(time.Now())
	c.s.flush()
}

// await waits for the head of the final response, and passes informational
// ones on.
func (c *call) await() (*h2.Head, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for {
		switch {
		case len(c.informed) > 0:
			h := c.informed[0]
			c.informed = c.informed[1:]
			c.s.mu.Unlock()
			err := c.inform(h)
			c.s.mu.Lock()
			if err != nil {
				return nil, err
			}
			continue
		case c.head != nil:
			return c.head, nil
		case c.ctx.Err() != nil:
			return nil, context.Cause(c.ctx)
		case c.err != nil:
			return nil, c.err
		case !c.until.IsZero() && !time.Now().Before(c.until):
			return nil, os.ErrDeadlineExceeded
		}
		c.pause(c.readable, c.until)
	}
}

// pause waits without the lock.
func (c *call) pause(b bell, until time.Time) {
	c.s.mu.Unlock()
	b.wait(until)
	c.s.mu.Lock()
}

func (c *call) inform(h *h2.Head) error {
	if h.Status == 100 && !c.req.Continue || c.req.Client == nil {
		return nil
	}
	c.clientErr = c.req.Client.Inform(h.Status, h.Fields)
	return c.clientErr
}

// responseHead is the head in the words of HTTP/1.1. A body without a length is
// chunked, whether or not anything is in it: so its trailers have a place.
func responseHead(h *h2.Head, method string) *wire.ResponseHead {
	out := &wire.ResponseHead{Status: h.Status, Minor: 1, Fields: h.Fields, Length: h.Length, Framing: wire.Chunked, KeepAlive: true}
	switch {
	case method == "HEAD" || h.Status == 204 || h.Status == 304:
		out.Framing = wire.NoBody
	case h.Length >= 0:
		out.Framing = wire.Length
	}
	return out
}

// fail gives the request up and says why.
func (c *call) fail(err error) *Error {
	e := &Error{Kind: Broken, Endpoint: c.Endpoint, Err: err}
	canceled := !c.link.undo()
	c.s.mu.Lock()
	refused := !c.answered && c.err != nil && c.err.Remote && c.err.Code == h2.RefusedStream
	lost := c.s.lost != nil && !c.answered
	c.reset(h2.Cancel)
	c.over = true
	c.s.mu.Unlock()
	bodyErr := c.endUpload(false)
	var stream *h2.StreamError
	switch {
	case bodyErr != nil:
		e.Kind, e.Err = BodyFailed, bodyErr
	case c.clientErr != nil:
		e.Kind = Canceled
	case canceled || c.ctx.Err() != nil:
		e.Kind, e.Err = Canceled, context.Cause(c.ctx)
	case isTimeout(err):
		e.Kind = Timeout
	case errors.As(err, &stream):
		e.Err = fmt.Errorf("no response: %w", err)
	}
	// A refused stream has not been looked at (RFC 9113 §8.7), unless the
	// backend has said something before.
	e.unseen = e.Kind == Broken && refused && c.req.whole()
	e.replay = e.unseen || e.Kind == Broken && lost && idempotent(c.req.Method) && c.req.whole()
	c.finished = true
	c.rethrow()
	return e
}

// Read implements exchange.
func (c *call) Read(p []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	until := time.Now().Add(c.s.lane.addr.reg.opts.Timeouts.Stall)
	for {
		switch {
		case c.body.Len() > 0:
			n := c.body.Take(p)
			c.st.Consume(n)
			c.s.flush()
			return n, nil
		case c.ended:
			return 0, io.EOF
		case c.ctx.Err() != nil:
			return 0, context.Cause(c.ctx)
		case c.err != nil:
			return 0, fmt.Errorf("%w: %w", ErrTruncated, c.err)
		case !time.Now().Before(until):
			return 0, os.ErrDeadlineExceeded
		}
		c.pause(c.readable, until)
	}
}

// Ready implements exchange.
func (c *call) Ready() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.body.Len() > 0 || c.ended || c.err != nil
}

// Source implements exchange.
func (c *call) Source() (*net.TCPConn, int64, time.Duration) { return nil, 0, 0 }

// Skipped implements exchange.
func (c *call) Skipped(int64) {}

// Trailers implements exchange.
func (c *call) Trailers() view.Fields {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.trailers
}

// Sent implements exchange.
func (c *call) Sent() bool { return c.upload == nil || c.upload.taken.Load() }

// Close implements exchange.
func (c *call) Close() {
	if c.finished {
		return
	}
	c.finished = true
	c.link.undo()
	s := c.s
	s.mu.Lock()
	c.over = true
	c.st.Consume(c.body.Drop())
	c.reset(h2.Cancel)
	s.mu.Unlock()
	c.endUpload(true)
	s.lane.addr.leave()
	c.rethrow()
}

// Hijack implements exchange. HTTP/2 has no 101.
func (c *call) Hijack() net.Conn { panic("an HTTP/2 stream cannot be hijacked") }

// endUpload cuts the request body off, unless it has ended, and returns what
// reading it failed with. over is set; final tells that no other attempt may
// follow.
func (c *call) endUpload(final bool) error {
	u := c.upload
	if u == nil {
		return nil
	}
	select {
	case <-u.done:
	default:
		c.writable.ring()
		c.req.cutOff(final)
		<-u.done
	}
	return u.bodyErr
}

// rethrow lets a panic of the request body surface where the request is served
// and can be recovered.
func (c *call) rethrow() {
	if c.upload != nil && c.upload.panicked != nil {
		panic(c.upload.panicked)
	}
}
