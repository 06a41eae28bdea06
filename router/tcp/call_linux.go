//go:build !race

package tcp

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func recv(fd uintptr, p []byte) (int, error) {
	return call(unix.SYS_RECVFROM, fd, p, unix.MSG_DONTWAIT)
}

func send(fd uintptr, p []byte) (int, error) {
	return call(unix.SYS_SENDTO, fd, p, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// peek is recv of what stays there.
func peek(fd uintptr, p []byte) (int, error) {
	return call(unix.SYS_RECVFROM, fd, p, unix.MSG_DONTWAIT|unix.MSG_PEEK)
}

// call is a system call on a buffer that never waits. The pointer is made in the
// argument list of the call, as package unsafe demands.
func call(trap, fd uintptr, p []byte, flags uintptr) (int, error) {
	n, _, e := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	switch e {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, ErrNotReady
	}
	return 0, e
}
