package h2

import (
	"errors"
	"strconv"

	"github.com/portico-ingress/portico/router/view"
)

// ErrNoStream is returned by Open when the peer takes no further stream.
var ErrNoStream = errors.New("no further stream can be opened")

// CanOpen reports whether Open would succeed.
func (c *Conn) CanOpen() bool {
	return c.fail == nil && c.nextOwn <= maxID && len(c.streams) < int(min(c.peer.maxStreams, maxID))
}

// ConnectProtocol reports whether the server takes extended CONNECT.
func (c *Conn) ConnectProtocol() bool { return c.peer.connectProtocol }

// Open sends a request; with end, it has no body. Fields must be valid, without
// pseudo-header fields and those that are about a connection; Length goes into
// content-length unless it is negative.
func (c *Conn) Open(h *Head, end bool) (*Stream, error) {
	if !c.CanOpen() {
		return nil, ErrNoStream
	}
	s := c.newStream(new(Stream), c.nextOwn) // which needs no room for a request's fields
	s.begin()
	c.nextOwn += 2
	s.sentHead, s.sendEnded, s.bodiless = true, end, h.Method == "HEAD"
	start := c.beginBlock()
	c.out = appendIndexed(c.out, ":method", h.Method)
	if h.Path != "" {
		c.out = appendIndexed(c.out, ":scheme", h.Scheme)
		c.out = appendIndexed(c.out, ":path", h.Path)
	}
	c.out = appendIndexed(c.out, ":authority", h.Authority)
	if h.Protocol != "" {
		c.out = appendLiteral(c.out, ":protocol", h.Protocol)
	}
	c.out = appendFields(c.out, h.Fields)
	if h.Length >= 0 {
		c.out = appendLength(c.out, h.Length)
	}
	c.endBlock(start, s.id, end)
	return s, nil
}

// Respond sends a response's head; with end, it has no body. Fields are as for
// Open. Informational responses may come before.
func (s *Stream) Respond(status int, fields view.Fields, length int64, end bool) {
	if s.gone || s.sentHead {
		return
	}
	c := s.conn
	start := c.beginBlock()
	c.out = appendStatus(c.out, status)
	c.out = appendFields(c.out, fields)
	if length >= 0 {
		c.out = appendLength(c.out, length)
	}
	c.endBlock(start, s.id, end)
	if status >= 200 {
		s.sentHead, s.sendEnded = true, end
		s.settle()
	}
}

// SendTrailers ends what is sent with trailer fields; without any, with
// nothing.
func (s *Stream) SendTrailers(fields view.Fields) {
	if s.gone || s.sendEnded {
		return
	}
	if len(fields) == 0 {
		s.SendData(nil, true)
		return
	}
	c := s.conn
	start := c.beginBlock()
	c.out = appendFields(c.out, fields)
	c.endBlock(start, s.id, true)
	s.sendEnded = true
	s.settle()
}

// beginBlock leaves room for the head of a frame. The first block of all says
// that our encoder keeps no table, so that the peer's settings about it do not
// matter (RFC 7541 §4.2).
func (c *Conn) beginBlock() int {
	start := len(c.out)
	c.out = append(c.out, make([]byte, frameHead)...)
	if !c.tableless {
		c.tableless = true
		c.out = append(c.out, 0x20)
	}
	return start
}

// endBlock makes frames of what was appended since start.
func (c *Conn) endBlock(start int, id uint32, end bool) {
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	size := len(c.out) - start - frameHead
	if size <= c.peer.maxFrame {
		appendHeader(c.out[:start], size, frameHeaders, flags|flagEndHeaders, id)
		return
	}
	rest := append([]byte(nil), c.out[start+frameHead:]...)
	c.out = c.out[:start]
	for kind := frameHeaders; len(rest) > 0; kind, flags = frameContinuation, 0 {
		n := min(len(rest), c.peer.maxFrame)
		if n == len(rest) {
			flags |= flagEndHeaders
		}
		c.out = appendHeader(c.out, n, kind, flags, id)
		c.out = append(c.out, rest[:n]...)
		rest = rest[n:]
	}
}

func appendFields(b []byte, fields view.Fields) []byte {
	for i := range fields {
		b = appendLiteral(b, fields[i].Name, fields[i].Value)
	}
	return b
}

func appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	return appendLiteralBytes(b, "content-length", strconv.AppendInt(digits[:0], n, 10))
}
