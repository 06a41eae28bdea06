package listen

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenConfig has connections inherit from their socket the probes that tell a dead
// peer (RFC 1122 §4.2.3.6): set on each they would cost four system calls.
var listenConfig = net.ListenConfig{KeepAlive: -1, Control: probe}

// probe has a silent peer probed after 15 s, nine times, as Go does.
func probe(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9),
		)
	})
	return errors.Join(err, failed)
}
