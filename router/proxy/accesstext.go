package proxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/view"
)

// NginxLine is an AccessFormat: the default one of ingress-nginx,
//
//	$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id
//
// so that what reads such lines can go on reading them. The target and the referrer are
// without their queries, and there is never a user, since those can be credentials;
// the request's length is that of its body; the time is UTC; of several endpoints that
// were tried the last is named.
func NginxLine(b []byte, r *view.Record) []byte {
	q := r.Request
	b = append(b, q.Client.String()...)
	b = append(b, " - - ["...)
	b = r.Start.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	if q.Method == "" {
		b = append(b, '-')
	} else {
		b = appendEscaped(b, q.Method)
		b = append(b, ' ')
		b = appendEscaped(b, q.Path)
		b = append(b, ' ')
		b = appendEscaped(b, q.Proto)
	}
	b = append(b, `" `...)
	b = appendNumber(b, int64(r.Status))
	b = appendNumber(b, r.BytesOut)
	referer, _, _ := strings.Cut(q.Fields.Get("Referer"), "?")
	b = appendQuoted(b, referer)
	b = appendQuoted(b, q.Fields.Get("User-Agent"))
	b = appendNumber(b, r.BytesIn)
	b = appendSeconds(b, r.Duration)
	b = append(b, '[')
	if r.Service != "" {
		b = append(b, strings.Replace(r.Service, "/", "-", 1)...)
		b = append(b, '-')
		b = append(b, r.Port...)
	}
	b = append(b, "] [] "...)
	b = appendUpstream(b, r)
	return append(append(b, q.ID...), '\n')
}

// appendUpstream appends what an endpoint has done, each of it "-" if none was asked.
func appendUpstream(b []byte, r *view.Record) []byte {
	if r.Endpoint == "" {
		return append(b, "- - - - "...)
	}
	b = append(b, r.Endpoint...)
	b = append(b, ' ')
	b = appendNumber(b, r.BytesOut)
	b = appendSeconds(b, r.Upstream)
	if r.Status == 499 {
		return append(b, "- "...)
	}
	return appendNumber(b, int64(r.Status))
}

func appendNumber(b []byte, n int64) []byte { return append(strconv.AppendInt(b, n, 10), ' ') }

func appendSeconds(b []byte, d time.Duration) []byte {
	return append(strconv.AppendFloat(b, d.Seconds(), 'f', 3, 64), ' ')
}

func appendQuoted(b []byte, s string) []byte {
	if s == "" {
		s = "-"
	}
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, `" `...)
}

// appendEscaped escapes as nginx does, so that no byte of a client's ends a string or
// the line.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}
