package h2

import (
	"encoding/binary"
	"sync"

	"github.com/portico-ingress/portico/router/view"
)

// Stream is one request and its response. It belongs to its Conn's owner.
type Stream struct {
	// Owner is the driver's.
	Owner any

	conn    *Conn
	id      uint32
	request Head // of a client

	sendWindow int64
	recvWindow int
	consumed   int // of the window, not told yet
	blocked    bool

	head      bool  // the request's head, or the final response's, was received
	length    int64 // what Content-Length says; -1: nothing
	bodiless  bool  // a response that has no body whatever Content-Length says
	received  int64 // bytes of the body
	recvEnded bool
	sentHead  bool // ours
	sendEnded bool
	gone      bool // not in the Conn's map any more
}

// ID returns the stream's number.
func (s *Stream) ID() uint32 { return s.id }

// Done reports whether the stream is over, one way or another.
func (s *Stream) Done() bool { return s.gone }

// keptFields are how many fields of a request a stream has room for that is used
// again.
const keptFields = 24

var streams = sync.Pool{New: func() any { return &Stream{request: Head{Fields: make(view.Fields, 0, keptFields)}} }}

// newStream makes s a stream that is not open yet.
func (c *Conn) newStream(s *Stream, id uint32) *Stream {
	s.conn, s.id, s.recvWindow, s.length, s.request.Length = c, id, c.opts.StreamWindow, -1, -1
	return s
}

// begin opens the stream.
func (s *Stream) begin() {
	s.sendWindow = s.conn.peer.initialWindow
	s.conn.streams[s.id] = s
}

// Free leaves a stream that is over to others, with the Head of its request. To
// call it is optional; afterwards nobody may use either any more.
func (s *Stream) Free() {
	if s.conn.data.s == s {
		s.conn.data.s = nil
	}
	fields := s.request.Fields[:cap(s.request.Fields)]
	if len(fields) != keptFields {
		return
	}
	for i := range fields { // as far as they were used
		if fields[i] == (view.Field{}) {
			break
		}
		fields[i] = view.Field{}
	}
	*s = Stream{} // before the room is set, or it would be made and then copied
	s.request.Fields = fields[:0]
	streams.Put(s)
}

// closing is why a stream is not open any more.
type closing uint8

const (
	notOpened  closing = iota
	endedBoth          // both sides said END_STREAM
	resetPeer          // the peer reset it
	resetHere          // we did: what the peer sent meanwhile is ignored
	notTracked         // long ago
)

// closedStreams remembers the last streams that were closed.
type closedStreams struct {
	ids  [64]uint32
	why  [64]closing
	next int
}

func (r *closedStreams) add(id uint32, why closing) {
	r.ids[r.next], r.why[r.next] = id, why
	r.next = (r.next + 1) % len(r.ids)
}

func (r *closedStreams) find(id uint32) closing {
	for i := range r.ids {
		if r.ids[i] == id {
			return r.why[i]
		}
	}
	return notTracked
}

// state says why a stream without an entry is not open.
func (c *Conn) state(id uint32) closing {
	if c.idle(id) {
		return notOpened
	}
	return c.over.find(id)
}

// idle reports a stream that nobody has opened.
func (c *Conn) idle(id uint32) bool {
	if ours := (id%2 == 1) == c.opts.Client; ours {
		return id >= c.nextOwn
	}
	return id > c.lastPeer
}

// forget takes the stream off the list; who knows it finds it gone.
func (c *Conn) forget(s *Stream) {
	if s.blocked {
		s.blocked = false
		c.blocked--
	}
	s.gone = true
	delete(c.streams, s.id)
}

// settle closes a stream whose sides have both ended.
func (s *Stream) settle() {
	if s.recvEnded && s.sendEnded && !s.gone {
		s.conn.forget(s)
		s.conn.over.add(s.id, endedBoth)
	}
}

// Reset ends the stream at once; the peer is told why. It does nothing on a
// stream that is over.
func (s *Stream) Reset(code Code) {
	if s.gone {
		return
	}
	s.conn.forget(s)
	s.conn.over.add(s.id, resetHere)
	s.conn.out = appendReset(s.conn.out, s.id, code)
}

// mistake resets a stream because of what the peer did on it. That counts as if
// the peer had reset it (CVE-2025-8671).
func (c *Conn) mistake(id uint32, code Code, detail string) error {
	s := c.streams[id]
	if s != nil {
		c.forget(s)
	}
	if !c.idle(id) {
		c.over.add(id, resetHere)
	}
	c.out = appendReset(c.out, id, code)
	if s != nil && s.Owner != nil {
		c.handler.Closed(s, &StreamError{Code: code, Detail: detail})
	} else {
		c.handler.Malformed(detail)
	}
	return c.inVain()
}

// inVain counts a stream that cost more than it was worth.
func (c *Conn) inVain() error {
	if c.opts.Client {
		return nil
	}
	if !c.resets.spend(c.now) {
		return connError(EnhanceYourCalm, "too many streams end in vain")
	}
	return nil
}

func (c *Conn) onReset(h header, p []byte) error {
	switch {
	case len(p) != 4:
		return connError(FrameSizeError, "RST_STREAM of a broken length")
	case h.id == 0:
		return connError(ProtocolError, "RST_STREAM without a stream")
	case c.idle(h.id):
		return connError(ProtocolError, "RST_STREAM on an idle stream")
	}
	s := c.streams[h.id]
	if s == nil {
		return nil
	}
	c.forget(s)
	c.over.add(h.id, resetPeer)
	code := Code(binary.BigEndian.Uint32(p))
	c.handler.Closed(s, &StreamError{Code: code, Remote: true, Detail: "RST_STREAM"})
	if s.sendEnded {
		return nil // it was answered: what is left of the request is called off
	}
	return c.inVain()
}

// onPriority checks what it ignores: priorities (RFC 9113 §5.3.2).
func (c *Conn) onPriority(h header, p []byte) error {
	switch {
	case h.id == 0:
		return connError(ProtocolError, "PRIORITY without a stream")
	case len(p) != 5:
		return c.mistake(h.id, FrameSizeError, "PRIORITY of a broken length")
	case binary.BigEndian.Uint32(p)&maxID == h.id:
		return c.mistake(h.id, ProtocolError, "a stream that depends on itself")
	}
	return nil
}
