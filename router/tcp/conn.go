// Package tcp reads and writes TCP connections with less between than the net
// package has: on Linux with recv and send, which are cheaper than read and write, and
// without telling Go's scheduler, which need not know of system calls that never wait.
package tcp

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a TCP connection. One goroutine at a time may read, and one may write;
// everything else is the TCPConn's.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is the read or the write under way.
type transfer struct {
	p    []byte
	n    int
	err  error
	step func(fd uintptr) bool // reports whether it is over
}

// New returns nc as a Conn. Whoever has nc may go on using it.
func New(nc *net.TCPConn) (*Conn, error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{TCPConn: nc, raw: raw}
	c.in.step, c.out.step = c.recv, c.send
	return c, nil
}

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) {
	return c.in.run(p, c.raw.Read)
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	return c.out.run(p, c.raw.Write)
}

func (t *transfer) run(p []byte, when func(func(fd uintptr) bool) error) (int, error) {
	t.p, t.n, t.err = p, 0, nil
	err := when(t.step)
	t.p = nil
	if t.err != nil {
		err = t.err
	}
	return t.n, err
}

func (c *Conn) recv(fd uintptr) bool {
	t := &c.in
	if len(t.p) == 0 {
		return true
	}
	t.n, t.err = Recv(fd, t.p)
	if t.err == ErrNotReady {
		t.err = nil
		return false
	}
	return true
}

func (c *Conn) send(fd uintptr) bool {
	t := &c.out
	for t.n < len(t.p) {
		n, err := Send(fd, t.p[t.n:])
		t.n += n
		switch {
		case err == ErrNotReady:
			return false
		case err != nil:
			t.err = err
			return true
		}
	}
	return true
}

// ErrNotReady tells that a socket has nothing to read, or takes nothing.
var ErrNotReady error = syscall.EAGAIN

// Recv reads what the socket has, into p, which is not empty. io.EOF is the end, and
// ErrNotReady that there is nothing.
func Recv(fd uintptr, p []byte) (int, error) {
	n, err := retry(recv, fd, p)
	switch {
	case err == ErrNotReady:
	case err != nil:
		err = os.NewSyscallError("recv", err)
	case n == 0:
		err = io.EOF
	}
	return n, err
}

// Send writes as much of p as the socket takes; ErrNotReady: nothing.
func Send(fd uintptr, p []byte) (int, error) {
	n, err := retry(send, fd, p)
	if err != nil && err != ErrNotReady {
		err = os.NewSyscallError("send", err)
	}
	return n, err
}

// Silent reports whether the socket is open and has nothing to read.
func Silent(fd uintptr) bool {
	var b [1]byte
	_, err := retry(peek, fd, b[:])
	return err == ErrNotReady
}

func retry(call func(fd uintptr, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		if n, err := call(fd, p); err != syscall.EINTR {
			return n, err
		}
	}
}
