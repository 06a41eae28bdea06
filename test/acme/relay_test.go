//go:build acme

package acme

import (
	"io"
	"net"
	"sync"
	"testing"
)

// relay passes connections on to the first address that takes them, until it is
// cut.
type relay struct {
	ln   net.Listener    // const
	next func() []string // const; the addresses, in the order in which to try them

	mu    sync.Mutex // protects the following
	down  bool
	conns map[net.Conn]struct{}
}

func newRelay(t testing.TB, next func() []string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, next: next, conns: make(map[net.Conn]struct{})}
	go r.accept()
	t.Cleanup(func() { _ = ln.Close(); r.cut() })
	return r
}

func (r *relay) accept() {
	for {
		conn, err := r.ln.Accept()
		if err != nil {
			return
		}
		go r.pass(conn)
	}
}

func (r *relay) pass(from net.Conn) {
	defer r.end(from)
	if !r.begin(from) {
		return
	}
	for _, addr := range r.next() {
		to, err := net.Dial("tcp", addr)
		if err != nil {
			continue
		}
		defer r.end(to)
		if !r.begin(to) {
			return
		}
		go func() { _, _ = io.Copy(to, from); r.end(to) }()
		_, _ = io.Copy(from, to)
		return
	}
}

// begin reports whether a connection may live.
func (r *relay) begin(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.down {
		r.conns[c] = struct{}{}
	}
	return !r.down
}

func (r *relay) end(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close()
}

// cut ends every connection, and those that will come.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	for c := range r.conns {
		_ = c.Close()
	}
}
