package wire

import (
	"strconv"

	"github.com/portico-ingress/portico/router/view"
)

// The Append functions write what the caller knows to be valid; they check
// nothing.

// AppendRequestLine appends the first line of an HTTP/1.1 request.
func AppendRequestLine(b []byte, method, target string) []byte {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	return append(b, " HTTP/1.1\r\n"...)
}

// AppendStatusLine appends the first line of an HTTP/1.1 response.
func AppendStatusLine(b []byte, status int, reason string) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	return append(b, '\r', '\n')
}

// AppendField appends one field line.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// AppendFields appends every field line.
func AppendFields(b []byte, fs view.Fields) []byte {
	for i := range fs {
		b = AppendField(b, fs[i].Name, fs[i].Value)
	}
	return b
}

// AppendFraming appends the field that announces the body: Content-Length for
// a length from 0 on, chunked for -1.
func AppendFraming(b []byte, length int64) []byte {
	if length < 0 {
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, length, 10)
	return append(b, '\r', '\n')
}

// AppendEnd appends the empty line that ends a head.
func AppendEnd(b []byte) []byte { return append(b, '\r', '\n') }

// AppendChunk appends data as one chunk; empty data appends nothing, since an
// empty chunk would end the body.
func AppendChunk(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	b = strconv.AppendUint(b, uint64(len(data)), 16)
	b = append(b, '\r', '\n')
	b = append(b, data...)
	return append(b, '\r', '\n')
}

// AppendLastChunk appends the end of a chunked body with its trailers.
func AppendLastChunk(b []byte, trailers view.Fields) []byte {
	b = append(b, "0\r\n"...)
	b = AppendFields(b, trailers)
	return append(b, '\r', '\n')
}
