package h2

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// Options of a Conn.
type Options struct {
	// Client tells which side this is.
	Client bool
	// Limits of heads and trailers.
	Limits *wire.Limits
	// MaxStreams is how many streams a client may have open; a server's
	// option. Default: 250.
	MaxStreams int
	// StreamWindow and ConnWindow are how many bytes the peer may send
	// before they are consumed, on one stream and in all.
	// Default: 256 KiB and 1 MiB.
	StreamWindow, ConnWindow int
	// ResetBudget is how many streams may end in vain in ResetWindow:
	// cancelled by the client, refused, or reset here for its mistakes; a
	// server's option (CVE-2023-44487, CVE-2025-8671). Default: 200 in 30 s.
	ResetBudget int
	ResetWindow time.Duration
	// ControlBudget is how many frames that carry nothing (SETTINGS, PING,
	// WINDOW_UPDATE, empty DATA and others) may come in 30 s, besides those that
	// requests and responses make up for: 8 for each head, 4 for each DATA frame
	// sent (CVE-2019-9512, CVE-2019-9515, CVE-2019-9518). Default: 300.
	ControlBudget int
}

// controlWindow is the time of ControlBudget.
const controlWindow = 30 * time.Second

func (o *Options) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&o.MaxStreams, 250}, {&o.StreamWindow, 256 << 10}, {&o.ConnWindow, 1 << 20}, {&o.ResetBudget, 200}, {&o.ControlBudget, 300}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.ResetWindow <= 0 {
		o.ResetWindow = 30 * time.Second
	}
	if o.Limits == nil {
		o.Limits = &wire.DefaultLimits
	}
}

// Handler is told what the peer does.
type Handler interface {
	// Head is the head of a request or of a response; a client also gets
	// informational responses. Its Fields are the Handler's from then on, those of
	// a request until Stream.Free.
	// With end, nothing follows.
	Head(s *Stream, h *Head, end bool)
	// Data is a part of a body, valid during the call. Consume makes room
	// for more.
	Data(s *Stream, p []byte)
	// End is the end of a body, with its trailer fields.
	End(s *Stream, trailers view.Fields)
	// Closed tells that a stream ended before its time. Nothing more can be
	// sent on it.
	Closed(s *Stream, err *StreamError)
	// Writable tells that SendData, which took less than it was given, will
	// take more.
	Writable(s *Stream)
	// Malformed is a request that was answered by a reset of its stream.
	Malformed(detail string)
	// Settings tells that the peer's settings have arrived.
	Settings()
	// Noticed tells that the peer has seen what Notice said.
	Noticed()
	// GoAway tells that the peer takes no streams after the last.
	GoAway(last uint32, code Code)
	// Pong answers Ping.
	Pong()
}

// Conn is one side of a connection.
type Conn struct {
	opts    Options // const after New
	handler Handler // const after New

	out  []byte // to be sent
	fail *ConnError

	// what is received
	prefaced bool // the client's preface has been read
	settled  bool // the peer's first frame, SETTINGS, has been read
	now      int64
	dec      *hpack.Decoder
	block    block
	data     dataFrame
	budget   budget // for control frames, and frames without content
	resets   budget // for streams that end in vain

	streams  map[uint32]*Stream
	lastPeer uint32 // highest stream that the peer opened
	nextOwn  uint32 // next stream that we open
	lastSaid uint32 // what the last GOAWAY of ours said
	over     closedStreams

	peer       peerSettings
	sendWindow int64
	unreturned [2]int64 // bytes sent that no WINDOW_UPDATE of the connection, and of streams, has given back
	recvWindow int
	consumed   int  // of the connection's window, not told yet
	blocked    int  // streams that wait for a window
	tableless  bool // the peer knows that our encoder keeps no table
}

// New returns a Conn whose buffer holds what its side sends first. A client may
// open streams at once.
func New(opts Options, handler Handler) *Conn {
	opts.setDefaults()
	c := &Conn{
		opts: opts, handler: handler, streams: make(map[uint32]*Stream), prefaced: opts.Client, nextOwn: 1, lastSaid: maxID,
		peer:       peerSettings{initialWindow: defaultWindow, maxFrame: minFrame, maxStreams: 100},
		sendWindow: defaultWindow, recvWindow: opts.ConnWindow,
	}
	c.budget = budget{size: opts.ControlBudget, per: controlWindow}
	c.resets = budget{size: opts.ResetBudget, per: opts.ResetWindow}
	c.initBlock()
	if opts.Client {
		c.out = append(c.out, Preface...)
	}
	c.out = c.appendSettings(c.out)
	c.out = appendWindow(c.out, 0, opts.ConnWindow-defaultWindow)
	return c
}

// Out returns what is to be sent. Valid until the next call of any method.
func (c *Conn) Out() []byte { return c.out }

// TakeOut exchanges the buffer of what is to be sent for an empty one.
func (c *Conn) TakeOut(empty []byte) []byte {
	out := c.out
	c.out = empty[:0]
	return out
}

// Streams returns the number of open streams.
func (c *Conn) Streams() int { return len(c.streams) }

// Partial reports whether a header block, or the beginning of the connection, is
// incomplete, so that the rest is due.
func (c *Conn) Partial() bool { return c.block.id != 0 || !c.settled }

// Feed takes received bytes. It returns how many it consumed: the rest, up to
// one frame of 16 KiB, must be given again with more behind it. Data frames are
// taken in parts. An error ends the connection: what is to be sent must be
// sent, and nothing more be read. now is a monotonic time in nanoseconds.
func (c *Conn) Feed(p []byte, now int64) (int, error) {
	c.now = now
	total := len(p)
	for c.fail == nil {
		rest, more := c.step(p)
		p = rest
		if !more {
			break
		}
	}
	if c.fail != nil {
		return total, c.fail
	}
	return total - len(p), nil
}

