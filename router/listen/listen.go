// Package listen accepts connections: sockets, the PROXY protocol, TLS
// handshakes, limits, and a drain that cuts nothing which can still finish. It
// hands every connection to a Handler and knows no routes.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/portico-ingress/portico/router/tcp"
	"github.com/portico-ingress/portico/router/view"
)

// Handler serves one connection. It calls over once when it is done with it,
// perhaps after ServeConn has returned; it need not close it. ctx ends when the
// connection is to be cut.
type Handler interface {
	ServeConn(ctx context.Context, c net.Conn, info *view.Conn, over func())
}

// TLS says how connections of a TLS listener are made.
type TLS struct {
	// Config is long-lived: its ticket keys live as long as it does.
	Config *tls.Config
	// Policy is the name of the TLS policy, for view.TLS.
	Policy string
	// Covers returns, for a server name as the client sent it, its canonical
	// form and whether the certificate that it is served covers a host.
	Covers func(serverName string) (canonical string, covers func(host string) bool)
}

// Listener is one socket to accept on. Connections wait in the kernel until
// Serve.
type Listener struct {
	Socket net.Listener
	TLS    *TLS // nil: plaintext
}

// Listen opens a TCP socket on "host:port"; port 0 picks one.
func Listen(addr string) (net.Listener, error) {
	ln, err := listenConfig.Listen(context.Background(), "tcp", addr)
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // its text repeats what ours says
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return ln, nil
}

// Addr returns the address of a TCP socket, unmapped.
func Addr(ln net.Listener) netip.AddrPort { return addrPort(ln.Addr()) }

// Options configure a Server. Handler is required.
type Options struct {
	Listeners []Listener
	Handler   Handler
	// ProxyProtocolFrom are the senders that must begin with a PROXY protocol
	// header, version 1 or 2. From anybody else such a header is not read: it
	// is a malformed request.
	ProxyProtocolFrom []netip.Prefix
	// HandshakeTimeout bounds the PROXY header and the TLS handshake, each;
	// 0: 10 s.
	HandshakeTimeout time.Duration
	// MaxConns is the number of connections that may be open at once, over all
	// listeners; 0: any. Those beyond are closed as soon as they are accepted:
	// left in the queue of the socket, their clients would wait and not know why.
	MaxConns int
	// Full tells that there is no memory for further connections: they are closed
	// likewise. May be nil.
	Full func() bool
	// Draining is closed when a drain begins; handlers finish what is in
	// flight and end their connections. Nil: made by New.
	Draining chan struct{}
	Log      logr.Logger
}

// Server accepts on several addresses. Its methods are safe for concurrent use.
type Server struct {
	opts Options

	// mu protects the following.
	mu        sync.Mutex
	conns     map[net.Conn]struct{}
	refused   int64              // connections that were one too many
	headers   int64              // Stats.FailedHeaders
	shakes    int64              // Stats.FailedHandshakes
	told      time.Time          // when the log had that last
	cut       context.CancelFunc // ends the context of every connection
	draining  bool
	aborted   bool          // connections are closed, new ones too
	accepting int           // listeners that accept
	idle      chan struct{} // closed when draining, and the last listener and connection are gone
}

// Closing a socket resets the connections in its queue, which look established to
// their clients. A drain goes on accepting for lastCall, and while there are more,
// for at most that many times.
const (
	lastCall  = 50 * time.Millisecond
	lastCalls = 20
)

// New returns a Server. It owns the sockets.
func New(opts Options) *Server {
	if opts.HandshakeTimeout == 0 {
		opts.HandshakeTimeout = 10 * time.Second
	}
	if opts.Draining == nil {
		opts.Draining = make(chan struct{})
	}
	if opts.Full == nil {
		opts.Full = func() bool { return false }
	}
	return &Server{opts: opts, conns: map[net.Conn]struct{}{}, cut: func() {}, idle: make(chan struct{})}
}

// Serve accepts until Drain, or until ctx ends, which cuts every connection.
func (s *Server) Serve(ctx context.Context) error {
	connCtx, cut := context.WithCancel(ctx)
	defer cut()
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()

	errs := make(chan error, len(s.opts.Listeners))
	s.mu.Lock()
	s.cut = cut
	for _, l := range s.opts.Listeners {
		s.accepting++
		go func() { errs <- s.accept(connCtx, l.Socket, l.TLS) }()
	}
	s.mu.Unlock()
	var first error
	for range s.opts.Listeners {
		if err := <-errs; err != nil && first == nil {
			first = err
			s.abort() // without one of its listeners a server is of no use
		}
	}
	<-s.idle
	return first
}

