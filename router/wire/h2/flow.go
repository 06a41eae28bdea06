package h2

import (
	"encoding/binary"

	"github.com/portico-ingress/portico/router/view"
)

// dataFrame is a DATA frame that is being received.
type dataFrame struct {
	active bool
	s      *Stream // nil: nobody wants it
	left   int     // bytes of content to come
	pad    int     // bytes of padding to come
	end    bool
}

// beginData takes the head of a DATA frame. Its whole length counts against
// both windows, padding included.
func (c *Conn) beginData(h header, p []byte) (rest []byte, more bool) {
	used, pad := frameHead, 0
	if h.has(flagPadded) {
		if len(p) <= frameHead && h.length > 0 {
			return p, false
		}
		if h.length == 0 || int(p[frameHead]) >= h.length {
			c.end(connError(ProtocolError, "DATA of more padding than frame"))
			return nil, false
		}
		used, pad = used+1, int(p[frameHead])
	}
	if err := c.admitData(h); err != nil {
		c.end(err)
		return nil, false
	}
	c.data = dataFrame{active: true, left: h.length - (used - frameHead) - pad, pad: pad, end: h.has(flagEndStream)}
	// Small frames are what streams of messages are made of; those without
	// content say nothing (CVE-2019-9518).
	if c.data.left == 0 && !c.data.end && !c.budget.spend(c.now) {
		c.end(connError(EnhanceYourCalm, "too many DATA frames without content"))
		return nil, false
	}
	if s := c.streams[h.id]; s != nil {
		if err := c.wanted(s, h); err != nil {
			c.end(err)
			return nil, false
		}
		if !s.gone {
			c.data.s = s
		}
	}
	c.consume(c.data.s, used-frameHead)
	return p[used:], true
}

// admitData checks a DATA frame against connection and stream.
func (c *Conn) admitData(h header) error {
	if h.id == 0 {
		return connError(ProtocolError, "DATA without a stream")
	}
	if h.length > c.recvWindow {
		return connError(FlowControlError, "more DATA than the connection's window")
	}
	c.recvWindow -= h.length
	if c.streams[h.id] != nil {
		return nil
	}
	switch c.state(h.id) {
	case notOpened:
		return connError(ProtocolError, "DATA on an idle stream")
	case resetHere:
		return nil // it crossed our RST_STREAM
	case notTracked:
		if c.opts.Client { // so it did, long ago
			return nil
		}
	}
	return c.mistake(h.id, StreamClosed, "DATA on a closed stream")
}

// wanted checks a DATA frame against its stream.
func (c *Conn) wanted(s *Stream, h header) error {
	switch {
	case s.recvEnded:
		return c.mistake(s.id, StreamClosed, "DATA after END_STREAM")
	case !s.head:
		return c.mistake(s.id, ProtocolError, "DATA before the head")
	case h.length > s.recvWindow:
		return c.mistake(s.id, FlowControlError, "more DATA than the stream's window")
	}
	s.recvWindow -= h.length
	return nil
}

// onDataBytes passes on what has come of the DATA frame under way.
func (c *Conn) onDataBytes(p []byte) int {
	d := &c.data
	content := min(d.left, len(p))
	if content > 0 {
		c.content(d, p[:content])
		d.left -= content
	}
	padding := min(d.pad, len(p)-content)
	d.pad -= padding
	c.consume(d.s, padding)
	if d.left > 0 || d.pad > 0 {
		return content + padding
	}
	d.active = false
	if s := d.s; s != nil && !s.gone && d.end && c.fail == nil {
		c.endReceived(s, nil)
	}
	return content + padding
}

func (c *Conn) content(d *dataFrame, p []byte) {
	if d.s == nil || d.s.gone {
		c.consume(nil, len(p))
		return
	}
	d.s.received += int64(len(p))
	if over := d.s.length >= 0 && d.s.received > d.s.length || d.s.bodiless; over {
		c.consume(nil, len(p))
		if err := c.mistake(d.s.id, ProtocolError, "more DATA than Content-Length says"); err != nil {
			c.end(err)
		}
		return
	}
	c.handler.Data(d.s, p)
}

// endReceived is END_STREAM. A body must be as long as was said.
func (c *Conn) endReceived(s *Stream, trailers view.Fields) {
	if s.length >= 0 && s.received != s.length && !s.bodiless {
		if err := c.mistake(s.id, ProtocolError, "less DATA than Content-Length says"); err != nil {
			c.end(err)
		}
		return
	}
	s.recvEnded = true
	c.handler.End(s, trailers)
	s.settle()
}