// step consumes one frame, or a part of a data frame.
func (c *Conn) step(p []byte) (rest []byte, more bool) {
	switch {
	case !c.prefaced:
		if len(p) < len(Preface) && string(p) == Preface[:len(p)] {
			return p, false
		}
		if len(p) < len(Preface) || string(p[:len(Preface)]) != Preface {
			c.end(connError(ProtocolError, "the connection does not begin with the preface of HTTP/2"))
			return nil, false
		}
		c.prefaced = true
		return p[len(Preface):], true
	case c.data.active:
		n := c.onDataBytes(p)
		return p[n:], n > 0 || !c.data.active
	case len(p) < frameHead:
		return p, false
	}
	h := parseHeader(p)
	if err := c.admit(h); err != nil {
		c.end(err)
		return nil, false
	}
	if h.kind == frameData {
		return c.beginData(h, p)
	}
	if len(p) < frameHead+h.length {
		return p, false
	}
	if err := c.onFrame(h, p[frameHead:frameHead+h.length]); err != nil {
		c.end(err)
		return nil, false
	}
	return p[frameHead+h.length:], true
}

// admit checks what holds for every frame.
func (c *Conn) admit(h header) error {
	switch {
	case h.length > minFrame:
		return connError(FrameSizeError, "a frame is larger than SETTINGS_MAX_FRAME_SIZE")
	case !c.settled && (h.kind != frameSettings || h.has(flagAck)):
		return connError(ProtocolError, "the first frame is not SETTINGS")
	case c.block.id != 0 && (h.kind != frameContinuation || h.id != c.block.id):
		return connError(ProtocolError, "a frame in the middle of a header block")
	}
	return nil
}

// onFrame takes any frame but DATA.
func (c *Conn) onFrame(h header, p []byte) error {
	switch h.kind {
	case frameHeaders:
		return c.onHeaders(h, p)
	case frameContinuation:
		return c.onContinuation(h, p)
	}
	if !(h.kind == frameWindow && c.givesBack(h, p)) && !c.budget.spend(c.now) {
		return connError(EnhanceYourCalm, "too many control frames")
	}
	switch h.kind {
	case framePriority:
		return c.onPriority(h, p)
	case frameReset:
		return c.onReset(h, p)
	case frameSettings:
		return c.onSettings(h, p)
	case framePush:
		return connError(ProtocolError, "PUSH_PROMISE, which is not enabled")
	case framePing:
		return c.onPing(h, p)
	case frameGoAway:
		return c.onGoAway(h, p)
	case frameWindow:
		return c.onWindow(h, p)
	}
	return nil // unknown types are ignored (RFC 9113 §5.5)
}

func connError(code Code, detail string) error { return &ConnError{code, detail} }

// end says GOAWAY and lets every stream know.
func (c *Conn) end(err error) {
	c.fail = err.(*ConnError)
	c.out = appendGoAway(c.out, c.lastPeer, c.fail.Code)
	for _, s := range c.streams {
		c.forget(s)
		c.handler.Closed(s, &StreamError{Code: c.fail.Code, Detail: "the connection ended: " + c.fail.Detail})
	}
}

// Abandon lets every open stream know that the connection is lost.
func (c *Conn) Abandon(detail string) {
	for _, s := range c.streams {
		c.forget(s)
		c.handler.Closed(s, &StreamError{Code: Cancel, Remote: true, Detail: detail})
	}
}

func (c *Conn) onPing(h header, p []byte) error {
	switch {
	case len(p) != 8:
		return connError(FrameSizeError, "PING of a broken length")
	case h.id != 0:
		return connError(ProtocolError, "PING on a stream")
	case !h.has(flagAck):
		c.out = appendPing(c.out, flagAck, p)
	case string(p) == noticePing:
		c.handler.Noticed()
	default:
		c.handler.Pong()
	}
	return nil
}

func (c *Conn) onGoAway(h header, p []byte) error {
	if h.id != 0 {
		return connError(ProtocolError, "GOAWAY on a stream")
	}
	if len(p) < 8 {
		return connError(FrameSizeError, "GOAWAY of a broken length")
	}
	last := binary.BigEndian.Uint32(p) & maxID
	c.handler.GoAway(last, Code(binary.BigEndian.Uint32(p[4:])))
	if !c.opts.Client {
		return nil
	}
	for _, s := range c.streams {
		if s.id > last {
			c.forget(s)
			c.handler.Closed(s, &StreamError{Code: RefusedStream, Remote: true, Detail: "the server goes away"})
		}
	}
	return nil
}

const noticePing = "farewell"

// Notice is the first of two steps that end a connection without losing a
// request (RFC 9113 §6.8): a GOAWAY that excludes no stream, and a PING.
// Handler.Noticed tells that the client has seen it; then, GoAway.
func (c *Conn) Notice() {
	c.out = appendGoAway(c.out, maxID, NoError)
	c.out = appendPing(c.out, 0, []byte(noticePing))
}

// GoAway is the second step: later streams are not served. Streams that are
// open may end.
func (c *Conn) GoAway() {
	if c.lastSaid == maxID {
		c.lastSaid = c.lastPeer
		c.out = appendGoAway(c.out, c.lastSaid, NoError)
	}
}

// Leaving reports whether GoAway was called.
func (c *Conn) Leaving() bool { return c.lastSaid != maxID }

// Ping asks whether the peer is alive; Handler.Pong is its answer.
func (c *Conn) Ping() { c.out = appendPing(c.out, 0, []byte("alive?\x00\x00")) }
