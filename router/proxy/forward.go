package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/splice"
	"github.com/portico-ingress/portico/router/tcp"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// forward sends the request to the pool and the response to the client.
func (e *Engine) forward(x *exchange, route *router.Route, pool *upstream.Pool) {
	x.out = upstream.Request{
		Method:   x.req.Method,
		Target:   x.req.Target(),
		Host:     x.req.Authority,
		Fields:   e.introduce(x),
		Length:   x.length,
		Backend:  route.Policy.Backend,
		Upgrade:  x.upgrade,
		Trailers: x.trailers,
		Continue: x.expects,
		Client:   x,
		Start:    time.Now(),
	}
	if x.length != 0 {
		x.out.Body = &countedBody{Body: x.front, n: &x.rec.BytesIn}
	}
	x.writeStall = e.opts.Timeouts.WriteStall
	resp, err := pool.Do(x.ctx, &x.out)
	if err != nil {
		x.rec.Upstream = time.Since(x.out.Start)
		e.opts.Log.V(1).Info("no response from the backend", "id", x.req.ID, "pool", pool.Key().String(), "error", err.Error())
		x.failed(err)
		return
	}
	defer resp.Close()
	x.rec.Upstream = resp.At.Sub(x.out.Start)
	x.rec.Endpoint, x.rec.Attempts = resp.Endpoint, resp.Attempts
	if resp.Head.Status == 101 {
		if x.key != "" && resp.Head.Fields.Get("Sec-WebSocket-Accept") != acceptWebSocket(x.key) {
			x.answer(badResponse())
			return
		}
		e.tunnel(x, resp)
		return
	}
	if x.key != "" && resp.Head.Status < 300 {
		x.answer(badResponse()) // 2xx would tell the client that its tunnel is open
		return
	}
	x.relay(resp)
}

// countedBody counts what the upload reads. The count is complete once the
// response is closed.
type countedBody struct {
	upstream.Body
	n *int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	*b.n += int64(n)
	return n, err
}

// Bare implements upstream.Source.
func (b *countedBody) Bare() bool {
	src, ok := b.Body.(upstream.Source)
	return ok && src.Bare()
}

// Fill implements upstream.Source.
func (b *countedBody) Fill(p *splice.Pipe) (int, error) {
	n, err := b.Body.(upstream.Source).Fill(p)
	*b.n += int64(n)
	return n, err
}

// relay passes the response on as it arrives: whatever one read returns is
// flushed before the next one waits.
func (x *exchange) relay(resp *upstream.Response) {
	h := resp.Head
	x.head = responseHead{
		Status: h.Status,
		Reason: h.Reason,
		Fields: cleanResponse(h.Fields, h.Framing == wire.Chunked),
		Length: h.Length,
		NoBody: h.Framing == wire.NoBody,
		At:     resp.At,
	}
	err := x.begin(&x.head)
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for err == nil {
		if !resp.Ready() {
			if !x.splice(resp) {
				return
			}
			if err = x.front.Flush(); err != nil {
				break
			}
		}
		n, readErr := resp.Read(buf[:])
		if n > 0 {
			x.rec.BytesOut += int64(n)
			err = x.front.Write(buf[:n])
		}
		if readErr == io.EOF && err == nil {
			err = x.front.End(resp.Trailers())
			break
		}
		if readErr != nil && err == nil {
			x.cut(readErr)
			return
		}
	}
	if err != nil {
		x.unheard(err)
	}
}

// unheard ends a response that the client does not take.
func (x *exchange) unheard(err error) {
	x.rec.Reason = clientGone
	if errors.Is(err, os.ErrDeadlineExceeded) {
		x.rec.Reason = "client_stalled"
	}
	x.front.Abort()
}

// splice moves a large rest of a body from socket to socket, where both allow
// that. False: it failed, and the response has been ended.
func (x *exchange) splice(resp *upstream.Response) bool {
	src, left, stall := resp.Source()
	if src == nil || left < splice.From {
		return true
	}
	dst, err := x.front.Sink()
	if dst == nil && err == nil {
		return true
	}
	var moved int64
	var readErr error
	if err == nil {
		moved, readErr, err = move(dst, src, left, stall, x.writeStall)
		resp.Skipped(moved)
	}
	x.rec.BytesOut += moved
	switch {
	case readErr != nil:
		x.cut(readErr)
	case err != nil:
		x.unheard(err)
	}
	return readErr == nil && err == nil
}

