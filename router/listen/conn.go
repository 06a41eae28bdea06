package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/portico-ingress/portico/router/tcp"
	"github.com/portico-ingress/portico/router/view"
)

// challengeProtocol is negotiated by certificate authorities that validate a
// TLS-ALPN-01 challenge; nothing is spoken on such connections (RFC 8737 §3).
const challengeProtocol = "acme-tls/1"

// serve makes the connection ready (PROXY header, TLS) and hands it over. What
// fails on the way is the client's business and only logged when asked for. A
// panic costs one connection.
func (s *Server) serve(ctx context.Context, accepted net.Conn, t *TLS) {
	over := func() { s.remove(accepted) }
	defer func() {
		if v := recover(); v != nil {
			s.opts.Log.Error(nil, "panic while accepting a connection", "panic", v, "stack", string(debug.Stack()))
			over()
		}
	}()
	info := &view.Conn{Peer: addrPort(accepted.RemoteAddr()), Local: addrPort(accepted.LocalAddr())}
	conn, err := s.proxyHeader(accepted, info)
	if err != nil {
		s.failed(&s.headers)
		s.opts.Log.V(1).Info("refused a connection", "peer", info.Peer.String(), "reason", err.Error())
		over()
		return
	}
	if t != nil {
		tlsConn, err := s.handshake(ctx, conn, t, info)
		if err != nil {
			s.failed(&s.shakes)
			s.opts.Log.V(1).Info("TLS handshake failed", "peer", info.Peer.String(), "reason", err.Error())
			over()
			return
		}
		conn, over = tlsConn, func() {
			closeTLS(tlsConn)
			s.remove(accepted)
		}
		if info.TLS.Protocol == challengeProtocol {
			over() // the handshake was the answer
			return
		}
	}
	s.opts.Handler.ServeConn(ctx, conn, info, over)
}

// failed counts a connection that did not become ready.
func (s *Server) failed(count *int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count++
}

// closeTLS says goodbye (close_notify). For a peer that does not read, crypto/tls
// waits five seconds.
func closeTLS(c *tls.Conn) {
	_ = c.CloseWrite()
	if f, ok := c.NetConn().(*farewell); ok {
		f.Release()
	}
}

var errNoProxyHeader = errors.New("an allowed sender of PROXY protocol headers sent none, or a malformed one")

// proxyHeader reads the PROXY protocol header where the peer must send one. The
// header is required, not optional: an allowed sender that passes on raw bytes
// would let its clients write the header themselves.
func (s *Server) proxyHeader(conn net.Conn, info *view.Conn) (net.Conn, error) {
	if !contains(s.opts.ProxyProtocolFrom, info.Peer.Addr()) {
		return conn, nil
	}
	pc := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(s.opts.HandshakeTimeout))
	header := pc.ProxyHeader()
	if header == nil {
		return nil, errNoProxyHeader
	}
	if header.Command.IsProxy() {
		if source := addrPort(header.SourceAddr); source.IsValid() {
			info.Peer = source
		}
	}
	return pc, nil
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func (s *Server) handshake(ctx context.Context, conn net.Conn, t *TLS, info *view.Conn) (*tls.Conn, error) {
	if tc, ok := conn.(*net.TCPConn); ok {
		quick, err := tcp.New(tc)
		if err != nil {
			return nil, err
		}
		conn = &farewell{Conn: quick, tcp: tc}
	}
	tlsConn := tls.Server(conn, t.Config)
	if err := conn.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return nil, err
	}
	// When ctx ends the connection is closed: crypto/tls need not watch it with a
	// goroutine of its own.
	if err := tlsConn.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
		answerPlaintext(err)
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	state := tlsConn.ConnectionState()
	info.TLS = &view.TLS{Protocol: state.NegotiatedProtocol, Version: state.Version, Cipher: state.CipherSuite, Policy: t.Policy}
	info.TLS.ServerName, info.TLS.Covers = t.Covers(state.ServerName)
	return tlsConn, nil
}

// answerPlaintext tells a client that speaks HTTP where TLS is spoken what is
// wrong, if err is from its handshake.
func answerPlaintext(err error) {
	var broken tls.RecordHeaderError
	if !errors.As(err, &broken) || broken.Conn == nil {
		return
	}
	for _, b := range broken.RecordHeader {
		if b != ' ' && b != '/' && (b < 'A' || b > 'Z') { // GET /, POST, OPTIO
			return
		}
	}
	const body = "400 Bad Request: HTTP was spoken to a port of HTTPS; ask with https://\n"
	fmt.Fprintf(broken.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}
