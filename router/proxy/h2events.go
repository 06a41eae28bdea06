package proxy

import (
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// The methods of h2.Handler run in the goroutine that calls the h2.Conn, with
// mu held.

// Head implements h2.Handler.
func (c *h2Conn) Head(st *h2.Stream, h *h2.Head, end bool) {
	if c.running >= 2*c.e.opts.Streams { // those that were reset have goroutines still
		st.Reset(h2.RefusedStream)
		return
	}
	s := newH2Stream(c, st, h, end)
	st.Owner = s
	c.running++
	c.work.Add(1)
	go s.serve()
}

// Data implements h2.Handler.
func (c *h2Conn) Data(st *h2.Stream, p []byte) {
	s := st.Owner.(*h2Stream)
	if s.unwanted {
		st.Consume(len(p))
		if s.dropped += len(p); s.dropped > maxDrain {
			s.readable.ring()
		}
		return
	}
	s.body.Put(p)
	s.readable.ring()
}

// End implements h2.Handler.
func (c *h2Conn) End(st *h2.Stream, trailers view.Fields) {
	s := st.Owner.(*h2Stream)
	s.ended, s.trailers = true, trailers
	s.readable.ring()
}

// Closed implements h2.Handler.
func (c *h2Conn) Closed(st *h2.Stream, err *h2.StreamError) {
	s, ok := st.Owner.(*h2Stream)
	if !ok {
		return // refused above
	}
	s.err = err
	s.life.End(errClientGone)
	s.readable.ring()
	s.writable.ring()
}

// Writable implements h2.Handler.
func (c *h2Conn) Writable(st *h2.Stream) { st.Owner.(*h2Stream).writable.ring() }

// Malformed implements h2.Handler. The stream was reset; the log has it all the
// same.
func (c *h2Conn) Malformed(string) {
	x := &exchange{rec: view.Record{Start: time.Now(), Status: 400, Reason: "bad_request"}}
	x.req = refused(c.info, "HTTP/2.0", "", "", "")
	c.e.report(x)
}

// Settings implements h2.Handler.
func (c *h2Conn) Settings() {}

// Noticed implements h2.Handler.
func (c *h2Conn) Noticed() {
	if c.departing {
		c.leave()
	}
}

// GoAway implements h2.Handler. The client opens no further streams; what it
// has opened goes on.
func (c *h2Conn) GoAway(uint32, h2.Code) {}

// Pong implements h2.Handler.
func (c *h2Conn) Pong() {}
