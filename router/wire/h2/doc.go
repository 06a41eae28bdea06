// Package h2 is HTTP/2 connections (RFC 9113) without I/O, of either side.
// Received bytes go in and become calls of a Handler; what is to be sent
// gathers in a buffer, which the driver writes when it likes: all frames of a
// turn leave in one write.
//
// A Conn is not safe for concurrent use. Its owner may call it from within the
// Handler.
package h2

import "strconv"

// Preface is what a client sends first (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Code is an error code of RFC 9113 §7.
type Code uint32

// The error codes.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the name of the RFC, or the number.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return strconv.FormatUint(uint64(c), 10)
}

// ConnError ends a connection: what the peer did leaves no telling what it
// means. The GOAWAY that says so is in the buffer already.
type ConnError struct {
	Code   Code
	Detail string // never holds peer text
}

// Error implements error.
func (e *ConnError) Error() string { return e.Code.String() + ": " + e.Detail }

// StreamError ends one stream.
type StreamError struct {
	Code Code
	// Remote tells that the peer ended the stream.
	Remote bool
	Detail string
}

// Error implements error.
func (e *StreamError) Error() string {
	who := "ended here"
	if e.Remote {
		who = "ended by the peer"
	}
	return "stream " + who + ": " + e.Code.String() + ": " + e.Detail
}
