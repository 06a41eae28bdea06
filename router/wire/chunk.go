package wire

import (
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// Chunks takes a chunked body apart (RFC 9112 §7.1). Extensions are checked
// and dropped. The zero value with Limits set is ready.
type Chunks struct {
	Limits *Limits

	state   chunkState
	digits  int
	left    uint64 // of the chunk being read
	ext     int    // extension bytes of the body so far
	trailer []byte // the trailer section so far
	fields  view.Fields
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// maxSizeDigits keeps the size of a chunk within 60 bits.
const maxSizeDigits = 15

// Done reports whether the body has ended, trailers included.
func (c *Chunks) Done() bool { return c.state == chunkDone }

// Trailers returns the trailer fields of a body that is done, without those
// that must not be in a trailer section. Nil if there are none.
func (c *Chunks) Trailers() view.Fields { return c.fields }

// Scan consumes the first n bytes of buf. It stops behind a run of chunk data,
// which it returns as a part of buf, at the end of the body, or at the end of
// buf.
func (c *Chunks) Scan(buf []byte) (data []byte, n int, err error) {
	for n < len(buf) && c.state != chunkDone {
		if c.state == chunkData {
			run := buf[n:]
			if uint64(len(run)) > c.left {
				run = run[:c.left]
			}
			c.left -= uint64(len(run))
			if c.left == 0 {
				c.state = chunkDataCR
			}
			return run, n + len(run), nil
		}
		if err := c.step(buf[n]); err != nil {
			return nil, n, err
		}
		n++
	}
	return nil, n, nil
}

// step takes one byte outside chunk data.
func (c *Chunks) step(b byte) error {
	switch c.state {
	case chunkSize:
		return c.sizeByte(b)
	case chunkExt:
		return c.extByte(b)
	case chunkSizeLF:
		if b != '\n' {
			return bad("chunk_size", "CR without LF behind a chunk size")
		}
		c.digits = 0
		c.state = chunkData
		if c.left == 0 {
			c.state = chunkTrailer
		}
	case chunkDataCR:
		if b != '\r' {
			return bad("chunk_data", "a chunk is not followed by CRLF")
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return bad("chunk_data", "a chunk is not followed by CRLF")
		}
		c.state = chunkSize
	case chunkTrailer:
		return c.trailerByte(b)
	}
	return nil
}

func (c *Chunks) sizeByte(b byte) error {
	switch {
	case class[b]&isHex != 0:
		if c.digits++; c.digits > maxSizeDigits {
			return bad("chunk_size", "a chunk size has too many digits")
		}
		c.left = c.left<<4 | hexValue(b)
	case c.digits == 0:
		return bad("chunk_size", "a chunk does not start with a hexadecimal size")
	case b == '\r':
		c.state = chunkSizeLF
	case b == ';':
		c.state = chunkExt
	default:
		return bad("chunk_size", "a chunk size is not a plain hexadecimal number")
	}
	return nil
}

func (c *Chunks) extByte(b byte) error {
	if b == '\r' {
		c.state = chunkSizeLF
		return nil
	}
	if class[b]&isExt == 0 {
		return bad("chunk_ext", "a chunk extension holds a character that is not allowed")
	}
	if c.ext++; c.ext > c.Limits.ChunkExt {
		return bad("chunk_ext", "the chunk extensions are too long")
	}
	return nil
}

func (c *Chunks) trailerByte(b byte) error {
	if len(c.trailer) >= c.Limits.Trailer {
		return &Error{431, "trailer_too_large", "the trailer section is too large"}
	}
	c.trailer = append(c.trailer, b)
	if b != '\n' {
		return nil
	}
	t := c.trailer
	if len(t) < 2 || t[len(t)-2] != '\r' {
		return bad("bare_lf", "a line of the trailer section ends in LF without CR")
	}
	if len(t) > 2 && (len(t) < 4 || t[len(t)-3] != '\n') {
		return nil
	}
	err := eachField(string(t), c.Limits.TrailerFields, func(name, value string) error {
		if TrailerAllowed(name) {
			c.fields = append(c.fields, view.Field{Name: name, Value: value})
		}
		return nil
	})
	if err == nil {
		c.state = chunkDone
	}
	return err
}

// notInTrailers are fields that steer framing, routing, authentication or
// payload processing (RFC 9110 §6.5.1). Recipients that merge trailers into
// the header would let them overrule what was checked.
var notInTrailers = map[string]bool{
	"authorization": true, "cache-control": true, "client-cert": true, "client-cert-chain": true, "connection": true, "content-encoding": true,
	"content-length": true, "content-location": true, "content-range": true, "content-type": true,
	"cookie": true, "expect": true, "forwarded": true, "host": true, "http2-settings": true,
	"keep-alive": true, "location": true, "max-forwards": true, "pragma": true,
	"proxy-authenticate": true, "proxy-authorization": true, "proxy-connection": true, "range": true,
	"set-cookie": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
	"www-authenticate": true, "x-real-ip": true, "x-scheme": true, "x-request-id": true,
}

// TrailerAllowed reports whether a field of that name is forwarded in a
// trailer section.
func TrailerAllowed(name string) bool {
	lower := strings.ToLower(name)
	return !notInTrailers[lower] && !strings.Contains(lower, "_") &&
		!strings.HasPrefix(lower, "x-forwarded-") && !strings.HasPrefix(lower, "x-original-") && !strings.HasPrefix(lower, "ssl-client-")
}