// Drain ends the server without cutting anything: it stops accepting, tells
// handlers to finish, and waits for the last connection. When ctx ends first,
// what is left is cut and the number of those connections returned.
func (s *Server) Drain(ctx context.Context) (cut int) {
	s.beginDrain()
	select {
	case <-s.idle:
		return 0
	case <-ctx.Done():
	}
	s.mu.Lock()
	cut = len(s.conns)
	s.mu.Unlock()
	s.abort()
	return cut
}

func (s *Server) beginDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return
	}
	s.draining = true
	close(s.opts.Draining)
	for _, l := range s.opts.Listeners {
		if s.accepting == 0 || !callAgain(l.Socket) {
			_ = l.Socket.Close()
		}
	}
	s.rest()
}

// callAgain has Accept go on for lastCall, if the listener knows how.
func callAgain(ln net.Listener) bool {
	d, ok := ln.(interface{ SetDeadline(time.Time) error })
	return ok && d.SetDeadline(time.Now().Add(lastCall)) == nil
}

// waited reports whether there are connections in the queue of the socket.
func waited(ln net.Listener) bool {
	socket, ok := ln.(syscall.Conn)
	return ok && tcp.Readable(socket)
}

// rest notes that a drain is over, if it is. mu is held.
func (s *Server) rest() {
	if s.draining && s.accepting == 0 && len(s.conns) == 0 {
		select {
		case <-s.idle: // a listener may be last, and a connection may be
		default:
			close(s.idle)
		}
	}
}

// abort stops accepting and closes every connection.
func (s *Server) abort() {
	s.beginDrain()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	for _, l := range s.opts.Listeners {
		_ = l.Socket.Close()
	}
	s.cut()
	for c := range s.conns {
		_ = c.Close()
	}
}

// accept takes connections until the listener is closed, or a drain's last call
// is over. Errors of a single
// accept, such as running out of file descriptors, pause it and do not end it.
func (s *Server) accept(ctx context.Context, ln net.Listener, t *TLS) error {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause, calls := minPause, 0
	defer s.left(ln)
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded): // only a drain sets one
			if calls++; calls == lastCalls || !waited(ln) || !callAgain(ln) {
				return nil
			}
			continue
		case err != nil:
			s.opts.Log.Error(err, "cannot accept connections; trying again", "listener", ln.Addr().String(), "pause", pause.String())
			if !sleep(ctx, pause) {
				return nil
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if !s.add(conn) {
			_ = conn.Close()
			s.tellRefused()
			continue
		}
		go s.serve(ctx, conn, t)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// left notes that a listener accepts no more.
func (s *Server) left(ln net.Listener) {
	_ = ln.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepting--
	s.rest()
}

// add takes note of a connection, if it is to be served.
func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		return false
	}
	if s.opts.MaxConns > 0 && len(s.conns) >= s.opts.MaxConns || s.opts.Full() {
		s.refused++
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// tellRefused has the log say, at most once a minute, that connections are refused, and why.
func (s *Server) tellRefused() {
	s.mu.Lock()
	refused, now := s.refused, time.Now()
	tell, many := !s.aborted && now.Sub(s.told) >= time.Minute, s.opts.MaxConns > 0 && len(s.conns) >= s.opts.MaxConns
	if tell {
		s.told = now
	}
	s.mu.Unlock()
	switch {
	case tell && !many:
		s.opts.Log.Error(nil, "refusing connections: the memory limit (GOMEMLIMIT) is all but used up; raise it, or run more replicas", "refused", refused)
	case tell:
		s.opts.Log.Error(nil, "refusing connections: as many are open as --max-connections allows; raise it, and the limit of file descriptors with it, or run more replicas",
			"limit", s.opts.MaxConns, "refused", refused)
	}
}

func (s *Server) remove(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.rest()
}

// Stats count connections.
type Stats struct {
	Open    int   // now
	Limit   int   // Options.MaxConns
	Refused int64 // so far, because as many as Limit were open, or memory was used up
	// FailedHeaders and FailedHandshakes are those that ended, so far, because the
	// PROXY protocol header was not there or not right, or the TLS handshake failed.
	FailedHeaders, FailedHandshakes int64
}

// Stats returns what the server counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Open: len(s.conns), Limit: s.opts.MaxConns, Refused: s.refused, FailedHeaders: s.headers, FailedHandshakes: s.shakes}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
