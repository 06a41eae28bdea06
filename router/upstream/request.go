package upstream

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/splice"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// Request is what is sent to a backend, ready for the wire: nothing is added
// but Host, framing, and the fields that Upgrade, Trailers and Continue stand
// for.
type Request struct {
	Method string
	Target string // origin-form, or "*"
	Host   string
	// Fields are valid, without Host, Content-Length, Transfer-Encoding, TE,
	// Connection, Upgrade and Expect.
	Fields view.Fields
	// Length of the body; 0 for none, -1 if only its end will tell.
	Length int64
	Body   Body // nil exactly if Length is 0
	// Backend is how the route wants its endpoints spoken to; the zero value
	// leaves that to the pool.
	Backend policy.Backend
	// Upgrade is the protocol that the client offers to switch to, or "". A
	// backend that speaks HTTP/2 is not asked.
	Upgrade string
	// Trailers tells the backend that the client takes trailer fields.
	Trailers bool
	// Continue asks the backend for "100 Continue" before the body. The body
	// is sent when the client sends it, with or without.
	Continue bool
	// Client is told of each 1xx response but 101, and of 100 only with
	// Continue. May be nil.
	Client Informer
	// Start is when Do is called, if the caller knows.
	Start time.Time

	// now is the time, as long as nothing was waited for since Start; zero: it is
	// not known.
	now time.Time
}

// Informer passes informational responses on.
type Informer interface {
	// Inform passes one on. Its error ends the request.
	Inform(status int, fields view.Fields) error
}

// Body is a request body on its way through. Read is called from a goroutine
// of its own while the response is read; Close from another one.
type Body interface {
	// Read is io.Reader's. The data need not fill p; io.EOF may come with the
	// last of it.
	Read(p []byte) (int, error)
	// Trailers returns the trailer fields once Read has returned io.EOF.
	Trailers() view.Fields
	// Interrupt makes Read return an error, at once and until Resume. It may
	// be called beside Read; no byte is lost.
	Interrupt()
	// Resume lets Read go on. Nobody reads when it is called, and Close was
	// not.
	Resume()
	// Close makes Read return an error, at once and from then on.
	Close() error
}

// Source is a Body that may come straight from a socket.
type Source interface {
	Body
	// Bare reports whether what comes next is on the socket as it is.
	Bare() bool
	// Fill is Read into an empty pipe, while Bare.
	Fill(p *splice.Pipe) (int, error)
}

// idempotent are the methods of RFC 9110 §9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

func (r *Request) appendHead(b []byte) []byte {
	b = wire.AppendRequestLine(b, r.Method, r.Target)
	b = wire.AppendField(b, "Host", r.Host)
	b = wire.AppendFields(b, r.Fields)
	switch {
	case r.Upgrade != "":
		b = wire.AppendField(b, "Connection", "Upgrade")
		b = wire.AppendField(b, "Upgrade", r.Upgrade)
	case r.Trailers:
		b = wire.AppendField(b, "Connection", "TE")
		b = wire.AppendField(b, "TE", "trailers")
	}
	if r.Continue {
		b = wire.AppendField(b, "Expect", "100-continue")
	}
	if r.Length != 0 || wantsLength(r.Method) {
		b = wire.AppendFraming(b, r.Length)
	}
	return wire.AppendEnd(b)
}

