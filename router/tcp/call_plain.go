//go:build !linux || race

// The race detector knows what these calls do with their buffers, and that what is
// written is written before it is read.

package tcp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func recv(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Read(int(fd), p)
	return max(n, 0), err
}

func send(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Write(int(fd), p)
	return max(n, 0), err
}

// peek is recv of what stays there.
func peek(fd uintptr, p []byte) (int, error) {
	n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return max(n, 0), err
}
