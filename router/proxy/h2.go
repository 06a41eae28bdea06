package proxy

//lint:file-ignore SA1019 net/http offers whole servers and transports; here HTTP/2 is spoken on a connection that was accepted or dialled before.

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// What one client may cost on one HTTP/2 connection.
const (
	h2Streams      = 250
	h2ResetBudget  = 200 // cancelled streams in h2ResetWindow; beyond: the connection is closed
	h2ResetWindow  = 30 * time.Second
	h2StreamWindow = 256 << 10
	h2ConnWindow   = 1 << 20
)

func newH2Server(opts *Options) (*http2.Server, *http.Server) {
	cfg := &http.Server{
		MaxHeaderBytes: opts.Limits.Head,
		ErrorLog:       log.New(io.Discard, "", 0), // client errors are theirs
	}
	srv := &http2.Server{
		MaxConcurrentStreams:         h2Streams,
		MaxReadFrameSize:             16 << 10,
		IdleTimeout:                  opts.Timeouts.Idle,
		ReadIdleTimeout:              time.Minute,
		PingTimeout:                  15 * time.Second,
		WriteByteTimeout:             opts.Timeouts.WriteStall,
		MaxUploadBufferPerConnection: h2ConnWindow,
		MaxUploadBufferPerStream:     h2StreamWindow,
	}
	if err := http2.ConfigureServer(cfg, srv); err != nil {
		panic(err) // only for a TLS configuration, and there is none
	}
	return srv, cfg
}

// h2Conn is the HTTP/2 side of one client connection.
type h2Conn struct {
	e    *Engine
	nc   *farewell
	info *view.Conn

	mu     sync.Mutex // protects the following
	since  time.Time
	resets int
}

func (e *Engine) serveH2(ctx context.Context, nc net.Conn, info *view.Conn) {
	secure, ok := nc.(tlsConn)
	if !ok {
		return
	}
	c := &h2Conn{e: e, nc: newFarewell(secure), info: info}
	e.trackH2(c.nc)
	defer e.untrackH2(c.nc)
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	e.h2.ServeConn(c.nc, &http2.ServeConnOpts{Context: ctx, BaseConfig: e.h2cfg, Handler: c})
}

// ServeHTTP takes one stream.
func (c *h2Conn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := newH2Stream(c, w, r)
	defer s.finish()
	x := &exchange{ctx: r.Context(), front: s, rec: view.Record{Start: time.Now()}}
	if f := s.fill(x); f != nil {
		x.req = view.Request{Proto: "HTTP/2.0", Conn: c.info, Client: c.info.Peer.Addr().Unmap(), ID: newID()}
		x.answer(f)
		c.e.report(x)
	} else {
		c.e.run(x)
	}
	if s.aborted {
		if r.Context().Err() != nil {
			c.countReset()
		}
		panic(http.ErrAbortHandler) // resets the stream
	}
}

// countReset closes a connection whose client keeps starting requests only to
// cancel them (CVE-2023-44487): each costs a backend more than it.
func (c *h2Conn) countReset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.since) > h2ResetWindow {
		c.since, c.resets = now, 0
	}
	if c.resets++; c.resets > h2ResetBudget {
		c.nc.Close()
	}
}

// fill makes the view of a stream's request. What the library lets pass though
// RFC 9113 §8 does not is refused here.
func (s *h2Stream) fill(x *exchange) *fault {
	r, limits := s.r, &s.c.e.opts.Limits
	if len(r.RequestURI) > limits.Target {
		return &fault{status: 414, reason: "target_too_long", detail: "the request target is too long"}
	}
	if r.Method != "CONNECT" && !wire.ValidTarget(r.RequestURI) || !wire.ValidName(r.Method) {
		return badH2("the method or the path holds a character that is not allowed")
	}
	if r.Host == "" {
		return badH2("neither :authority nor host is given")
	}
	if r.RequestURI == "*" && r.Method != "OPTIONS" {
		return badH2(`the target "*" is for OPTIONS alone`)
	}
	x.req = view.Request{Method: r.Method, Authority: r.Host, Proto: "HTTP/2.0", Conn: s.c.info, Client: s.c.info.Peer.Addr().Unmap()}
	x.path, x.req.Query, x.req.HasQuery = strings.Cut(r.RequestURI, "?")
	if f := s.fields(x, limits.Fields); f != nil {
		return f
	}
	x.length = r.ContentLength
	return nil
}

func (s *h2Stream) fields(x *exchange, limit int) *fault {
	for name, values := range s.r.Header {
		for _, v := range values {
			if len(x.req.Fields) >= limit {
				return &fault{status: 431, reason: "too_many_fields", detail: "too many header fields"}
			}
			if !wire.ValidName(name) || !wire.ValidValue(v) {
				return badH2("a field holds a character that is not allowed")
			}
			switch {
			case name == "Host" && !strings.EqualFold(v, s.r.Host):
				return badH2(":authority and host name different hosts")
			case name == "Host":
			case name == "Content-Length" && v != strconv.FormatInt(s.r.ContentLength, 10):
				return badH2("Content-Length does not fit the stream")
			case name == "Content-Length":
			case name == "Transfer-Encoding" || name == "Expect":
				return badH2("a field has no place in HTTP/2")
			default:
				x.req.Fields = append(x.req.Fields, view.Field{Name: name, Value: v})
			}
		}
	}
	return nil
}

func badH2(detail string) *fault {
	return &fault{status: 400, reason: "bad_request", detail: detail}
}