// move moves n bytes from a backend to a client, each of whom may take up to its time
// for some of them; none where there is no pipe.
func move(dst, src *net.TCPConn, n int64, readStall, writeStall time.Duration) (moved int64, readErr, writeErr error) {
	p := splice.Borrow()
	if p == nil {
		return 0, nil, nil
	}
	defer p.GiveBack()
	for moved < n {
		src.SetReadDeadline(time.Now().Add(readStall))
		if _, err := p.Fill(src, n-moved); err != nil {
			return moved, err, nil
		}
		for p.Held() > 0 {
			k, err := drain(p, dst, writeStall)
			if moved += int64(k); err != nil {
				giveUp(dst)
				return moved, nil, err
			}
		}
	}
	return moved, nil, nil
}

// drain gives a client what a pipe holds, as much as it takes at once; some of it
// within stall.
func drain(p *splice.Pipe, dst *net.TCPConn, stall time.Duration) (int, error) {
	dst.SetWriteDeadline(time.Now().Add(stall))
	n, err := p.Drain(dst)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	// The kernel tells of room only once a third of its buffer is free. What has room
	// now is what the client has taken.
	dst.SetWriteDeadline(time.Now().Add(tcp.NoWait))
	n, err = p.Drain(dst)
	if err == nil && p.Held() > 0 && tooSlow(n, stall) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// cut ends a response that the backend did not bring to its end. It must not
// look whole to the client.
func (x *exchange) cut(err error) {
	switch {
	case x.ctx.Err() != nil:
		x.rec.Reason = clientGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.rec.Reason = "backend_stalled"
	default:
		x.rec.Reason = "backend_truncated"
	}
	x.front.Abort()
}

func (x *exchange) begin(h *responseHead) error {
	x.begun = true
	x.rec.Status = h.Status
	return x.front.Begin(h)
}

// failed answers for a backend that gave no response.
func (x *exchange) failed(err error) {
	var e *upstream.Error
	if !errors.As(err, &e) {
		e = &upstream.Error{Kind: upstream.Broken, Err: err}
	}
	x.rec.Attempts, x.rec.Endpoint = e.Attempts, e.Endpoint
	switch e.Kind {
	case upstream.NoEndpoint:
		x.answer(noEndpoint())
	case upstream.Unreachable:
		x.answer(&fault{status: 502, reason: "connect_failed", detail: "the backend cannot be reached"})
	case upstream.Timeout:
		x.answer(&fault{status: 504, reason: "backend_timeout", detail: "the backend did not answer in time"})
	case upstream.Overloaded:
		x.answer(overloaded("backend_overloaded", "the backend has as many requests in flight as it may"))
	case upstream.Exhausted:
		x.answer(overloaded("no_descriptor", "there is no room for a further connection to a backend here"))
	case upstream.Unverified:
		x.answer(unverified(e))
	case upstream.BodyFailed:
		x.front.Close()
		x.bodyFailed(e.Err)
	case upstream.Canceled:
		x.gone()
	default:
		x.broken(e.Err)
	}
}

// broken answers for a connection to the backend that ended, or what came on it.
func (x *exchange) broken(err error) {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			x.answer(&fault{status: 502, reason: "backend_closed", detail: "the backend closed the connection before it had responded"})
			return
		}
	}
	x.answer(badResponse())
}

func (x *exchange) bodyFailed(err error) {
	var bad *wire.Error
	switch {
	case errors.As(err, &bad):
		x.answer(&fault{status: bad.Status, reason: bad.Reason, detail: bad.Detail})
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.answer(&fault{status: 408, reason: "body_timeout", detail: "the request body came too slowly"})
	default:
		x.gone()
	}
}

// gone ends an exchange whose client has left before there was a response.
func (x *exchange) gone() {
	x.rec.Status, x.rec.Reason = 499, clientGone
	x.front.Abort()
}

func badResponse() *fault {
	return &fault{status: 502, reason: "bad_response", detail: "the backend did not give a valid response"}
}

// unverified answers where a backend must be verified and is not.
func unverified(e *upstream.Error) *fault {
	if e.Attempts > 0 {
		return &fault{status: 502, reason: "backend_untrusted", detail: "the backend's certificate is not trusted"}
	}
	return &fault{status: 503, reason: "backend_unverified", detail: "the backend cannot be verified as it must be"}
}

func overloaded(reason, detail string) *fault {
	return &fault{status: 503, reason: reason, detail: detail, fields: view.Fields{{Name: "Retry-After", Value: "1"}}}
}

func noEndpoint() *fault {
	return &fault{status: 503, reason: "no_endpoint", detail: "no endpoint of the backend is ready",
		fields: view.Fields{{Name: "Retry-After", Value: "1"}}}
}
