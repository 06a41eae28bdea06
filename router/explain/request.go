// Package explain says, for one request, where it would go and why: the host,
// the candidate paths in order and why not, the winner with its Ingress, the
// backend with its endpoints, and the certificate. The decision is made by
// Table.Match, the same function that the engine uses, so an explanation cannot
// lie.
package explain

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// Input is a request as people write it down.
type Input struct {
	URL     string     // "https://shop.example/cart?x=1"; without scheme: http
	Method  string     // default: GET
	Headers []string   // "Name: value"; Host replaces the URL's host
	From    netip.Addr // whom the connection comes from; default: 192.0.2.1
	// Trust are the proxies whose X-Forwarded-* fields are believed.
	Trust view.Trust
}

// documentation is an address that nobody has (RFC 5737).
var documentation = netip.MustParseAddr("192.0.2.1")

// parsed is an input as the engine sees it.
type parsed struct {
	*view.Request
	serverName string // what the client would send as SNI
	// refusal is why the engine would answer 400; empty: it would not.
	refusal string
}

// request makes the engine's view of the input. An error means that it is no
// request; one that the engine refuses is none.
func (in Input) request() (*parsed, error) {
	scheme, rest, found := strings.Cut(in.URL, "://")
	if !found {
		scheme, rest = "http", in.URL
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("URL %q: the scheme must be http or https", in.URL)
	}
	rest, _, _ = strings.Cut(rest, "#") // clients keep the fragment to themselves
	target := ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest, target = rest[:i], rest[i:]
	}
	peer := cmp.Or(in.From, documentation).Unmap()
	r := &parsed{Request: &view.Request{
		Method: cmp.Or(in.Method, "GET"), Scheme: scheme, Authority: rest, Proto: "HTTP/1.1",
		Conn: &view.Conn{Peer: netip.AddrPortFrom(peer, 0)},
	}}
	if r.Authority == "" {
		return nil, fmt.Errorf("URL %q names no host", in.URL)
	}
	var err error
	if r.serverName, err = view.CanonicalHost(r.Authority); err != nil {
		return nil, fmt.Errorf("URL %q: %w", in.URL, err)
	}
	if strings.ContainsAny(r.Method, " \t/:") {
		return nil, fmt.Errorf("method %q: %w", r.Method, errMethod)
	}
	if err := in.headers(r); err != nil {
		return nil, err
	}
	in.target(r, target)
	return r, nil
}

func (in Input) headers(r *parsed) error {
	for _, h := range in.Headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("header %q: write it as \"Name: value\"", h)
		}
		value = textproto.TrimString(value)
		if strings.EqualFold(name, "Host") {
			r.Authority = value
			continue
		}
		r.Fields = r.Fields.Add(name, value)
	}
	var err error
	if r.Host, err = view.CanonicalHost(r.Authority); err != nil {
		r.refusal = err.Error()
	}
	return nil
}

// errMethod is what RFC 9110 §9.1 says of methods.
var errMethod = errors.New("a method is a token such as GET")

func (in Input) target(r *parsed, target string) {
	path, query, hasQuery := strings.Cut(target, "?")
	r.Query, r.HasQuery = query, hasQuery
	if path == "" {
		path = "/"
	}
	canonical, err := view.CanonicalPath(path)
	if r.Path = canonical; err != nil {
		r.Path, r.refusal = path, err.Error()
	}
}
