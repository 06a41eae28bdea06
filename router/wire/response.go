package wire

import (
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// ResponseHead is a parsed response head.
type ResponseHead struct {
	Status int    // 100 to 999
	Reason string // the reason phrase, maybe empty
	Minor  int    // 0 or 1 of HTTP/1.x
	// Fields are the fields without Content-Length and Transfer-Encoding.
	// ParseResponse reuses the slice.
	Fields  view.Fields
	Framing Framing
	// Length is Content-Length, -1 without one. To HEAD and in a 304 it tells
	// of a body that is not there.
	Length int64
	// KeepAlive tells that the server lets the connection persist.
	KeepAlive bool
}

// ParseResponse parses head, which a HeadScanner has found complete, into h.
// The method of the request decides about the body. What it refuses is an
// *Error whose Status is meaningless: to a gateway all of them are 502.
func ParseResponse(head []byte, l *Limits, method string, h *ResponseHead) error {
	*h = ResponseHead{Fields: h.Fields[:0], Length: -1}
	line, rest := cutLine(string(head))
	if err := h.parseLine(line); err != nil {
		return err
	}
	var f framing
	err := eachField(rest, l.Fields, func(name, value string) error {
		ok, err := f.take(name, value)
		if !ok {
			h.Fields = append(h.Fields, view.Field{Name: name, Value: value})
		}
		return err
	})
	if err != nil {
		return err
	}
	h.KeepAlive = keepAlive(h.Minor, h.Fields)
	return h.frame(&f, method)
}

func (h *ResponseHead) parseLine(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	switch version {
	case "HTTP/1.1":
		h.Minor = 1
	case "HTTP/1.0":
	default:
		return bad("status_line", "the response does not start with HTTP/1.0 or HTTP/1.1")
	}
	n, ok := ParseLength(code)
	if !ok || len(code) != 3 || n < 100 {
		return bad("status_line", "the status code is not three digits from 100 on")
	}
	if !all(reason, isValue) {
		return bad("status_line", "the reason phrase holds a control character")
	}
	h.Status, h.Reason = int(n), reason
	return nil
}

func (h *ResponseHead) frame(f *framing, method string) error {
	chunked, err := f.chunked(h.Minor)
	if err != nil {
		return err
	}
	if f.lengths > 0 {
		h.Length = f.length
	}
	switch {
	case method == "HEAD" || h.Status < 200 || h.Status == 204 || h.Status == 304:
		h.Framing = NoBody
	case chunked:
		h.Framing = Chunked
	case f.lengths > 0:
		h.Framing = Length
	default:
		h.Framing = Close
	}
	return nil
}
