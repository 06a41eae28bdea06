package upstream

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ask is a request that is sent, and its answer waited for, in one go: it saves the
// read that finds nothing since the answer cannot be there yet, and the system calls'
// way through the net package. It is for plaintext and requests without a body.
type ask struct {
	step func(fd uintptr) bool // const; askStep of the connection

	head    []byte
	sent    int // of head; -1: nothing was tried
	err     error
	readErr error // what the wait or the first read failed with
}

// errStale tells that an unused connection was found closed, or not silent.
var errStale = errors.New("the connection was not good any more")

// asks reports whether the request can be sent by ask.
func (c *conn) asks(req *Request) bool { return c.raw != nil && c.nc == c.tcp && req.Length == 0 }

// send sends the request's head, and waits for the answer where ask can do so.
func (c *conn) send(req *Request) (n int, err error) {
	timeouts := &c.registry().opts.Timeouts
	now := req.Start
	if now.IsZero() {
		now = time.Now()
	}
	c.limitRead(now, timeouts.Head)
	head := req.appendHead(c.buf[:0]) // free until the response comes
	a := &c.ask
	a.head, a.sent, a.err, a.readErr = head, -1, nil, nil
	if c.asks(req) {
		err = c.raw.Read(a.step)
		n = max(a.sent, 0)
		switch {
		case a.err != nil || a.sent < 0:
			return n, errors.Join(a.err, err)
		case n == len(head):
			if a.readErr == nil {
				a.readErr = err
			}
			return n, nil
		}
	}
	c.limitWrite(now, timeouts.Stall)
	more, err := c.nc.Write(head[n:])
	return n + more, err
}

// askStep is called when the socket is to be tried: at first to send, later to
// receive. Whatever arrives from before the first call on is not missed, since
// RawConn.Read forgets earlier news only before it. False: it waits for more.
func (c *conn) askStep(fd uintptr) bool {
	a := &c.ask
	if a.sent < 0 {
		if c.reused && !silent(int(fd)) {
			a.err = errStale
			return true
		}
		a.sent, a.err = write(int(fd), a.head)
		return a.err != nil || a.sent < len(a.head)
	}
	n, err := unix.Read(int(fd), c.buf)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), c.buf)
	}
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		a.readErr = os.NewSyscallError("read", err)
	case n == 0:
		a.readErr = io.EOF
	default:
		c.w = n
	}
	return true
}

// write sends what the socket takes at once.
func write(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EAGAIN:
			return 0, nil
		case err != unix.EINTR:
			return 0, os.NewSyscallError("write", err)
		}
	}
}
