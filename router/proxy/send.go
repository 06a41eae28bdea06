package proxy

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/portico-ingress/portico/router/tcp"
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

// minWriteRate is how many bytes a second a client must take of what waits for it: one
// that takes a few now and then would keep its response, and the kernel's buffers
// with it, for days.
const minWriteRate = 240

// tooSlow reports whether n bytes are less than a client must take within stall.
func tooSlow(n int, stall time.Duration) bool { return float64(n) < minWriteRate*stall.Seconds() }

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
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case secure:
			giveUp(nc)
			return err
		default:
			// What it took in the beginning may have filled the kernel's buffer: what
			// has room there now is what the client has taken since.
			limit.until = time.Time{}
			nc.SetWriteDeadline(time.Now().Add(tcp.NoWait))
			n, err := nc.Write(p)
			if p = p[n:]; err != nil && tooSlow(n, stall) {
				giveUp(nc)
				return err
			}
		}
	}
	return nil
}

// giveUp has what a client does not take go when its connection is closed: the kernel
// would keep megabytes of it for as long as the client likes.
func giveUp(nc net.Conn) {
	if tcp := socketOf(nc); tcp != nil {
		tcp.SetLinger(0)
	}
}
