// Package proxy is the engine: it takes client connections, matches each
// request against the newest snapshot, and forwards it to an endpoint of the
// pool that the match names.
//
// The fronts (HTTP/1.1 on router/wire, HTTP/2 on router/wire/h2) fill a
// view.Request and hand it over as an exchange; nothing behind them knows which
// front it was.
package proxy

import (
	"cmp"
	"context"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/tcp"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// Snapshots matches requests against what is published. One call answers from
// one snapshot. Safe for concurrent use.
type Snapshots interface {
	// Match returns the decision and the pool it leads to. The pool is nil
	// where no route was found, and before anything is published.
	Match(*view.Request) (router.Decision, *upstream.Pool)
}

// ChallengeResponder knows the answers to ACME HTTP-01 challenges (RFC 8555
// §8.3). It answers from memory; where a challenge of the host is known to be on
// its way it may wait for it, for seconds and until ctx ends, and it bounds how
// many wait. Safe for concurrent use.
type ChallengeResponder interface {
	Respond(ctx context.Context, host, token string) (body string, ok bool)
}

// Options of an Engine.
type Options struct {
	Snapshots Snapshots
	// Challenges may be nil.
	Challenges ChallengeResponder
	// Observer is told of every exchange. May be nil.
	Observer Observer
	Log      logr.Logger
	// TrustedProxies are the peers whose X-Forwarded-* and Forwarded fields
	// and X-Request-ID are believed.
	TrustedProxies view.Trust
	// AllowUnderscores forwards fields with "_" in their name. Default: they
	// are dropped, since many backends read X_Real_IP as X-Real-IP.
	AllowUnderscores bool
	// HTTPSPort is the port that redirects to https name. Default: 443.
	HTTPSPort int
	Timeouts  Timeouts
	// Limits of request heads. Default: wire.DefaultLimits.
	Limits wire.Limits
	// Streams is how many requests a client may have under way on an HTTP/2
	// connection. Default: 250.
	Streams int
	// Resets is how many of them may end in vain in 30 s, cancelled or
	// malformed, before the connection is ended. Default: 200.
	Resets int
	// ControlFrames is how many frames that carry nothing a client may send on an
	// HTTP/2 connection in 30 s, besides those that its requests make up for,
	// before the connection is ended. Default: 300.
	ControlFrames int
	// Overloaded tells that requests are to be answered by 503, and their
	// connections to end, rather than to be served. May be nil.
	Overloaded func() bool
	// Draining is closed when graceful shutdown begins. May be nil.
	Draining <-chan struct{}

	parkAfter time.Duration // default: the constant
}

// Timeouts of the clients' side; those towards backends are
// upstream.Timeouts. Zero fields take their defaults. There is no limit on the
// whole of a request: a download may take a day as long as it gets on.
type Timeouts struct {
	// ReadHeader bounds a request head, from the first byte or, for the
	// first request, from the start of the connection. Default: 10 s.
	ReadHeader time.Duration
	// Idle is how long the next request is waited for; it may be an eighth
	// longer. Default: 75 s.
	Idle time.Duration
	// BodyGrace is how long a request body may take whatever its size;
	// after that it must arrive with MinBodyRate on average until the
	// response begins. Default: 10 s.
	BodyGrace time.Duration
	// MinBodyRate is in bytes per second. Default: 240.
	MinBodyRate int64
	// BodyStall bounds the wait for the next bytes of a request body.
	// Default: 60 s.
	BodyStall time.Duration
	// WriteStall bounds one write to a client that does not read.
	// Default: 60 s.
	WriteStall time.Duration
	// Tunnel bounds the silence, both ways, of an upgraded connection.
	// Default: 1 h.
	Tunnel time.Duration
	// DrainIdle is how long an idle HTTP/1.1 connection may still begin a
	// request once the engine drains; the response then says Connection:
	// close. A request may be on its way already, and closing would lose it.
	// Default: Idle.
	DrainIdle time.Duration
}

func (t *Timeouts) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.ReadHeader, 10 * time.Second}, {&t.Idle, 75 * time.Second},
		{&t.BodyGrace, 10 * time.Second}, {&t.BodyStall, time.Minute},
		{&t.WriteStall, time.Minute}, {&t.Tunnel, time.Hour},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if t.DrainIdle <= 0 {
		t.DrainIdle = t.Idle
	}
	if t.MinBodyRate <= 0 {
		t.MinBodyRate = 240
	}
}

// Engine serves connections. Safe for concurrent use.
type Engine struct {
	opts Options // const after New

	panics atomic.Int64
	lot    lot

	mu      sync.Mutex // protects the following
	conns   map[*h1Conn]struct{}
	h2conns map[*h2Conn]struct{}
}

// New returns an Engine. Start must run for idle connections to notice that the
// engine drains.
func New(opts Options) *Engine {
	opts.Timeouts.setDefaults()
	if opts.Limits == (wire.Limits{}) {
		opts.Limits = wire.DefaultLimits
	}
	opts.Streams, opts.Resets, opts.parkAfter = cmp.Or(opts.Streams, 250), cmp.Or(opts.Resets, 200), cmp.Or(opts.parkAfter, parkAfter)
	if opts.Overloaded == nil {
		opts.Overloaded = func() bool { return false }
	}
	if opts.HTTPSPort == 0 {
		opts.HTTPSPort = 443
	}
	if opts.Observer == nil {
		opts.Observer = Observers(nil)
	}
	return &Engine{opts: opts, conns: make(map[*h1Conn]struct{}), h2conns: make(map[*h2Conn]struct{})}
}

// Start waits for Draining, then asks idle HTTP/1.1 connections to end and
// sends GOAWAY on HTTP/2 ones. It returns when ctx ends.
func (e *Engine) Start(ctx context.Context) error {
	select {
	case <-e.opts.Draining:
		e.drainIdle()
		e.departAll()
	case <-ctx.Done():
	}
	return nil
}

// ServeConn serves one connection until it ends, and calls over, which closes it; it
// returns before that when the connection is idle and needs no goroutine. info must
// be complete and is not written. When ctx ends the connection is cut, whatever is
// under way on it.
func (e *Engine) ServeConn(ctx context.Context, c net.Conn, info *view.Conn, over func()) {
	if info.TLS != nil && info.TLS.Protocol == "h2" {
		e.serveH2(ctx, c, info, nil, over)
		return
	}
	if tc, ok := c.(*net.TCPConn); ok {
		if quick, err := tcp.New(tc); err == nil {
			c = quick
		}
	}
	e.serveH1(ctx, c, info, over)
}

// guard is deferred by what serves a connection. A panic while serving a request
// is dealt with there; this is for what is around it, so that it costs one
// connection and no more.
func (e *Engine) guard(end func()) {
	if v := recover(); v != nil {
		e.notePanic(v, "")
		end()
	}
}

// Panics returns how many requests ended in a panic of the engine.
func (e *Engine) Panics() int64 { return e.panics.Load() }

func (e *Engine) notePanic(v any, id string) {
	e.panics.Add(1)
	e.opts.Log.Error(nil, "panic in the engine", "panic", v, "id", id, "stack", string(debug.Stack()))
}

func (e *Engine) draining() bool {
	select {
	case <-e.opts.Draining:
		return true
	default:
		return false
	}
}

// drainIdle gives every idle connection its last chance to send a request.
func (e *Engine) drainIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		c.lastChance()
	}
}

func (e *Engine) track(c *h1Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = struct{}{}
}

func (e *Engine) untrack(c *h1Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}