// wantsLength reports whether a request without a body says so by
// "Content-Length: 0" (RFC 9110 §8.6).
func wantsLength(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// maxAttempts bounds Options.Attempts, so that the list of what was tried needs
// no allocation.
const maxAttempts = 8

// Do sends req to an endpoint of the pool and returns when the head of the
// final response is there; the request body may still be on its way. The caller
// must Close the response. Errors are *Error.
//
// An endpoint that cannot be connected to is passed over for another one, and so
// is one that closes the connection without a byte of a response, if the request
// was not sent, was refused unseen (RFC 9113 §8.7), or does no harm sent twice:
// idempotent (RFC 9110 §9.2.2), and as long as the pool has a budget for that. Of a
// body what was sent must be small enough to be kept. Any other request is sent
// once. An HTTP/1.1 connection that was used before may have come to its end
// meanwhile: its endpoint is asked once more on a new one, which costs no budget. An
// endpoint with as many requests in flight as it may have is waited for, then passed
// over.
func (p *Pool) Do(ctx context.Context, req *Request) (*Response, error) {
	l := p.live.Load()
	w, err := p.way(l, &req.Backend)
	if err != nil {
		return nil, err
	}
	p.budget.earn(max(0, p.reg.opts.RetryPercent))
	req.now = req.Start
	attempts := min(p.reg.opts.Attempts, maxAttempts)
	req.keep(w.protocol.HTTP2())
	var tried [maxAttempts]*Target
	var last *Error
	for n := range attempts {
		if ctx.Err() != nil {
			last = &Error{Kind: Canceled, Attempts: n, Err: context.Cause(ctx)}
			break
		}
		t := p.pick(l, tried[:n])
		if t == nil || last != nil && !last.dialing && !p.mayRepeat() {
			break
		}
		tried[n] = t
		t.addr.health.begin(p.reg.opts.EjectTime)
		resp, err := p.roundTrip(ctx, t.addr.lane(&w, l.state.Names), req)
		p.judge(l, t, resp, err)
		if err == nil {
			req.settle()
			resp.Attempts = n + 1
			return resp, nil
		}
		last = err
		last.Attempts = n + 1
		if !err.dialing && !err.replay {
			break
		}
	}
	req.giveUp()
	if last == nil {
		last = &Error{Kind: NoEndpoint, Err: errors.New(cmp.Or(l.state.Reason, "no endpoint is ready"))}
	}
	return nil, last
}

// mayRepeat reports whether a request that a backend had may be sent once more.
func (p *Pool) mayRepeat() bool {
	if !p.budget.spend() {
		p.reg.stats.denied.Add(1)
		return false
	}
	p.reg.stats.retries.Add(1)
	return true
}

// roundTrip uses an old connection if there is one, else a new one.
func (p *Pool) roundTrip(ctx context.Context, l *lane, req *Request) (resp *Response, err *Error) {
	if !l.addr.tryEnter() {
		req.now = time.Time{}
		if err := l.addr.enter(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		if resp == nil {
			l.addr.leave()
		}
	}()
	if l.way.protocol.HTTP2() {
		return p.streamTrip(ctx, l, req)
	}
	for c := l.take(ctx, req); c != nil; c = l.take(ctx, req) {
		if resp, err = c.exchange(ctx, req); err == nil || !err.replay {
			return resp, err
		}
		if !errors.Is(err, errStale) {
			break
		}
	}
	req.now = time.Time{}
	c, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.exchange(ctx, req)
}

// streamTrip is roundTrip on HTTP/2. A connection may come to its end while a
// stream is opened on it: then there is one more try. It is free only if the
// backend did nothing with the first: a connection that is lost takes all its
// requests with it, and one of them may be the reason.
func (p *Pool) streamTrip(ctx context.Context, l *lane, req *Request) (*Response, *Error) {
	for last := false; ; last = true {
		c, err := l.stream(ctx, req)
		if err != nil {
			return nil, err
		}
		resp, err := c.exchange()
		if err == nil || !err.replay || last || !err.unseen && !p.mayRepeat() {
			return resp, err
		}
	}
}

// exchange sends the head, starts the body and waits for the response's head.
func (c *conn) exchange(ctx context.Context, req *Request) (*Response, *Error) {
	c.lend()
	req.rewind()
	x := &c.x
	*x = h1Exchange{conn: c, req: req, ctx: ctx}
	x.Response = Response{Endpoint: c.lane.addr.name, exchange: x}
	x.link = tie(ctx, c)
	n, err := c.send(req)
	if err != nil {
		e := x.fail(err)
		e.replay = n == 0 && e.Kind == Broken
		return nil, e
	}
	if req.Length != 0 {
		x.upload = newUpload(x)
		c.forgetLimits()
		go x.upload.run()
	}
	if err := x.readHead(); err != nil {
		silent := c.w == 0 && !x.informed
		e := x.fail(err)
		e.replay = silent && e.Kind == Broken && idempotent(req.Method) && req.whole()
		return nil, e
	}
	x.At = time.Now()
	return &x.Response, nil
}
