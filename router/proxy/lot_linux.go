package proxy

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lot is where parked connections are: one goroutine watches all their sockets, with
// an epoll instance that Go's own poller watches. It runs while there are any.
// The zero value is an empty lot.
type lot struct {
	mu      sync.Mutex         // protects the following
	epoll   *os.File           // nil before the first connection
	parked  map[int32]*parking // by descriptor; who closes one has it woken, or it is never heard of again
	running bool               // a goroutine watches
	memory  memoryRelease
}

// enter adds a connection, which may be resumed at once. An error means that it is
// not in the lot.
func (l *lot) enter(p *parking) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoll == nil {
		if l.epoll, err = newEpoll(); err != nil {
			return err
		}
		l.parked = make(map[int32]*parking)
	}
	p.fd, err = l.control(p.tcp, unix.EPOLL_CTL_ADD)
	if err != nil {
		return err
	}
	l.parked[p.fd] = p
	l.memory.note(len(l.parked))
	if !l.running {
		l.running = true
		go l.watch()
	}
	return nil
}

// newEpoll makes an epoll instance that is a file to Go: who waits for it has no
// thread.
func newEpoll() (*os.File, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, err // there is no waiting for it
	}
	return f, nil
}

// control adds a socket to the epoll instance, or removes it, and returns its
// number. A socket that is closed is no longer in it. mu is held.
func (l *lot) control(tcp *net.TCPConn, op int) (number int32, err error) {
	socket, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	set, err := l.epoll.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = socket.Control(func(fd uintptr) {
		number = int32(fd)
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: number}
		err := set.Control(func(epfd uintptr) {
			failed = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(epfd), op, int(fd), &event))
		})
		if err != nil {
			failed = err
		}
	})
	if err == nil {
		err = failed
	}
	return number, err
}

// leave takes a connection out, if it is there still: whoever does that resumes it.
func (l *lot) leave(p *parking) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parked[p.fd] != p {
		return false
	}
	l.remove(p.fd)
	return true
}

// remove is leave with mu held.
func (l *lot) remove(fd int32) {
	delete(l.parked, fd)
	l.memory.note(len(l.parked))
	if len(l.parked) == 0 {
		l.epoll.SetReadDeadline(longAgo) // the watch ends
	}
}

// forget has the socket of a connection that was parked watched no more.
func (l *lot) forget(tcp *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.control(tcp, unix.EPOLL_CTL_DEL) // which fails if it is closed
}

// watch resumes connections until there are none.
func (l *lot) watch() {
	for set, err := l.epoll.SyscallConn(); err == nil; {
		err = set.Read(l.arrivals)
		if err != nil && !l.empty() {
			err = nil
		}
	}
}

// empty notes that the watch ends, if it may.
func (l *lot) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoll.SetReadDeadline(time.Time{})
	l.running = len(l.parked) > 0
	return !l.running
}

// arrivals resumes the connections whose clients have sent something or gone away,
// and reports false: there will be more.
func (l *lot) arrivals(epfd uintptr) bool {
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(int(epfd), events[:], 0)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return false
		}
		l.mu.Lock()
		for _, ev := range events[:n] {
			// Who was here is perhaps gone, and another one has its number:
			// then that one is resumed for nothing.
			if p, ok := l.parked[ev.Fd]; ok {
				l.remove(ev.Fd)
				go p.c.resume()
			}
		}
		l.mu.Unlock()
	}
}
