package wire

import (
	"bytes"
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// A HeadScanner finds the end of a head while its bytes arrive, looking at each
// byte once. The zero value is ready; Reset it for the next message.
type HeadScanner struct {
	line    int // where the line being scanned starts
	lines   int // finished lines
	blank   int // leading empty lines skipped
	scanned int // bytes already searched for LF
}

// Reset makes s ready for the next head.
func (s *HeadScanner) Reset() { *s = HeadScanner{} }

// Scan looks at buf, which must hold what earlier calls saw plus what arrived
// since. It returns the length of the head, its final empty line included, or
// 0 if bytes are missing. A bare LF and a head over the limits are errors as
// soon as they are seen. One empty line before the first is tolerated
// (RFC 9112 §2.2).
func (s *HeadScanner) Scan(buf []byte, l *Limits) (int, error) {
	for {
		i := bytes.IndexByte(buf[s.scanned:], '\n')
		if i < 0 {
			s.scanned = len(buf)
			return 0, s.tooLong(len(buf), l)
		}
		end := s.scanned + i
		if end == s.line || buf[end-1] != '\r' {
			return 0, bad("bare_lf", "a line of the head ends in LF without CR")
		}
		empty := end-1 == s.line
		s.scanned, s.line = end+1, end+1
		if err := s.tooLong(end+1, l); err != nil {
			return 0, err
		}
		switch {
		case !empty:
			s.lines++
		case s.lines > 0:
			return end + 1, nil
		case s.blank > 0:
			return 0, bad("blank_lines", "empty lines before the start line")
		default:
			s.blank++
		}
	}
}

func (s *HeadScanner) tooLong(n int, l *Limits) error {
	// The longest start line: target, a method and a version around it.
	if s.lines == 0 && n > l.Target+128 {
		return &Error{414, "target_too_long", "the request line is too long"}
	}
	if n > l.Head {
		return &Error{431, "head_too_large", "the header section is too large"}
	}
	return nil
}

// cutLine splits s at its first CRLF. A CR or LF that is not part of one stays in
// the line, where no character class accepts it.
func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	switch {
	case i < 0:
		return s, ""
	case i > 0 && s[i-1] == '\r':
		return s[:i-1], s[i+1:]
	}
	return s[:i+1], s[i+1:]
}

// eachField parses field lines up to the empty one and hands each to add.
func eachField(s string, limit int, add func(name, value string) error) error {
	for n := 0; ; n++ {
		line, rest := cutLine(s)
		if line == "" {
			return nil
		}
		if n == limit {
			return &Error{431, "too_many_fields", "too many header fields"}
		}
		name, value, err := parseField(line)
		if err != nil {
			return err
		}
		if err := add(name, value); err != nil {
			return err
		}
		s = rest
	}
}

func parseField(line string) (name, value string, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", bad("obs_fold", "a field line starts with a blank (obsolete folding)")
	}
	n := 0
	for n < len(line) && class[line[n]]&isToken != 0 {
		n++
	}
	switch {
	case n > 0 && n < len(line) && line[n] == ':':
	case strings.IndexByte(line, ':') < 0:
		return "", "", bad("field_syntax", "a field line has no colon")
	default:
		return "", "", bad("field_name", "a field name is empty or holds a character that is not allowed")
	}
	value = trimBlanks(line[n+1:])
	if !allValue(value) {
		return "", "", bad("field_value", "a field value holds a control character")
	}
	return line[:n], value, nil
}

// framing gathers what a head says about its body.
type framing struct {
	lengths int    // number of Content-Length values
	length  int64  // their common value
	codings int    // number of Transfer-Encoding fields
	coding  string // the last one
}

// take reports whether the field is about framing, and notes it.
func (f *framing) take(name, value string) (bool, error) {
	switch {
	case is(name, "Content-Length"):
		return true, f.takeLength(value)
	case is(name, "Transfer-Encoding"):
		f.codings++
		f.coding = value
		return true, nil
	}
	return false, nil
}

// is compares a field name, which is a token, without case.
func is(name, known string) bool { return len(name) == len(known) && strings.EqualFold(name, known) }

// takeLength accepts repeated lengths only if all are the same digits
// (RFC 9110 §8.6).
func (f *framing) takeLength(value string) error {
	if n, ok := ParseLength(value); ok && f.lengths == 0 {
		f.lengths, f.length = 1, n
		return nil
	}
	for part := range strings.SplitSeq(value, ",") {
		n, ok := ParseLength(trimBlanks(part))
		if !ok {
			return bad("content_length", "Content-Length is not a number of bytes")
		}
		if f.lengths > 0 && n != f.length {
			return bad("content_length", "there are Content-Length fields with different values")
		}
		f.lengths++
		f.length = n
	}
	return nil
}

// ParseLength reads a Content-Length: digits, at most 18 of them.
func ParseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if class[s[i]]&isDigit == 0 {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// chunked settles Transfer-Encoding: exactly one field that says exactly
// "chunked", in HTTP/1.1, without Content-Length (RFC 9112 §6.1).
func (f *framing) chunked(minor int) (bool, error) {
	switch {
	case f.codings == 0:
		return false, nil
	case f.lengths > 0:
		return false, bad("length_and_coding", "both Content-Length and Transfer-Encoding are present")
	case minor == 0:
		return false, bad("coding_in_1_0", "Transfer-Encoding in an HTTP/1.0 message")
	case f.codings > 1 || !strings.EqualFold(f.coding, "chunked"):
		return false, bad("transfer_encoding", `Transfer-Encoding is not exactly "chunked"`)
	}
	return true, nil
}

// Framing is how the end of a body is found.
type Framing uint8

// The ways a body ends.
const (
	NoBody  Framing = iota
	Length          // after a number of bytes
	Chunked         // after the last chunk
	Close           // when the connection closes; responses only
)

// keepAlive reports whether the connection may carry another message
// (RFC 9112 §9.3).
func keepAlive(minor int, fs view.Fields) bool {
	if fs.HasToken("Connection", "close") {
		return false
	}
	return minor == 1 || fs.HasToken("Connection", "keep-alive")
}
