package proxy

import (
	"context"
	"io"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/portico-ingress/portico/router/view"
)

// AccessFormat appends the line of an exchange.
type AccessFormat func(b []byte, r *view.Record) []byte

// AccessLog is an Observer that writes one line per exchange.
// A request never waits for the writer: lines go through a bounded ring, and
// what does not fit is dropped and counted.
//
// Of a request only method, host, path without query, protocol and User-Agent
// are written, and in NginxLine the referrer without its query, so no credentials; every string of a peer's is escaped.
type AccessLog struct {
	w       io.Writer
	format  AccessFormat
	lines   chan *[]byte // the ring
	free    chan *[]byte // buffers of written lines
	dropped atomic.Int64
}

// NewAccessLog returns an AccessLog that keeps up to size lines for a slow
// writer. Nothing is written before Start.
func NewAccessLog(w io.Writer, format AccessFormat, size int) *AccessLog {
	return &AccessLog{w: w, format: format, lines: make(chan *[]byte, size), free: make(chan *[]byte, size)}
}

// Start writes until ctx ends, and then what the ring still holds.
func (l *AccessLog) Start(ctx context.Context) error {
	batch := make([]byte, 0, 64<<10)
	for {
		select {
		case line := <-l.lines:
			batch = l.take(batch[:0], line)
		case <-ctx.Done():
			for len(l.lines) > 0 {
				l.w.Write(l.take(batch[:0], <-l.lines))
			}
			return nil
		}
		for len(l.lines) > 0 && len(batch) < 32<<10 {
			batch = l.take(batch, <-l.lines)
		}
		l.w.Write(batch) // there is nowhere to report that the log is broken
	}
}

func (l *AccessLog) take(batch []byte, line *[]byte) []byte {
	batch = append(batch, *line...)
	select {
	case l.free <- line:
	default:
	}
	return batch
}

// Dropped returns how many lines did not fit in the ring.
func (l *AccessLog) Dropped() int64 { return l.dropped.Load() }

// Observe implements Observer.
func (l *AccessLog) Observe(r *view.Record) {
	var line *[]byte
	select {
	case line = <-l.free:
	default:
		line = new([]byte)
	}
	*line = l.format((*line)[:0], r)
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
	}
}

// JSONLine is an AccessFormat: a JSON object.
func JSONLine(b []byte, r *view.Record) []byte {
	q := r.Request
	b = append(b, `{"time":"`...)
	b = r.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	for _, f := range [...]struct{ name, value string }{
		{"id", q.ID}, {"client", q.Client.String()}, {"method", q.Method}, {"host", q.Host},
		{"path", q.Path}, {"proto", q.Proto}, {"scheme", q.Scheme}, {"reason", r.Reason},
		{"ingress", r.Ingress}, {"service", r.Service}, {"endpoint", r.Endpoint},
		{"user_agent", q.Fields.Get("User-Agent")},
	} {
		b = append(b, `,"`...)
		b = append(b, f.name...)
		b = append(b, `":`...)
		b = appendString(b, f.value)
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{
		{"status", int64(r.Status)}, {"bytes_in", r.BytesIn}, {"bytes_out", r.BytesOut}, {"attempts", int64(r.Attempts)},
	} {
		b = append(b, `,"`...)
		b = append(b, f.name...)
		b = append(b, `":`...)
		b = strconv.AppendInt(b, f.value, 10)
	}
	b = append(b, `,"duration_ms":`...)
	b = appendMillis(b, r.Duration)
	b = append(b, `,"upstream_ms":`...)
	b = appendMillis(b, r.Upstream)
	return append(b, '}', '\n')
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', 3, 64)
}

// appendString appends s as a JSON string: control characters, quotes and
// invalid UTF-8 cannot end the string or the line.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029':
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			b = utf8.AppendRune(b, r) // invalid bytes range as U+FFFD
		}
	}
	return append(b, '"')
}
