package splice

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is how much moves at once.
const pipeSize = 256 << 10

// Pipe is where bytes are on their way from one socket to another. One goroutine at a
// time uses it.
type Pipe struct {
	r, w int // descriptors
	held int // bytes in it
}

var pipes sync.Pool // of *Pipe; empty ones only

// Borrow returns an empty pipe; nil where there is none to be had.
func Borrow() *Pipe {
	if p, ok := pipes.Get().(*Pipe); ok {
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	// Beyond what a user may have, pipes stay at their usual size.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	p := &Pipe{r: fds[0], w: fds[1]}
	runtime.SetFinalizer(p, (*Pipe).close) // for what the pool drops
	return p
}

// GiveBack ends the use of the pipe. What it still holds is dropped.
func (p *Pipe) GiveBack() {
	if p.held > 0 {
		p.close()
		return
	}
	pipes.Put(p)
}

func (p *Pipe) close() {
	runtime.SetFinalizer(p, nil)
	unix.Close(p.r)
	unix.Close(p.w)
}

// Held returns how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// Fill takes up to n bytes from src into the empty pipe. It waits for the first until
// src's read deadline, and returns io.EOF at the end.
func (p *Pipe) Fill(src *net.TCPConn, n int64) (int, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	k, err := p.move(raw.Read, int(min(n, pipeSize)), true)
	if k == 0 && err == nil {
		return 0, io.EOF
	}
	p.held += k
	return k, err
}

// Drain gives what the pipe holds to dst, as much as that takes at once. It waits for
// the first byte to be taken until dst's write deadline.
func (p *Pipe) Drain(dst *net.TCPConn) (int, error) {
	raw, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	k, err := p.move(raw.Write, p.held, false)
	p.held -= k
	return k, err
}

// move moves up to n bytes between the pipe and a socket, once that is ready.
func (p *Pipe) move(when func(func(fd uintptr) bool) error, n int, in bool) (k int, err error) {
	waited := when(func(fd uintptr) bool {
		from, to := p.r, int(fd)
		if in {
			from, to = int(fd), p.w
		}
		k, err = transfer(from, to, n)
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
