package proxy

import (
	"net"
	"net/http"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// h1Response writes the response of the exchange under way. The exchange's
// goroutine owns it.
type h1Response struct {
	c         *h1Conn
	out       []byte // written but not sent
	keepAlive bool
	gone      bool // the connection is lost, or not ours any more
	chunked   bool
	stall     stallLimit
	untilEOF  bool // only the end of the connection ends the body
}

func (r *h1Response) reset() {
	r.out = r.out[:0]
	r.keepAlive, r.gone, r.chunked, r.untilEOF = false, false, false, false
}

// Inform implements front.
func (c *h1Conn) Inform(status int, fields view.Fields) error {
	if c.head.Minor == 0 {
		return nil
	}
	if status == 100 {
		c.x.expects = false // the body will come, so it can be waited for
	}
	r := &c.resp
	r.out = wire.AppendStatusLine(r.out, status, http.StatusText(status))
	r.out = wire.AppendFields(r.out, fields)
	r.out = wire.AppendEnd(r.out)
	return c.Flush()
}

// Begin implements front.
func (c *h1Conn) Begin(h *responseHead) error {
	r := &c.resp
	c.body.pace.talk.Store(true)
	r.stall.now = h.At
	framed := h.NoBody || h.Length >= 0
	r.chunked = !framed && c.head.Minor == 1
	r.untilEOF = !framed && !r.chunked
	// A body that was given up, or that the client holds back until it is
	// asked for, leaves no telling where the next request begins.
	if r.untilEOF || c.x.expects || c.body.isClosed() || c.e.draining() || c.e.opts.Overloaded() {
		r.keepAlive = false
	}
	r.appendStatus(h)
	switch {
	case h.Length >= 0 && h.Status != 204:
		r.out = wire.AppendFraming(r.out, h.Length)
	case r.chunked:
		r.out = wire.AppendFraming(r.out, -1)
	}
	switch {
	case !r.keepAlive:
		r.out = wire.AppendField(r.out, "Connection", "close")
	case c.head.Minor == 0:
		r.out = wire.AppendField(r.out, "Connection", "keep-alive")
	}
	r.out = wire.AppendEnd(r.out)
	return nil
}

func (r *h1Response) appendStatus(h *responseHead) {
	reason := h.Reason
	if reason == "" {
		reason = http.StatusText(h.Status)
	}
	r.out = wire.AppendStatusLine(r.out, h.Status, reason)
	r.out = wire.AppendFields(r.out, h.Fields)
}

// Write implements front.
func (c *h1Conn) Write(p []byte) error {
	r := &c.resp
	if r.chunked {
		r.out = wire.AppendChunk(r.out, p)
	} else {
		r.out = append(r.out, p...)
	}
	if len(r.out) >= copySize {
		return c.Flush()
	}
	return nil
}

// Flush implements front.
func (c *h1Conn) Flush() error {
	r := &c.resp
	if len(r.out) == 0 {
		return nil
	}
	err := sendAll(c.nc, r.out, c.e.opts.Timeouts.WriteStall, &r.stall, c.info.TLS != nil)
	r.out = r.out[:0]
	return err
}

// End implements front.
func (c *h1Conn) End(trailers view.Fields) error {
	if c.resp.chunked {
		c.resp.out = wire.AppendLastChunk(c.resp.out, trailers)
	}
	if !c.resp.keepAlive {
		c.hold()
	}
	return c.Flush()
}

// hold has the last bytes leave with what says that they are the last.
func (c *h1Conn) hold() {
	if c.body.framing != wire.NoBody || !c.body.ended {
		return // the body may be on its way still, and nothing is to wait for it
	}
	if f := farewellOf(c.nc); f != nil {
		f.Hold(c.e.opts.Timeouts.WriteStall)
	}
}

// Sink implements front.
func (c *h1Conn) Sink() (*net.TCPConn, error) {
	if c.info.TLS != nil || c.resp.chunked {
		return nil, nil
	}
	tc := socketOf(c.nc)
	if tc == nil {
		return nil, nil
	}
	c.resp.stall = stallLimit{} // others set deadlines from now on
	return tc, c.Flush()
}

// Abort implements front. A body that ends with the connection needs a RST to
// look incomplete; the others lack their end.
func (c *h1Conn) Abort() {
	c.resp.gone = true
	tc := socketOf(c.nc)
	if tc == nil {
		c.nc.Close()
		return
	}
	if c.resp.untilEOF {
		tc.SetLinger(0)
	}
	tc.Close() // no close_notify: TLS clients take that for the end
}

// Tunnel implements front.
func (c *h1Conn) Tunnel(h *responseHead) (net.Conn, error) {
	c.watch.stop()
	r := &c.resp
	r.gone = true
	r.appendStatus(h)
	r.out = wire.AppendField(r.out, "Connection", "Upgrade")
	r.out = wire.AppendField(r.out, "Upgrade", h.Upgrade)
	r.out = wire.AppendEnd(r.out)
	if err := c.Flush(); err != nil {
		return nil, err
	}
	c.reads.set(time.Time{})
	c.nc.SetWriteDeadline(time.Time{})
	return &tunnelFront{Conn: c.nc, rest: c.buf[c.r:c.w]}, nil
}

// tunnelFront is the client's connection with what was read ahead of it.
type tunnelFront struct {
	net.Conn
	rest []byte
}

// Read implements io.Reader.
func (t *tunnelFront) Read(p []byte) (int, error) {
	if len(t.rest) > 0 {
		n := copy(p, t.rest)
		t.rest = t.rest[n:]
		return n, nil
	}
	return t.Conn.Read(p)
}

// CloseWrite tells the client that nothing more will come.
func (t *tunnelFront) CloseWrite() error { return closeWrite(t.Conn) }
