package wire

import (
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// RequestHead is a parsed request head.
type RequestHead struct {
	Method string
	// Target is the request target as sent; Path and Query are its parts, in
	// origin-form. Path is "*" for OPTIONS *, "/" for an absolute-form without
	// a path and empty for CONNECT.
	Target   string
	Path     string
	Query    string
	HasQuery bool
	// Authority is that of an absolute-form or CONNECT target, else Host.
	// Empty only in HTTP/1.0, or where the client sent an empty Host.
	Authority string
	Minor     int // 0 or 1 of HTTP/1.x
	// Fields are the fields without Host, Content-Length, Transfer-Encoding
	// and Expect. ParseRequest reuses the slice.
	Fields  view.Fields
	Framing Framing // NoBody, Length or Chunked
	Length  int64   // of the body; -1 if Chunked
	// Continue tells that the client waits for "100 Continue" before it sends
	// the body.
	Continue bool
	// KeepAlive tells that the client lets the connection persist.
	KeepAlive bool
}

// Proto returns "HTTP/1.0" or "HTTP/1.1".
func (h *RequestHead) Proto() string {
	if h.Minor == 0 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// ParseRequest parses head, which a HeadScanner has found complete, into h.
// What it refuses is an *Error; h then holds what came before that, to be told.
func ParseRequest(head []byte, l *Limits, h *RequestHead) error {
	s := strings.TrimPrefix(string(head), "\r\n")
	*h = RequestHead{Fields: h.Fields[:0]}
	line, rest := cutLine(s)
	if err := h.parseLine(line, l); err != nil {
		return err
	}
	hosts := 0
	var f framing
	err := eachField(rest, l.Fields, func(name, value string) error {
		if ok, err := f.take(name, value); ok {
			return err
		}
		switch {
		case is(name, "Host"):
			hosts++
			h.Authority = value
		case is(name, "Expect"):
			return h.expect(value)
		default:
			h.Fields = append(h.Fields, view.Field{Name: name, Value: value})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if hosts > 1 || hosts == 0 && h.Minor == 1 {
		h.Authority = ""
		return bad("host_count", "HTTP/1.1 wants exactly one Host field")
	}
	if err := h.parseTarget(); err != nil {
		return err
	}
	h.KeepAlive = keepAlive(h.Minor, h.Fields)
	return h.frame(&f)
}

func (h *RequestHead) parseLine(line string, l *Limits) error {
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !ValidName(method) || strings.Contains(version, " ") {
		return bad("request_line", "the request line is not METHOD TARGET VERSION with single spaces")
	}
	switch {
	case version == "HTTP/1.1":
		h.Minor = 1
	case version == "HTTP/1.0":
	case line == "PRI * HTTP/2.0":
		return bad("h2_preface", "HTTP/2 is spoken only where TLS has settled on it")
	case len(version) == 8 && strings.HasPrefix(version, "HTTP/") && version[6] == '.' &&
		all(version[5:6]+version[7:], isDigit):
		return &Error{505, "version", "only HTTP/1.0 and HTTP/1.1 are spoken here"}
	default:
		return bad("request_line", "the request line does not end in an HTTP version")
	}
	if len(target) > l.Target {
		return &Error{414, "target_too_long", "the request target is too long"}
	}
	if !ValidTarget(target) {
		return bad("target", "the request target is empty or holds a character that is not allowed")
	}
	h.Method, h.Target = method, target
	return nil
}

// expect knows the only expectation there is (RFC 9110 §10.1.1).
func (h *RequestHead) expect(value string) error {
	if !strings.EqualFold(value, "100-continue") {
		return &Error{417, "expectation", "the only expectation understood is 100-continue"}
	}
	h.Continue = true
	return nil
}

// parseTarget settles the four forms of RFC 9112 §3.2.
func (h *RequestHead) parseTarget() error {
	t := h.Target
	switch {
	case h.Method == "CONNECT":
		h.Authority = t
		return nil
	case t == "*":
		if h.Method != "OPTIONS" {
			return bad("target", `the target "*" is for OPTIONS alone`)
		}
		h.Path = t
		return nil
	case t[0] != '/':
		rest, ok := cutScheme(t)
		if !ok {
			return bad("target", "the request target is neither a path nor an http URL")
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		h.Authority, t = rest[:end], rest[end:]
		if h.Authority == "" {
			return bad("target", "the URL in the request line names no host")
		}
	}
	h.Path, h.Query, h.HasQuery = strings.Cut(t, "?")
	if h.Path == "" {
		h.Path = "/"
	}
	return nil
}

func cutScheme(t string) (rest string, ok bool) {
	scheme, rest, ok := strings.Cut(t, "://")
	return rest, ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"))
}

// frame decides the body (RFC 9112 §6.3). A request without framing fields has
// none, whatever the method; one with them has one, whatever the method.
func (h *RequestHead) frame(f *framing) error {
	chunked, err := f.chunked(h.Minor)
	switch {
	case err != nil:
		return err
	case chunked:
		h.Framing, h.Length = Chunked, -1
	case f.lengths > 0 && f.length > 0:
		h.Framing, h.Length = Length, f.length
	}
	h.Continue = h.Continue && h.Minor == 1 && h.Framing != NoBody
	return nil
}