// Consume tells that n bytes of the stream's body are out of the way, so that
// the peer may send as many. The stream may be over.
func (s *Stream) Consume(n int) { s.conn.consume(s, n) }

// consume gives windows back in halves, so that a WINDOW_UPDATE is rare.
func (c *Conn) consume(s *Stream, n int) {
	if n == 0 {
		return
	}
	c.consumed += n
	if c.consumed >= c.opts.ConnWindow/2 {
		c.recvWindow += c.consumed
		c.out = appendWindow(c.out, 0, c.consumed)
		c.consumed = 0
	}
	if s == nil || s.gone || s.recvEnded {
		return
	}
	s.consumed += n
	if s.consumed >= c.opts.StreamWindow/2 {
		s.recvWindow += s.consumed
		c.out = appendWindow(c.out, s.id, s.consumed)
		s.consumed = 0
	}
}

// minReturn is what a WINDOW_UPDATE gives back at least that costs no budget.
// Go's client and server give back 4 KiB at a time to who reads in small pieces.
const minReturn = 1 << 10

// givesBack reports whether a WINDOW_UPDATE gives back a part of what was sent, and
// takes note of it.
func (c *Conn) givesBack(h header, p []byte) bool {
	sent := &c.unreturned[0]
	if h.id != 0 {
		sent = &c.unreturned[1]
	}
	if len(p) != 4 {
		return false
	}
	n := int64(binary.BigEndian.Uint32(p) & maxID)
	if n < minReturn || n > *sent {
		return false
	}
	*sent -= n
	return true
}

func (c *Conn) onWindow(h header, p []byte) error {
	if len(p) != 4 {
		return connError(FrameSizeError, "WINDOW_UPDATE of a broken length")
	}
	n := int64(binary.BigEndian.Uint32(p) & maxID)
	if h.id == 0 {
		if c.sendWindow += n; n == 0 {
			return connError(ProtocolError, "WINDOW_UPDATE of nothing")
		}
		if c.sendWindow > maxWindow {
			return connError(FlowControlError, "a window larger than 2^31-1")
		}
		c.unblock()
		return nil
	}
	if c.idle(h.id) {
		return connError(ProtocolError, "WINDOW_UPDATE on an idle stream")
	}
	s := c.streams[h.id]
	switch {
	case s == nil:
		return nil
	case n == 0:
		return c.mistake(h.id, ProtocolError, "WINDOW_UPDATE of nothing")
	}
	if s.sendWindow += n; s.sendWindow > maxWindow {
		return c.mistake(h.id, FlowControlError, "a window larger than 2^31-1")
	}
	if s.blocked && c.sendWindow > 0 {
		c.writable(s)
	}
	return nil
}

// unblock wakes the streams that a window may have been opened for.
func (c *Conn) unblock() {
	if c.blocked == 0 || c.sendWindow <= 0 {
		return
	}
	for _, s := range c.streams {
		if s.blocked {
			c.writable(s)
		}
	}
}

func (c *Conn) writable(s *Stream) {
	s.blocked = false
	c.blocked--
	c.handler.Writable(s)
}

// SendData sends as much of p as windows allow, and END_STREAM behind the last
// byte with end. It returns how many bytes it took; if not all, Handler.Writable
// tells when to go on.
func (s *Stream) SendData(p []byte, end bool) int {
	c, sent := s.conn, 0
	for !s.gone && !s.sendEnded {
		left := len(p) - sent
		n := int(max(0, min(int64(left), s.sendWindow, c.sendWindow, int64(c.peer.maxFrame))))
		last := n == left
		if n == 0 && !last {
			if !s.blocked {
				s.blocked = true
				c.blocked++
			}
			break
		}
		if n == 0 && !end {
			break
		}
		flags := uint8(0)
		if last && end {
			flags, s.sendEnded = flagEndStream, true
		}
		c.out = appendHeader(c.out, n, frameData, flags, s.id)
		c.out = append(c.out, p[sent:sent+n]...)
		sent += n
		s.sendWindow -= int64(n)
		c.sendWindow -= int64(n)
		c.unreturned[0] += int64(n)
		c.unreturned[1] += int64(n)
		c.budget.earn(4)
		if last {
			break
		}
	}
	s.settle()
	return sent
}
