package proxy

import (
	"errors"
	"net"
	"os"
	"time"
)

// sendAll writes all of p to a client that takes some of it within stall, and
// some more, and so on. A TLS connection is lost with the first write that
// times out, so it gets one record at a time.
func sendAll(nc net.Conn, p []byte, stall time.Duration, secure bool) error {
	piece := len(p)
	if secure {
		piece = 16 << 10
	}
	for len(p) > 0 {
		nc.SetWriteDeadline(time.Now().Add(stall))
		n, err := nc.Write(p[:min(piece, len(p))])
		p = p[n:]
		stalled := n == 0 || secure || !errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && stalled {
			return err
		}
	}
	return nil
}
