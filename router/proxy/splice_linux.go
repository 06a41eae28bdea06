package proxy

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is how much moves at once.
const pipeSize = 256 << 10

// pipe is where bytes are between two sockets that they move through without
// being copied.
type pipe struct{ r, w int }

var pipes sync.Pool // of *pipe; empty ones only

// borrowPipe returns nil where there is none to be had.
func borrowPipe() *pipe {
	if p, ok := pipes.Get().(*pipe); ok {
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	// Beyond what a user may have, pipes stay at their usual size.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	p := &pipe{fds[0], fds[1]}
	runtime.SetFinalizer(p, (*pipe).close) // for what the pool drops
	return p
}

func (p *pipe) close() {
	runtime.SetFinalizer(p, nil)
	unix.Close(p.r)
	unix.Close(p.w)
}

// splice moves n bytes from a backend to a client, each of whom may take up to
// its time for some of them. False: nothing was moved, and cannot be this way.
func splice(dst, src *net.TCPConn, n int64, readStall, writeStall time.Duration) (moved int64, ok bool, readErr, writeErr error) {
	in, err := src.SyscallConn()
	if err != nil {
		return 0, false, nil, nil
	}
	out, err := dst.SyscallConn()
	if err != nil {
		return 0, false, nil, nil
	}
	p := borrowPipe()
	if p == nil {
		return 0, false, nil, nil
	}
	for moved < n {
		src.SetReadDeadline(time.Now().Add(readStall))
		inside, err := p.fill(in, n-moved)
		if err != nil {
			pipes.Put(p) // it is empty
			return moved, true, err, nil
		}
		for inside > 0 {
			dst.SetWriteDeadline(time.Now().Add(writeStall))
			k, err := p.drain(out, inside)
			moved, inside = moved+int64(k), inside-k
			if err != nil {
				p.close() // there is something of this response in it
				return moved, true, nil, err
			}
		}
	}
	pipes.Put(p)
	return moved, true, nil, nil
}

// fill takes up to n bytes from a socket.
func (p *pipe) fill(in syscall.RawConn, n int64) (int, error) {
	k, err := 0, error(nil)
	waited := in.Read(func(fd uintptr) bool {
		k, err = transfer(int(fd), p.w, int(min(n, pipeSize)))
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, os.NewSyscallError("splice", err)
	case k == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return k, nil
}

// drain gives up to n bytes to a socket.
func (p *pipe) drain(out syscall.RawConn, n int) (int, error) {
	k, err := 0, error(nil)
	waited := out.Write(func(fd uintptr) bool {
		k, err = transfer(p.r, int(fd), n)
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, os.NewSyscallError("splice", err)
	}
	return k, nil
}

func transfer(from, to, n int) (int, error) {
	for {
		k, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(k), err
		}
	}
}
