package upstream

import (
	"errors"
	"syscall"

	"github.com/portico-ingress/portico/router/tcp"
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
		if s.early = !tcp.Silent(fd); s.early && s.stale {
			s.writeErr = errStale
			return true
		}
		s.sent, s.writeErr = tcp.Send(fd, s.out)
		if s.writeErr == tcp.ErrNotReady {
			s.writeErr = nil
		}
		if s.writeErr != nil || s.sent < len(s.out) {
			return true
		}
		if !s.early {
			return false
		}
	}
	s.n, s.readErr = tcp.Recv(fd, s.in)
	if s.readErr == tcp.ErrNotReady {
		s.readErr = nil
		return false
	}
	return true
}

// quiet reports whether the socket is open and has nothing to read.
func (s *socket) quiet() bool {
	yes := false
	err := s.raw.Control(func(fd uintptr) { yes = tcp.Silent(fd) })
	return err == nil && yes
}
