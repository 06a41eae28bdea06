package proxy

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// h2Hold is how much of a response is held back to leave in one go.
const h2Hold = 4 << 10

// h2Stream is one HTTP/2 stream as a front.
type h2Stream struct {
	h2Tools
	c     *h2Conn    // const
	st    *h2.Stream // const
	in    *h2.Head   // const
	whole bool       // const; nothing followed the head

	life upstream.Lifetime // ends when the stream is closed before its time

	// owned by the goroutine of the exchange
	x        exchange
	head     *responseHead // not sent yet
	headSent bool
	sentEnd  bool
	aborted  bool

	pace pace // owned by who reads the body

	// protected by c.mu
	body     h2.Received
	ended    bool // nothing follows
	trailers view.Fields
	unwanted bool // nobody reads the body any more
	dropped  int  // bytes that came since then
	// interrupted tells that the body is to be read from another goroutine.
	interrupted bool
	err         *h2.StreamError
}

// h2Tools are what a stream leaves to another one, perhaps of another connection.
type h2Tools struct {
	readable bell   // may have been rung for the stream before
	writable bell   // likewise
	hold     []byte // body bytes not sent yet; owned by the goroutine of the exchange
}

var h2Streams = sync.Pool{New: func() any {
	return &h2Stream{h2Tools: h2Tools{readable: newBell(), writable: newBell()}}
}}

// newH2Stream returns a stream whose exchange can begin.
func newH2Stream(c *h2Conn, st *h2.Stream, h *h2.Head, end bool) *h2Stream {
	s := h2Streams.Get().(*h2Stream)
	s.c, s.st, s.in, s.whole, s.ended = c, st, h, end, end
	s.x.ctx, s.x.server, s.x.front, s.x.peer, s.x.rec.Start = &s.life, c.ctx, s, c.peer, c.lastRead
	s.pace.begin(&c.e.opts.Timeouts)
	return s
}

// recycle leaves the stream to others. Nobody may use it any more. c.mu is held.
func (s *h2Stream) recycle() {
	s.st.Free()
	tools := s.h2Tools
	*s = h2Stream{} // before the tools are set, or it would be made and then copied
	s.h2Tools = tools
	s.hold = s.hold[:0]
	h2Streams.Put(s)
}

// bell wakes the one goroutine that waits for it; rung before, it is not waited
// for.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// wait reports whether the bell rang in time.
func (b bell) wait(until time.Time) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-b:
		return true
	case <-t.C:
		return false
	}
}

// serve takes the stream from its request to the end of its response.
func (s *h2Stream) serve() {
	defer s.c.work.Done()
	alone := s.run() && !s.life.Watched()
	if !alone {
		s.life.End(context.Canceled)
	}
	s.finish(alone)
}

// run serves the request, and reports whether all went as it should: nobody is
// left then who knows the stream.
func (s *h2Stream) run() (ok bool) {
	e := s.c.e
	defer func() {
		if v := recover(); v != nil {
			e.notePanic(v, s.x.req.ID)
		}
	}()
	if f := s.fill(); f != nil {
		target := s.in.Path[:min(len(s.in.Path), e.opts.Limits.Target)]
		s.x.req = refused(s.c.info, "HTTP/2.0", s.in.Method, s.in.Authority, target)
		s.x.answer(f)
		e.report(&s.x)
		return false
	}
	e.run(&s.x)
	return s.x.rec.Reason == "" && !s.x.rec.Upgraded
}

