package proxy

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"net"
	"time"

	"github.com/portico-ingress/portico/router/wire/h2"
)

// newWebSocketKey returns the nonce that a WebSocket's opening handshake wants
// (RFC 6455 §4.1).
func newWebSocketKey() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// acceptWebSocket is what a server answers to a key (RFC 6455 §4.2.2).
func acceptWebSocket(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// h2Tunnel is a stream as a connection. One goroutine reads, another one
// writes.
type h2Tunnel struct {
	s         *h2Stream
	readUntil time.Time // owned by who reads
	writeFor  time.Duration
}

// Read implements net.Conn.
func (t *h2Tunnel) Read(p []byte) (int, error) { return t.s.receive(p, t.readUntil) }

// Write implements net.Conn.
func (t *h2Tunnel) Write(p []byte) (int, error) {
	if err := t.s.send(p, false, t.writeFor); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite tells the client that nothing more will come.
func (t *h2Tunnel) CloseWrite() error {
	t.s.sentEnd = true
	return t.s.send(nil, true, t.s.stall())
}

// Close implements net.Conn. The other goroutine's call returns.
func (t *h2Tunnel) Close() error {
	c := t.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.s.st.Done() {
		t.s.st.Reset(h2.Cancel)
		t.s.err = &h2.StreamError{Code: h2.Cancel, Detail: "closed"}
	}
	t.s.readable.ring()
	t.s.writable.ring()
	c.flush()
	return nil
}

// SetReadDeadline implements net.Conn, for reads to come.
func (t *h2Tunnel) SetReadDeadline(d time.Time) error { t.readUntil = d; return nil }

// SetWriteDeadline implements net.Conn, for writes to come.
func (t *h2Tunnel) SetWriteDeadline(d time.Time) error { t.writeFor = time.Until(d); return nil }

// SetDeadline implements net.Conn.
func (t *h2Tunnel) SetDeadline(d time.Time) error {
	t.readUntil, t.writeFor = d, time.Until(d)
	return nil
}

// LocalAddr implements net.Conn.
func (t *h2Tunnel) LocalAddr() net.Addr { return t.s.c.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (t *h2Tunnel) RemoteAddr() net.Addr { return t.s.c.nc.RemoteAddr() }
