// Package view is one request as matching, policies and the access record see
// it. Fronts (HTTP/1.1, HTTP/2) fill it; nobody behind it knows which front it
// was. The package also holds the two normal forms that everything depends on:
// CanonicalHost and CanonicalPath.
package view

import (
	"net/netip"
	"time"
)

// Field is one header or trailer field line. Name keeps the spelling in which
// it arrived; compare it with Fields.Get or strings.EqualFold.
type Field struct {
	Name  string
	Value string
}

// Conn is what is known of the client connection a request came on. It is
// written by the listener before the first request and only read afterwards.
type Conn struct {
	// Peer is the address of the client: the TCP peer, or the source named
	// by a PROXY protocol header from an allowed sender. Always unmapped
	// (never ::ffff:a.b.c.d).
	Peer netip.AddrPort
	// Local is the address the connection was accepted on.
	Local netip.AddrPort
	// TLS is nil on a plaintext connection.
	TLS *TLS
}

// TLS is what the handshake settled.
type TLS struct {
	ServerName string // canonical SNI host; empty if the client sent none
	Protocol   string // ALPN: "h2", "http/1.1" or empty
	Version    uint16 // crypto/tls version constant
	Cipher     uint16 // crypto/tls suite constant
	// Policy is the TLS policy the connection was made under.
	Policy string
	// Covers reports whether the certificate served on this connection is
	// valid for the canonical host. Safe for concurrent use.
	Covers func(host string) bool
}

// Request is one request. The engine owns it for the time of the request;
// matching and policies only read it. Strings may alias the connection's
// buffer: whoever keeps one beyond the request clones it.
type Request struct {
	Method string
	// Scheme is "https" or "http": the connection's, or what a trusted peer
	// said in X-Forwarded-Proto.
	Scheme string
	// Authority is Host or :authority as sent, with port.
	Authority string
	// Host is the canonical form of Authority: lower case, no port, no
	// trailing dot, IPv6 in brackets. Empty if the request names no host.
	Host string
	// Path is the canonical path (see CanonicalPath); the one form that is
	// matched, checked, logged and forwarded. "*" for OPTIONS *.
	Path string
	// Query is everything behind the first "?", unparsed. HasQuery tells "/a?"
	// from "/a".
	Query    string
	HasQuery bool
	// Proto is "HTTP/1.0", "HTTP/1.1" or "HTTP/2.0".
	Proto string
	// Fields are the header fields without Host, pseudo-fields and message
	// framing. Those of one name are in the order of arrival; in HTTP/1.1 all
	// are.
	Fields Fields
	Conn   *Conn
	// Client is the client's address: Conn.Peer, or, behind trusted proxies,
	// the rightmost address of X-Forwarded-For that is not trusted.
	Client netip.Addr
	// ID is the request id, ours or a trusted peer's.
	ID string
}

// Target returns the origin-form to forward: the canonical path and the query
// as it came.
func (r *Request) Target() string {
	if !r.HasQuery {
		return r.Path
	}
	return r.Path + "?" + r.Query
}

// Record is the account of one finished exchange: the input of the access log
// and of the metrics. Observers must not keep it; its strings may alias
// request memory.
type Record struct {
	Start    time.Time
	Request  *Request // never nil; Method and Path are empty if the head was unreadable
	Status   int      // status sent to the client; 499 if the client left before a response
	Reason   string   // why the proxy itself answered, e.g. "no_route"; empty for a backend's response
	BytesIn  int64    // request body bytes read
	BytesOut int64    // response body bytes written
	// Ingress and Service are "namespace/name"; empty where no route matched.
	Ingress  string
	Service  string
	Port     string // Service port as the Ingress names it
	Endpoint string // address:port that answered, or that was tried last; empty if none was
	Attempts int    // endpoints tried
	Upgraded bool   // the connection became a tunnel (101)
	// Duration is from the first byte of the head to the last byte of the
	// response; Upstream from the pick to the end of the response head.
	Duration time.Duration
	Upstream time.Duration
}
