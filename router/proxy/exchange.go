package proxy

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
)

// front is one request and its response as the protocol towards the client
// holds them. Body methods may be called beside the others.
type front interface {
	upstream.Body
	// Inform sends a 1xx response, or nothing where the protocol has none.
	Inform(status int, fields view.Fields) error
	// Begin takes the head of the final response; it may wait for Flush or
	// the first Write.
	Begin(*responseHead) error
	// Write takes body bytes and need not send them before Flush or End.
	Write(p []byte) error
	Flush() error
	// End completes the response.
	End(trailers view.Fields) error
	// Sink flushes, and returns the socket that takes the rest of the body as
	// it is; nil where the protocol or TLS has something to add.
	Sink() (*net.TCPConn, error)
	// Abort lets the client see that the response did not end.
	Abort()
	// Tunnel sends a 101 and hands out the connection with what the client
	// has sent behind its request. The front's work is then over.
	Tunnel(*responseHead) (net.Conn, error)
}

// responseHead is the head of a response to a client.
type responseHead struct {
	Status int
	Reason string // reason phrase; empty: the usual one
	// Fields are without framing and hop-by-hop fields.
	Fields view.Fields
	// Length of the body, or what Content-Length says where there is none;
	// -1 if unknown.
	Length int64
	// NoBody tells that no body follows, whatever Length says.
	NoBody  bool
	Upgrade string // protocol of a 101
	// At is the time, if it is known; zero: it is not.
	At time.Time
}

// exchange is one request on its way through the engine. The front fills the
// first part; it is used by one goroutine.
type exchange struct {
	ctx    context.Context // ends when the client is gone
	server context.Context // ends when connections are cut
	front  front
	req    view.Request
	path   string // as sent
	// length of the request body: 0 none, -1 unknown.
	length  int64
	expects bool   // the client waits for 100 Continue
	upgrade string // protocol offered, "" if none
	key     string // of a WebSocket that we open in the client's place

	trailers bool // the client takes trailer fields
	trusted  bool // the peer is a trusted proxy
	out      upstream.Request
	rec      view.Record
	head     responseHead // of a backend's response
	peer     string       // address of the peer
	ended    time.Time    // when the response was sent
	begun    bool         // the final response has begun

	writeStall time.Duration // Timeouts.WriteStall
}

// fault is why the engine itself answers.
type fault struct {
	status int
	reason string // constant word for logs and metrics
	detail string // sentence for people, without internals
	fields view.Fields
}

// refused is the view of a request whose head was refused: what is known of it goes to
// the log and nowhere else.
func refused(info *view.Conn, proto, method, host, target string) view.Request {
	path, _, _ := strings.Cut(target, "?")
	r := view.Request{Proto: proto, Conn: info, Client: info.Peer.Addr().Unmap(), ID: newID(), Method: method, Host: userless(host), Path: userless(path), Scheme: "http"}
	if info.TLS != nil {
		r.Scheme = "https"
	}
	return r
}

// userless is a host, or a target without its query, without the user and password
// that a URL may have there (RFC 3986 §3.2.1): logs have no credentials.
func userless(s string) string {
	if strings.HasPrefix(s, "/") {
		return s
	}
	return s[strings.LastIndexByte(s, '@')+1:]
}

// clientGone is the reason where a client has not waited for the end of its response.
const clientGone = "client_gone"

// run takes an exchange from its request to the end of its response, and
// reports it.
func (e *Engine) run(x *exchange) {
	defer e.report(x)
	defer func() {
		if v := recover(); v != nil {
			e.recovered(x, v)
		}
	}()
	if f := e.prepare(x); f != nil {
		x.front.Close() // nothing behind a request like this is worth reading
		x.answer(f)
		return
	}
	if e.opts.Overloaded() {
		x.front.Close()
		x.answer(overloaded("overload", "there is no room for further requests here"))
		return
	}
	if body, ok := e.challenge(x.ctx, &x.req); ok {
		x.answerText(200, "", "application/octet-stream", body, nil)
		return
	}
	decision, pool := e.opts.Snapshots.Match(&x.req)
	if r := decision.Route; r != nil {
		x.rec.Ingress, x.rec.Service, x.rec.Port = r.Ingress, r.Service, r.Backend.Port
	}
	if f := e.decide(&x.req, &decision); f != nil {
		x.answer(f)
		return
	}
	if pool == nil {
		x.answer(noEndpoint())
		return
	}
	e.forward(x, decision.Route, pool)
}

