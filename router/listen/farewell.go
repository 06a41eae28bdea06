package listen

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/tcp"
)

// holdMost is what is held back at most; more is better sent at once.
const holdMost = 16 << 10

// farewell is the TCP connection that a TLS one is on. It can hold back what is
// written last, so that it leaves together with the close_notify behind it: one
// packet less to make and to take. Safe for concurrent use: TLS writes by itself too,
// when it is closed to cut the connection, and where a read asks for an answer.
type farewell struct {
	net.Conn
	tcp *net.TCPConn // const; below Conn

	mu      sync.Mutex // protects the following
	held    []byte
	holding bool
	stall   time.Duration // that what is held may take
}

// TCPConn returns the connection below.
func (f *farewell) TCPConn() (*net.TCPConn, bool) { return f.tcp, true }

// Hold has what is written from now on wait for Release, which may then take as
// long as stall. Nothing but the end of the connection may follow.
func (f *farewell) Hold(stall time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding, f.stall = true, stall
}

// Write implements io.Writer.
func (f *farewell) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holding && len(f.held)+len(p) <= holdMost {
		f.held = append(f.held, p...)
		return len(p), nil
	}
	f.release()
	n, err := f.Conn.Write(p)
	if n < len(p) && errors.Is(err, os.ErrDeadlineExceeded) {
		return f.lookAgain(p, n)
	}
	return n, err
}

// lookAgain writes the rest of p if there is room for it by now. The kernel tells of room
// only when a third of its buffer is free, and who takes bytes slowly would lose the
// connection, as TLS does with the first write that fails. mu is held.
func (f *farewell) lookAgain(p []byte, n int) (int, error) {
	if err := f.SetWriteDeadline(time.Now().Add(tcp.NoWait)); err != nil {
		return n, err
	}
	more, err := f.Conn.Write(p[n:])
	return n + more, err
}

// Release sends what is held back. An error is the connection's end, which is near
// anyway.
func (f *farewell) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release()
}

// release is Release with mu held.
func (f *farewell) release() {
	held := f.held
	f.held, f.holding = nil, false
	if len(held) > 0 {
		_ = f.tcp.SetWriteDeadline(time.Now().Add(f.stall))
		_, _ = f.Conn.Write(held)
	}
}
