// Package wire is the HTTP/1.1 message syntax (RFC 9112) without I/O: bytes in,
// heads and chunks out, and back. Both sides of the engine use it. The parser
// accepts only what every recipient reads alike: where the RFC leaves a choice
// between repairing and refusing, it refuses, because a message that two
// parsers read differently is how requests are smuggled.
//
// Parsed strings are copies, made once per head; they never alias the buffer.
package wire

import "strconv"

// Limits bound one message. Each is a number of bytes unless it says so.
type Limits struct {
	Head          int // request or status line plus fields; beyond: 431
	Fields        int // number of field lines; beyond: 431
	Target        int // request target; beyond: 414
	ChunkExt      int // chunk extensions of a whole body; beyond: 400
	Trailer       int // trailer section; beyond: 431
	TrailerFields int // number of trailer fields; beyond: 431
}

// DefaultLimits are what an edge can offer to strangers.
var DefaultLimits = Limits{
	Head:          64 << 10,
	Fields:        256,
	Target:        16 << 10,
	ChunkExt:      16 << 10,
	Trailer:       16 << 10,
	TrailerFields: 64,
}

// Error is a message that is refused. A server answers it with Status and
// closes the connection, since what follows cannot be trusted; a client treats
// it as a bad response.
type Error struct {
	Status int    // 400, 414, 417, 431 or 505
	Reason string // a constant word for logs and metrics, e.g. "bare_lf"
	Detail string // what is wrong, for people; never holds peer text
}

// Error implements error.
func (e *Error) Error() string {
	return strconv.Itoa(e.Status) + " " + e.Reason + ": " + e.Detail
}

func bad(reason, detail string) error { return &Error{400, reason, detail} }
