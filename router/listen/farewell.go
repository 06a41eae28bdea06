package listen

import (
	"net"
	"time"
)

// holdMost is what is held back at most; more is better sent at once.
const holdMost = 16 << 10

// farewell is the TCP connection that a TLS one is on. It can hold back what is
// written last, so that it leaves together with the close_notify behind it: one
// packet less to make and to take. Owned by who writes.
type farewell struct {
	net.Conn
	tcp     *net.TCPConn // Conn
	held    []byte
	holding bool
	stall   time.Duration // that what is held may take
}

// TCPConn returns the connection below.
func (f *farewell) TCPConn() (*net.TCPConn, bool) { return f.tcp, true }

// Hold has what is written from now on wait for Release, which may then take as
// long as stall. Nothing but the end of the connection may follow.
func (f *farewell) Hold(stall time.Duration) { f.holding, f.stall = true, stall }

// Write implements io.Writer.
func (f *farewell) Write(p []byte) (int, error) {
	if f.holding && len(f.held)+len(p) <= holdMost {
		f.held = append(f.held, p...)
		return len(p), nil
	}
	f.Release()
	return f.tcp.Write(p)
}

// Release sends what is held back. An error is the connection's end, which is near
// anyway.
func (f *farewell) Release() {
	held := f.held
	f.held, f.holding = nil, false
	if len(held) > 0 {
		_ = f.tcp.SetWriteDeadline(time.Now().Add(f.stall))
		_, _ = f.tcp.Write(held)
	}
}
