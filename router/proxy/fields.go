package proxy

import (
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// fieldClass is how a field is treated on the way through.
type fieldClass uint8

const (
	plain     fieldClass = iota
	hopByHop             // about this connection only (RFC 9110 §7.6.1)
	identity             // says who the client is; believed from trusted peers only
	requestID            // X-Request-ID
	protected            // end to end, whatever Connection says
	trailer              // Trailer: kept where trailers are
	poison               // Proxy: CGI makes it HTTP_PROXY, which programs obey (CVE-2016-5385)
)

// classify looks a name up without case and with "_" read as "-", since that is
// how CGI-like backends read it.
func classify(name string) fieldClass {
	var buf [28]byte
	n := copy(buf[:], name)
	for i, c := range buf[:n] {
		switch {
		case c >= 'A' && c <= 'Z':
			buf[i] = c | 0x20
		case c == '_':
			buf[i] = '-'
		}
	}
	if n == len(name) {
		switch string(buf[:n]) {
		case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade",
			"proxy-authenticate", "proxy-authorization", "proxy-authentication-info", "http2-settings":
			return hopByHop
		case "forwarded", "x-real-ip", "x-scheme", "client-cert", "client-cert-chain":
			return identity
		case "x-request-id":
			return requestID
		case "trailer":
			return trailer
		case "proxy":
			return poison
		case "host", "content-length", "content-type", "content-encoding", "authorization", "cookie",
			"set-cookie", "expect", "date", "via", "cache-control", "vary", "location", "origin":
			return protected
		}
	}
	for _, prefix := range [...]string{"x-forwarded-", "x-original-", "ssl-client-"} {
		if n >= len(prefix) && string(buf[:len(prefix)]) == prefix {
			return identity
		}
	}
	return plain
}

// clean removes from a request what must not reach the backend: hop-by-hop
// fields and those that Connection nominates, underscore names, Proxy, and what
// an untrusted peer says about who the client is. In place.
func (e *Engine) clean(fs view.Fields, trusted bool) view.Fields {
	nominated := nominations(fs)
	return fs.DelFunc(func(f view.Field) bool {
		if !e.opts.AllowUnderscores && strings.IndexByte(f.Name, '_') >= 0 {
			return true
		}
		switch classify(f.Name) {
		case hopByHop, poison:
			return true
		case identity, requestID:
			return !trusted
		case protected, trailer:
			return false
		}
		return nominates(nominated, f.Name)
	})
}

// cleanResponse removes hop-by-hop fields from a response. In place.
func cleanResponse(fs view.Fields, trailers bool) view.Fields {
	nominated := nominations(fs)
	return fs.DelFunc(func(f view.Field) bool {
		switch classify(f.Name) {
		case hopByHop:
			return true
		case trailer:
			return !trailers
		case plain:
			return nominates(nominated, f.Name)
		}
		return false
	})
}

// nominations returns the field names in Connection. Nil in most messages,
// which name only options of the protocol itself. Fields that we set or that
// decide what a request means are never removed this way: a client could
// otherwise strip what a proxy in front has vouched for.
func nominations(fs view.Fields) []string {
	var out []string
	for name := range fs.Tokens("Connection") {
		if c := classify(name); c == plain && !strings.EqualFold(name, "close") {
			out = append(out, name)
		}
	}
	return out
}

func nominates(nominated []string, name string) bool {
	for _, n := range nominated {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}
