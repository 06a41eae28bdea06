package router

import (
	"strings"

	"github.com/portico-ingress/portico/router/view"
)

// Verdict is what becomes of a request before any backend is asked. The engine
// acts on it and explain shows it.
type Verdict uint8

// The verdicts, in the order in which they are looked for.
const (
	Forward     Verdict = iota // to an endpoint of the route's pool; 503 if there is none
	Misdirected                // 421: wrong connection for this host (RFC 9110 §15.5.20)
	NotFound                   // 404: no route
	Redirect                   // 308 to https
	Refused                    // 503: the route asks for what cannot be enforced
	Starting                   // 503: no table yet; a known host must not get a 404
)

// ACMEChallengePath is where certificate authorities ask for HTTP-01 tokens
// (RFC 8555 §8.3). Requests below it are never redirected.
const ACMEChallengePath = "/.well-known/acme-challenge/"

// RefusesMethod reports whether requests with that method are answered 405
// whatever they ask for: CONNECT would hand out a raw connection to a backend,
// and TRACE would show what was added on the way.
func RefusesMethod(method string) bool { return method == "CONNECT" || method == "TRACE" }

// RefusesUpgrade reports whether a request with these fields is answered 400: a
// backend that speaks h2c would take requests that nobody matched.
func RefusesUpgrade(fs view.Fields) bool { return fs.HasToken("Upgrade", "h2c") }

// Verdict says what becomes of the request that d was made for.
func (d Decision) Verdict(r *view.Request) Verdict {
	switch {
	case d.Outcome == NoTable:
		return Starting
	case d.misdirected(r):
		return Misdirected
	case d.Route == nil:
		return NotFound
	case d.redirects(r):
		return Redirect
	case d.Route.Policy.Refuse != "":
		return Refused
	}
	return Forward
}

// misdirected tells requests that came on the wrong TLS connection. Where the
// request's host and the server name agree, or one is not given, the connection
// is right whatever certificate it got. Where they differ, it must have been
// made under the TLS policy of the request's host, and in HTTP/2, where clients
// reuse connections for every name that the certificate lists, the certificate
// must list it.
func (d Decision) misdirected(r *view.Request) bool {
	t := r.Conn.TLS
	switch {
	case t == nil || r.Host == t.ServerName:
		return false
	case d.TLSPolicy != t.Policy:
		return true // also without SNI: a policy is not to be had by saying less
	case r.Host == "" || t.ServerName == "":
		return false
	}
	return r.Proto == "HTTP/2.0" && !t.Covers(r.Host)
}

func (d Decision) redirects(r *view.Request) bool {
	return r.Scheme == "http" && d.TLS && d.Route.Policy.SSLRedirect.Or(true) && !strings.HasPrefix(r.Path, ACMEChallengePath)
}