func (e *Engine) recovered(x *exchange, v any) {
	e.notePanic(v, x.req.ID)
	if x.begun {
		x.rec.Reason = "panic"
		x.front.Abort()
		return
	}
	x.answer(&fault{status: 500, reason: "panic", detail: "something went wrong here"})
}

func (e *Engine) report(x *exchange) {
	x.rec.Request = &x.req
	x.ended = time.Now()
	x.rec.Duration = x.ended.Sub(x.rec.Start)
	if x.rec.Reason == clientGone && x.server.Err() != nil {
		x.rec.Reason = "shutdown" // it was not the client
	}
	e.opts.Observer.Observe(&x.rec)
}

// prepare refuses what is never forwarded, and settles the canonical forms and
// who the client is.
func (e *Engine) prepare(x *exchange) *fault {
	r := &x.req
	e.identify(x)
	r.Path, r.Host = x.path, userless(r.Authority) // for the log, as they were sent, should they be refused
	switch {
	case router.RefusesMethod(r.Method):
		return &fault{status: 405, reason: "method", detail: r.Method + " is not served here",
			fields: view.Fields{{Name: "Allow", Value: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}}}
	case router.RefusesUpgrade(r.Fields):
		return &fault{status: 400, reason: "h2c", detail: "an upgrade to h2c is not served here"}
	}
	host, err := view.CanonicalHost(r.Authority)
	if err != nil {
		return &fault{status: 400, reason: "bad_host", detail: err.Error()}
	}
	r.Host = host
	if x.path != "*" {
		path, err := view.CanonicalPath(x.path)
		if err != nil {
			return &fault{status: 400, reason: "bad_path", detail: err.Error()}
		}
		r.Path = path
	}
	x.offers()
	r.Fields = e.clean(r.Fields, x.trusted)
	return nil
}

// offers notes what the hop-by-hop fields say, before they are removed.
func (x *exchange) offers() {
	fs := x.req.Fields
	x.trailers = fs.HasToken("TE", "trailers")
	if x.req.Proto != "HTTP/1.1" || x.length != 0 || !fs.HasToken("Connection", "upgrade") {
		return
	}
	for protocol := range fs.Tokens("Upgrade") {
		x.upgrade = protocol
		return
	}
}

// Inform implements upstream.Informer.
func (x *exchange) Inform(status int, fields view.Fields) error {
	return x.front.Inform(status, cleanResponse(fields, false))
}

// challenge answers for the certificate authority.
func (e *Engine) challenge(ctx context.Context, r *view.Request) (string, bool) {
	token, ok := strings.CutPrefix(r.Path, router.ACMEChallengePath)
	if !ok || e.opts.Challenges == nil || token == "" || r.Method != "GET" && r.Method != "HEAD" {
		return "", false
	}
	return e.opts.Challenges.Respond(ctx, r.Host, token)
}

// decide turns a decision into the engine's own answer, or nil to forward.
func (e *Engine) decide(r *view.Request, d *router.Decision) *fault {
	switch d.Verdict(r) {
	case router.Starting:
		return &fault{status: 503, reason: "starting", detail: "no routes are known yet; try again in a moment",
			fields: view.Fields{{Name: "Retry-After", Value: "1"}}}
	case router.Misdirected:
		return &fault{status: 421, reason: "misdirected",
			detail: "this connection was made for another host; use a new one"}
	case router.NotFound:
		return &fault{status: 404, reason: "no_route", detail: "no route for this host and path"}
	case router.Refused:
		return &fault{status: 503, reason: "refused", detail: "this route asks for a protection that is not available here"}
	case router.Redirect:
		return &fault{status: 308, reason: "https_redirect", detail: "this host is served over https",
			fields: view.Fields{{Name: "Location", Value: e.secureURL(r)}}}
	}
	return nil
}

func (e *Engine) secureURL(r *view.Request) string {
	port := ""
	if e.opts.HTTPSPort != 443 {
		port = ":" + strconv.Itoa(e.opts.HTTPSPort)
	}
	target := r.Target()
	if r.Path == "*" {
		target = "/"
	}
	return "https://" + r.Host + port + target
}

// errClientGone cancels an exchange whose client has closed the connection.
var errClientGone = errors.New("the client closed the connection")
