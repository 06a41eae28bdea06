package tcp

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// NoWait is enough for a write that does not wait.
const NoWait = 10 * time.Millisecond

// Readable reports whether there is something on a socket that nobody has taken yet: bytes
// or the end of a connection, or connections in the queue of a listener.
func Readable(socket syscall.Conn) (yes bool) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		yes = n > 0 && err == nil
	})
	return yes && err == nil
}
