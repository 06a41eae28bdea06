package upstream

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errStale tells that an unused connection has something to read, or has ended.
var errStale = errors.New("the connection was not good any more")

// socket is that of a connection. It can write and then wait for what is said to
// that, in one go: this saves the read that finds nothing, since the answer cannot be
// there yet, and a way through the net package. Deadlines and closing are the
// connection's.
type socket struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // try

	out, in  []byte
	stale    bool // something to read before writing is an error
	early    bool // there was
	begun    bool
	sent, n  int
	writeErr error
	readErr  error
}

// socketOf returns nil for a connection that has none.
func socketOf(c any) *socket {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.step = s.try
	return s
}

// ask writes out, then waits for something to read into in, as Read does, until the
// read deadline. With stale there must be nothing to read before: errStale. If sent is
// less than out without an error, the socket takes no more at the moment, and nothing
// was read.
func (s *socket) ask(out, in []byte, stale bool) (sent, n int, err error) {
	s.out, s.in, s.stale, s.early, s.begun = out, in, stale, false, false
	s.sent, s.n, s.writeErr, s.readErr = 0, 0, nil, nil
	err = s.raw.Read(s.step)
	s.out, s.in = nil, nil
	switch {
	case s.writeErr != nil:
		err = s.writeErr
	case s.readErr != nil:
		err = s.readErr
	}
	return s.sent, s.n, err
}

// try is called when the socket is to be tried: at first to write, later to read.
// RawConn.Read forgets what the poller has told before its first call; so what is
// there already is looked for, and what comes later is not missed. False: it waits.
func (s *socket) try(fd uintptr) bool {
	if !s.begun {
		s.begun = true
		if s.early = !silent(int(fd)); s.early && s.stale {
			s.writeErr = errStale
			return true
		}
		if s.sent, s.writeErr = write(int(fd), s.out); s.writeErr != nil || s.sent < len(s.out) {
			return true
		}
		if !s.early {
			return false
		}
	}
	n, err := unix.Read(int(fd), s.in)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), s.in)
	}
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		s.readErr = os.NewSyscallError("read", err)
	case n == 0:
		s.readErr = io.EOF
	default:
		s.n = n
	}
	return true
}

// quiet reports whether the socket is open and has nothing to read.
func (s *socket) quiet() bool {
	yes := false
	err := s.raw.Control(func(fd uintptr) { yes = silent(int(fd)) })
	return err == nil && yes
}

// silent is quiet of a descriptor.
func silent(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return n == 0 && err == nil
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
