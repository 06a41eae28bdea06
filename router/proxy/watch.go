package proxy

import (
	"errors"
	"os"
	"sync"
	"time"
)

// watchDelay keeps short exchanges free of a second goroutine.
const watchDelay = 20 * time.Millisecond

// watch notices that the client closes its connection while the engine waits
// for a backend. HTTP/1.1 has no other sign of a cancelled request than the end
// of the connection, which only a read reports. So, once the request has been
// read and some time has passed, a timer's goroutine reads on: the end cancels
// the exchange; bytes of the next request are kept.
type watch struct {
	c *h1Conn

	watchMu sync.Mutex // protects the following
	timer   *time.Timer
	armed   bool
	reading chan struct{} // closed when the read has ended; nil without one
}

// of gives the watch to a connection.
func (w *watch) of(c *h1Conn) {
	w.watchMu.Lock()
	defer w.watchMu.Unlock()
	w.c = c
}

// arm starts the watch. The read buffer belongs to it until stop.
func (w *watch) arm() {
	w.watchMu.Lock()
	defer w.watchMu.Unlock()
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(watchDelay, w.read)
	} else {
		w.timer.Reset(watchDelay)
	}
}

func (w *watch) read() {
	w.watchMu.Lock()
	c := w.c
	if !w.armed {
		w.watchMu.Unlock()
		return
	}
	w.armed = false
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		w.watchMu.Unlock()
		return // enough is waiting already; a write will tell
	}
	done := make(chan struct{})
	w.reading = done
	c.reads.set(time.Time{})
	w.watchMu.Unlock()

	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.life.End(errClientGone)
	}
	close(done)
}

// stop ends the watch and returns the buffer.
func (w *watch) stop() {
	w.watchMu.Lock()
	defer w.watchMu.Unlock()
	if w.armed {
		w.armed = false
		w.timer.Stop()
	}
	if w.reading != nil {
		w.c.reads.set(longAgo)
		<-w.reading
		w.reading = nil
	}
}
