package proxy

import (
	"errors"
	"net"
	"os"
	"time"
)

// stallLimit is the write deadline of a connection. It is set with an eighth on
// top, so that the next writes need not set it again.
type stallLimit struct {
	until time.Time
	now   time.Time // as far as it is known, for the next write alone
}

func (l *stallLimit) arm(nc net.Conn, stall time.Duration) {
	now := l.now
	if l.now = (time.Time{}); now.IsZero() {
		now = time.Now()
	}
	if l.until.Sub(now) < stall {
		l.until = now.Add(stall + stall/8)
		nc.SetWriteDeadline(l.until)
	}
}

// sendAll writes all of p to a client that takes some of it within stall, and
// some more, and so on. A TLS connection is lost with the first write that
// times out, so it gets one record at a time.
func sendAll(nc net.Conn, p []byte, stall time.Duration, limit *stallLimit, secure bool) error {
	piece := len(p)
	if secure {
		piece = 16 << 10
	}
	for len(p) > 0 {
		limit.arm(nc, stall)
		n, err := nc.Write(p[:min(piece, len(p))])
		p = p[n:]
		stalled := n == 0 || secure || !errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && stalled {
			return err
		}
	}
	return nil
}
