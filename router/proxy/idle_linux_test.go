package proxy

import (
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/test/backend"
)

// tardy is a connection whose time is up when something has come, once it is told to,
// and not before.
type tardy struct {
	net.Conn
	reads atomic.Int32 // that returned something
	told  atomic.Bool
	was   atomic.Bool  // told
	until atomic.Int64 // the read deadline
}

func (c *tardy) NetConn() net.Conn { return c.Conn }

func (c *tardy) SetReadDeadline(t time.Time) error {
	c.until.Store(t.UnixNano())
	return nil
}

func (c *tardy) Read(p []byte) (int, error) {
	if err := c.come(); err != nil {
		return 0, err
	}
	if c.told.CompareAndSwap(true, false) {
		c.was.Store(true)
		return 0, os.ErrDeadlineExceeded
	}
	if c.was.Load() && c.until.Load() < time.Now().UnixNano() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// come waits for something to read.
func (c *tardy) come() error {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return err != unix.EAGAIN
	})
}

// TestIdleLast: a request that is there when its connection has been idle for too long
// is served.
func TestIdleLast(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			slow := &tardy{}
			g := newRig(t, backend.OK("ok"), func(o *Options) { o.Timeouts.Idle = 1 })
			over := make(chan struct{})
			c := g.dialThrough(protocol, func(nc *net.TCPConn) net.Conn { slow.Conn = nc; return slow }, func() { close(over) })
			ask := func() int { status, _ := c.do(get); return status }
			if protocol == "h2" {
				ask = askerH2(c).ask
			}
			if status := ask(); status != 200 {
				t.Fatal(status)
			}
			g.idle()
			slow.told.Store(true)
			if status := ask(); status != 200 || slow.told.Load() {
				t.Error(status)
			}
			c.Close()
			<-over
		})
	}
}

// TestHeadLast: a head whose rest is there when its time is up is complete.
func TestHeadLast(t *testing.T) {
	slow := &tardy{}
	g := newRig(t, backend.OK("ok"), func(o *Options) { o.Timeouts.ReadHeader = 1 })
	over := make(chan struct{})
	c := g.dialThrough("http/1.1", func(nc *net.TCPConn) net.Conn { slow.Conn = nc; return slow }, func() { close(over) })
	c.send(get[:10])
	eventually(t, "the first piece is read", func() bool { return slow.reads.Load() == 1 })
	slow.told.Store(true)
	if status, _ := c.do(get[10:]); status != 200 || slow.told.Load() {
		t.Error(status)
	}
	c.Close()
	<-over
}

// idle waits until no HTTP/2 connection has a stream.
func (g *rig) idle() {
	eventually(g.t, "no stream is left", func() bool {
		g.engine.mu.Lock()
		defer g.engine.mu.Unlock()
		for c := range g.engine.h2conns {
			c.mu.Lock()
			busy := c.busy()
			c.mu.Unlock()
			if busy {
				return false
			}
		}
		return true
	})
}