// fill makes the view of the stream's request.
func (s *h2Stream) fill() *fault {
	h, x := s.in, &s.x
	if h.Err != nil {
		return &fault{status: h.Err.Status, reason: h.Err.Reason, detail: h.Err.Detail}
	}
	if len(h.Path) > s.c.e.opts.Limits.Target {
		return &fault{status: 414, reason: "target_too_long", detail: "the request target is too long"}
	}
	if h.Authority == "" {
		return &fault{status: 400, reason: "bad_request", detail: "neither :authority nor host is given"}
	}
	x.req = view.Request{
		Method: h.Method, Authority: h.Authority, Proto: "HTTP/2.0", Fields: h.Fields,
		Conn: s.c.info, Client: s.c.info.Peer.Addr().Unmap(),
	}
	x.path, x.req.Query, x.req.HasQuery = strings.Cut(h.Path, "?")
	switch {
	case h.Protocol != "":
		return s.fillTunnel()
	case s.whole || s.complete():
		x.length = 0
	default:
		x.length = h.Length
	}
	return s.expectation()
}

func (s *h2Stream) complete() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.ended && s.body.Len() == 0 && len(s.trailers) == 0
}

// expectation takes Expect, which the upstream sends on its own.
func (s *h2Stream) expectation() *fault {
	x := &s.x
	for v := range x.req.Fields.Values("Expect") {
		if !strings.EqualFold(v, "100-continue") {
			return &fault{status: 417, reason: "expectation", detail: "no other expectation than 100-continue can be met"}
		}
		x.expects = x.length != 0
	}
	x.req.Fields = x.req.Fields.Del("Expect")
	return nil
}

// finish leaves nothing of the stream behind. alone tells that nobody else knows
// the stream.
func (s *h2Stream) finish(alone bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.discard()
	s.linger()
	switch {
	case s.aborted || !s.sentEnd:
		s.st.Reset(h2.InternalError)
	default:
		s.st.Reset(h2.NoError) // only if the request has not ended (RFC 9113 §8.1)
	}
	c.running--
	if c.conn.Streams() == 0 {
		now := time.Now()
		c.idleSince = now
		c.arm(now)
		c.departed()
	}
	c.flush()
	if alone {
		s.recycle()
	}
}

// linger gives a client that has the whole response time to end a request whose
// body nobody wants. A reset says that nothing is wrong (RFC 9113 §8.1), but
// clients that are sending when it comes may lose the response. c.mu is held.
func (s *h2Stream) linger() {
	c, until := s.c, time.Now().Add(lingerTime)
	for s.sentEnd && !s.aborted && !s.ended && s.err == nil && !s.st.Done() && s.dropped <= maxDrain {
		c.mu.Unlock()
		rang := s.readable.wait(until)
		c.mu.Lock()
		if !rang {
			return
		}
	}
}

// discard drops what was received. c.mu is held.
func (s *h2Stream) discard() {
	s.unwanted = true
	s.st.Consume(s.body.Drop())
}

// Read implements upstream.Body.
func (s *h2Stream) Read(p []byte) (int, error) {
	until := s.pace.deadline(time.Now())
	n, err := s.receive(p, until)
	s.pace.got(n, time.Now())
	return n, err
}

// receive waits for bytes of the body.
func (s *h2Stream) receive(p []byte, until time.Time) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.unwanted, s.interrupted:
			return 0, errBodyClosed
		case s.body.Len() > 0:
			n := s.body.Take(p)
			s.st.Consume(n)
			c.flush()
			return n, nil
		case s.ended:
			return 0, io.EOF
		case s.err != nil:
			return 0, io.ErrUnexpectedEOF
		}
		c.mu.Unlock()
		rang := s.readable.wait(until)
		c.mu.Lock()
		if !rang {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Trailers implements upstream.Body.
func (s *h2Stream) Trailers() view.Fields {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.trailers
}

// Interrupt implements upstream.Body.
func (s *h2Stream) Interrupt() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.interrupted = true
	s.readable.ring()
}

// Resume implements upstream.Body.
func (s *h2Stream) Resume() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.interrupted = false
}

// Close implements upstream.Body.
func (s *h2Stream) Close() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.discard()
	s.c.flush()
	s.readable.ring()
	return nil
}

