package h2

import (
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// Head is the head of a request or of a response.
type Head struct {
	// Of a request. Path is the :path as sent; empty for CONNECT without
	// Protocol. Authority is :authority, else host. Protocol is that of an
	// extended CONNECT (RFC 8441).
	Method, Scheme, Authority, Path, Protocol string
	// Status of a response; 1xx are heads of their own.
	Status int
	// Fields are without pseudo-header fields, host and content-length. Names
	// are in lower case; cookie lines are joined (RFC 9113 §8.2.3).
	Fields view.Fields
	// Length is what content-length says, -1 without it.
	Length int64
	// Err is why a well-formed head is refused; an answer can be given.
	Err *wire.Error
}

// block is a header block while it arrives and is decoded.
type block struct {
	id       uint32 // of the stream; 0: no block is under way
	end      bool   // END_STREAM
	trailers bool
	unwanted bool // nobody wants it, but the decoder must see it
	size     int  // compressed
	parts    int  // frames

	head    *Head
	stream  *Stream // of a new request, not open yet
	pseudo  int     // pseudo-header fields seen, by bit
	regular bool    // a regular field was seen
	cookie  int     // index of the cookie field + 1
	crumbs  []byte  // what cookie lines are joined to, if there are several
	host    string
	list    int    // decoded size (RFC 9113 §6.5.2)
	bad     string // what makes it malformed
	full    *wire.Error
}

func (c *Conn) initBlock() {
	c.dec = hpack.NewDecoder(4096, c.onField)
	c.dec.SetMaxStringLength(c.opts.Limits.Head)
}

func (c *Conn) onHeaders(h header, p []byte) error {
	if h.id == 0 || !c.opts.Client && h.id%2 == 0 {
		return connError(ProtocolError, "HEADERS on a stream that is not the client's")
	}
	fragment, selfish, err := stripHeaders(h, p)
	if err != nil {
		return err
	}
	b := &c.block
	*b = block{id: h.id, end: h.has(flagEndStream)}
	if err := c.admitHeaders(h.id, selfish); err != nil {
		return err
	}
	if b.head == nil {
		b.head = &Head{Length: -1}
	}
	return c.fragment(h, fragment)
}

// stripHeaders removes padding and priority. selfish tells that the stream
// depends on itself.
func stripHeaders(h header, p []byte) (fragment []byte, selfish bool, err error) {
	if h.has(flagPadded) {
		if len(p) == 0 || int(p[0]) >= len(p) {
			return nil, false, connError(ProtocolError, "HEADERS of more padding than frame")
		}
		p = p[1 : len(p)-int(p[0])]
	}
	if h.has(flagPriority) {
		if len(p) < 5 {
			return nil, false, connError(FrameSizeError, "HEADERS without room for their priority")
		}
		selfish = binary.BigEndian.Uint32(p)&maxID == h.id
		p = p[5:]
	}
	return p, selfish, nil
}

// admitHeaders finds what a header block is: a request, trailers, a response,
// or something that must be decoded only to keep the decoder in step.
func (c *Conn) admitHeaders(id uint32, selfish bool) error {
	b := &c.block
	if selfish {
		b.bad = "a stream that depends on itself"
	}
	if !c.opts.Client && c.idle(id) {
		c.lastPeer = id
		if id > c.lastSaid { // after GOAWAY, as the client knows
			b.unwanted = true
			c.over.add(id, resetHere)
			return nil
		}
		b.stream = c.newStream(streams.Get().(*Stream), id)
		b.head = &b.stream.request
		return nil
	}
	if s := c.streams[id]; s != nil {
		if s.recvEnded {
			b.unwanted = true
			return c.mistake(id, StreamClosed, "HEADERS after END_STREAM")
		}
		b.trailers = s.head
		return nil
	}
	b.unwanted = true
	switch c.state(id) {
	case notOpened:
		return connError(ProtocolError, "HEADERS on an idle stream")
	case resetHere:
		return nil
	case notTracked:
		if c.opts.Client { // cancelled long ago: many streams end within a round trip
			return nil
		}
	case endedBoth, resetPeer:
		return connError(StreamClosed, "HEADERS on a closed stream")
	}
	return connError(ProtocolError, "HEADERS on a stream older than the newest")
}

func (c *Conn) onContinuation(h header, p []byte) error {
	if c.block.id == 0 {
		return connError(ProtocolError, "CONTINUATION without HEADERS")
	}
	return c.fragment(h, p)
}

// fragment decodes a part of a header block. The block is bounded while it
// arrives: CONTINUATION frames without end were an attack (CVE-2023-45288).
func (c *Conn) fragment(h header, p []byte) error {
	b := &c.block
	b.size += len(p)
	b.parts++
	if limit := c.opts.Limits.Head; b.size > limit || b.parts > 2+limit/(4<<10) {
		return connError(EnhanceYourCalm, "a header block without end")
	}
	if _, err := c.dec.Write(p); err != nil {
		return connError(CompressionError, "a header block that cannot be decoded")
	}
	if !h.has(flagEndHeaders) {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return connError(CompressionError, "a header block that ends in the middle of a field")
	}
	done := *b
	*b = block{}
	return c.complete(&done)
}

// The pseudo-header fields, as bits.
const (
	pseudoMethod = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoProtocol
	pseudoStatus
)

// onField takes one decoded field.
func (c *Conn) onField(f hpack.HeaderField) {
	b := &c.block
	if b.unwanted || b.bad != "" {
		return
	}
	b.list += len(f.Name) + len(f.Value) + 32
	limits := c.opts.Limits
	size, count := limits.Head, limits.Fields
	if b.trailers {
		size, count = limits.Trailer, limits.TrailerFields
	}
	if b.list > size {
		b.full = &wire.Error{Status: 431, Reason: "head_too_large", Detail: "the header section is too large"}
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		c.onPseudo(f.Name, f.Value)
		return
	}
	b.regular = true
	if b.bad = c.checkField(f.Name, f.Value); b.bad != "" {
		return
	}
	if len(b.head.Fields) >= count {
		b.full = &wire.Error{Status: 431, Reason: "too_many_fields", Detail: "too many header fields"}
		return
	}
	c.addField(f.Name, f.Value)
}

// checkField says what makes a field malformed (RFC 9113 §8.2).
func (c *Conn) checkField(name, value string) string {
	if !wire.ValidName(name) || hasUpper(name) {
		return "a field name holds a character that is not allowed"
	}
	if !wire.ValidValue(value) {
		return "a field value holds a character that is not allowed"
	}
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return "a field that is about an HTTP/1.1 connection"
	case "te":
		if !strings.EqualFold(value, "trailers") {
			return "te of another value than trailers"
		}
	}
	return ""
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

// addField keeps a field, or what it says.
func (c *Conn) addField(name, value string) {
	b := &c.block
	h := b.head
	if b.trailers {
		if wire.TrailerAllowed(name) {
			h.Fields = append(h.Fields, view.Field{Name: name, Value: value})
		}
		return
	}
	switch name {
	case "content-length":
		n, ok := wire.ParseLength(value)
		if !ok || h.Length >= 0 && h.Length != n {
			b.bad = "content-length is not one number of bytes"
			return
		}
		h.Length = n
	case "host":
		if b.host != "" && b.host != value {
			b.bad = "host fields of different values"
			return
		}
		b.host = value
	case "cookie":
		if b.cookie > 0 {
			b.joinCookie(value)
			return
		}
		h.Fields = append(h.Fields, view.Field{Name: name, Value: value})
		b.cookie = len(h.Fields)
	default:
		h.Fields = append(h.Fields, view.Field{Name: name, Value: value})
	}
}

// joinCookie gathers a further cookie line. A string that grows line by line
// would cost the square of what was sent.
func (b *block) joinCookie(value string) {
	if len(b.crumbs) == 0 {
		b.crumbs = append(b.crumbs, b.head.Fields[b.cookie-1].Value...)
	}
	b.crumbs = append(append(b.crumbs, "; "...), value...)
}

// onPseudo takes a pseudo-header field (RFC 9113 §8.3).
func (c *Conn) onPseudo(name, value string) {
	b := &c.block
	h := b.head
	bit, field := 0, (*string)(nil)
	switch name {
	case ":method":
		bit, field = pseudoMethod, &h.Method
	case ":scheme":
		bit, field = pseudoScheme, &h.Scheme
	case ":authority":
		bit, field = pseudoAuthority, &h.Authority
	case ":path":
		bit, field = pseudoPath, &h.Path
	case ":protocol":
		bit, field = pseudoProtocol, &h.Protocol
	case ":status":
		bit = pseudoStatus
	}
	switch {
	case b.trailers:
		b.bad = "a pseudo-header field in trailers"
	case b.regular:
		b.bad = "a pseudo-header field behind a regular one"
	case bit == 0 || (bit == pseudoStatus) != c.opts.Client:
		b.bad = "a pseudo-header field that has no place here"
	case b.pseudo&bit != 0:
		b.bad = "a pseudo-header field that is there twice"
	case bit == pseudoStatus:
		h.Status = parseStatus(value)
	default:
		*field = value
	}
	b.pseudo |= bit
}

func parseStatus(s string) int {
	if n, ok := wire.ParseLength(s); ok && len(s) == 3 && n >= 100 {
		return int(n)
	}
	return 0
}

// complete hands a whole header block over.
func (c *Conn) complete(b *block) error {
	if b.unwanted {
		return nil
	}
	if len(b.crumbs) > 0 {
		b.head.Fields[b.cookie-1].Value = string(b.crumbs)
	}
	if b.trailers || c.opts.Client {
		s := c.streams[b.id]
		switch {
		case s == nil: // it was reset here since the block began
			return nil
		case b.trailers:
			return c.completeTrailers(s, b)
		}
		return c.completeResponse(s, b)
	}
	if len(c.streams) >= c.opts.MaxStreams {
		c.over.add(b.id, resetHere)
		c.out = appendReset(c.out, b.id, RefusedStream)
		return c.inVain()
	}
	if b.bad == "" {
		b.bad = b.checkRequest()
	}
	if b.bad != "" {
		return c.mistake(b.id, ProtocolError, b.bad)
	}
	c.budget.earn(8)
	h := b.head
	h.Err = b.full
	s := b.stream
	s.begin()
	s.head, s.length, s.recvEnded = true, h.Length, b.end
	if b.end && h.Length > 0 {
		return c.mistake(b.id, ProtocolError, "less DATA than Content-Length says")
	}
	c.handler.Head(s, h, b.end)
	return nil
}

// checkRequest says what makes a request malformed (RFC 9113 §8.3.1, RFC 8441
// §4). A head that is cut short for its size gets an answer all the same.
func (b *block) checkRequest() string {
	h := b.head
	const full = pseudoMethod | pseudoScheme | pseudoPath
	if b.pseudo&pseudoAuthority == 0 {
		h.Authority = b.host
	} else if b.host != "" && !strings.EqualFold(h.Authority, b.host) {
		return ":authority and host name different hosts"
	}
	if h.Method == "CONNECT" && b.pseudo&pseudoProtocol == 0 {
		if b.pseudo&(pseudoScheme|pseudoPath) != 0 || h.Authority == "" {
			return "CONNECT with other pseudo-header fields than its own"
		}
		return ""
	}
	switch {
	case b.pseudo&full != full:
		return "a pseudo-header field is missing"
	case b.pseudo&pseudoProtocol != 0 && h.Method != "CONNECT":
		return ":protocol without CONNECT"
	case !wire.ValidName(h.Method):
		return ":method holds a character that is not allowed"
	case !wire.ValidTarget(h.Path) || h.Path[0] != '/' && (h.Path != "*" || h.Method != "OPTIONS"):
		return ":path is not a path"
	case !wire.ValidScheme(h.Scheme):
		return ":scheme holds a character that is not allowed"
	case strings.ContainsAny(h.Authority, "@"):
		return ":authority holds user information"
	}
	return ""
}

// completeTrailers is the end of a body.
func (c *Conn) completeTrailers(s *Stream, b *block) error {
	switch {
	case b.bad == "" && !b.end:
		b.bad = "trailers without END_STREAM"
	case b.bad == "" && b.full != nil:
		b.bad = "trailers that are too large"
	}
	if b.bad != "" {
		return c.mistake(s.id, ProtocolError, b.bad)
	}
	c.endReceived(s, b.head.Fields)
	if c.fail != nil {
		return c.fail
	}
	return nil
}

// completeResponse is a head that a server sent.
func (c *Conn) completeResponse(s *Stream, b *block) error {
	h := b.head
	switch {
	case b.bad != "":
	case b.full != nil:
		b.bad = "a head that is too large"
	case h.Status == 0:
		b.bad = ":status is missing, or not three digits"
	case h.Status == 101:
		b.bad = "101, which HTTP/2 does not have"
	case h.Status < 200 && b.end:
		b.bad = "an informational response that ends the stream"
	}
	if b.bad != "" {
		return c.mistake(s.id, ProtocolError, b.bad)
	}
	if h.Status < 200 {
		c.handler.Head(s, h, false)
		return nil
	}
	s.head, s.length = true, h.Length
	s.bodiless = s.bodiless || h.Status == 204 || h.Status == 304
	if b.end && h.Length > 0 && !s.bodiless {
		return c.mistake(s.id, ProtocolError, "less DATA than Content-Length says")
	}
	s.recvEnded = b.end
	c.budget.earn(8)
	c.handler.Head(s, h, b.end)
	s.settle()
	return nil
}