// Inform implements front.
func (s *h2Stream) Inform(status int, fields view.Fields) error {
	if status == 100 {
		s.x.expects = false
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.st.Respond(status, fields, -1, false)
	c.flush()
	return s.over()
}

// over returns why nothing can be sent. c.mu is held.
func (s *h2Stream) over() error {
	if s.err == nil {
		return nil
	}
	return s.err
}

// Begin implements front.
func (s *h2Stream) Begin(head *responseHead) error {
	s.pace.talk.Store(true)
	s.head = head
	if s.c.e.opts.Overloaded() {
		s.c.depart()
	}
	return nil
}

// Write implements front.
func (s *h2Stream) Write(p []byte) error {
	if len(s.hold)+len(p) <= h2Hold {
		s.hold = append(s.hold, p...)
		return nil
	}
	if err := s.Flush(); err != nil {
		return err
	}
	return s.send(p, false, s.stall())
}

// stall is until when a client must take something.
func (s *h2Stream) stall() time.Duration { return s.c.e.opts.Timeouts.WriteStall }

// Flush implements front.
func (s *h2Stream) Flush() error {
	held := s.hold
	s.hold = s.hold[:0]
	return s.send(held, false, s.stall())
}

// End implements front.
func (s *h2Stream) End(trailers view.Fields) error {
	s.sentEnd = true
	if len(trailers) == 0 {
		return s.send(s.hold, true, s.stall())
	}
	if err := s.Flush(); err != nil {
		return err
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.st.SendTrailers(trailers)
	c.flush()
	return s.over()
}

// send sends the head, if that was not done, and p. It waits while the client
// takes nothing, but not for longer than patience each time: then the stream is
// reset.
func (s *h2Stream) send(p []byte, end bool, patience time.Duration) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.err != nil {
			return s.err
		}
		if len(c.conn.Out()) < h2MaxOut {
			if !s.headSent && s.head != nil {
				s.sendHead(end && len(p) == 0)
			}
			p = p[s.st.SendData(p, end):]
			c.flush()
			if len(p) == 0 {
				return nil
			}
		} else {
			c.waiting = append(c.waiting, s.writable)
		}
		c.mu.Unlock()
		rang := s.writable.wait(time.Now().Add(patience))
		c.mu.Lock()
		if !rang {
			s.st.Reset(h2.Cancel)
			c.flush()
			return os.ErrDeadlineExceeded
		}
	}
}

// sendHead sends the response's head. c.mu is held.
func (s *h2Stream) sendHead(end bool) {
	h := s.head
	length := h.Length
	if h.Status == 204 {
		length = -1
	}
	s.st.Respond(h.Status, h.Fields, length, end || h.NoBody)
	s.headSent = true
}

// Sink implements front.
func (s *h2Stream) Sink() (*net.TCPConn, error) { return nil, nil }

// Abort implements front.
func (s *h2Stream) Abort() { s.aborted = true }

// fillTunnel makes a request for a WebSocket of an extended CONNECT (RFC 8441).
// To the backend it is an upgrade of HTTP/1.1, whose key is ours.
func (s *h2Stream) fillTunnel() *fault {
	x := &s.x
	if !strings.EqualFold(s.in.Protocol, "websocket") {
		return &fault{status: 501, reason: "protocol", detail: "no other protocol than websocket can be connected to"}
	}
	x.req.Method, x.upgrade = "GET", "websocket"
	x.key = newWebSocketKey()
	x.req.Fields = x.req.Fields.Del("Sec-WebSocket-Key").Add("Sec-WebSocket-Key", x.key)
	return nil
}

// Tunnel implements front.
func (s *h2Stream) Tunnel(h *responseHead) (net.Conn, error) {
	s.head = &responseHead{Status: 200, Fields: h.Fields.Del("Sec-WebSocket-Accept"), Length: -1}
	if err := s.Flush(); err != nil {
		return nil, err
	}
	return &h2Tunnel{s: s}, nil
}
