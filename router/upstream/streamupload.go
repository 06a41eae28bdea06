package upstream

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// streamUpload carries the request body to the backend while the response is
// read.
type streamUpload struct {
	c *call
	// taken is set when the last of the body has been read from the client.
	taken atomic.Bool
	done  chan struct{} // closed at the end; guards the following
	// bodyErr is what reading the body failed with, unless it was cut off.
	bodyErr  error
	panicked any // what reading the body panicked with
}

func newStreamUpload(c *call) *streamUpload {
	return &streamUpload{c: c, done: make(chan struct{})}
}

func (u *streamUpload) run() {
	defer close(u.done)
	defer func() {
		if u.panicked = recover(); u.panicked != nil {
			u.c.interrupt()
		}
	}()
	p := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(p)
	for {
		u.patience(time.Time{})
		n, err := u.c.req.Body.Read(p[:])
		if err == io.EOF {
			u.taken.Store(true)
		}
		if !u.send(p[:n], err == io.EOF) || err == io.EOF {
			return
		}
		if err != nil {
			u.giveUp(err)
			return
		}
	}
}

// giveUp lets the backend see that the request did not end.
func (u *streamUpload) giveUp(err error) {
	c := u.c
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.over {
		return // it was we who ended the body
	}
	u.bodyErr = err
	c.reset(h2.Cancel)
	if c.err == nil {
		c.err = &h2.StreamError{Code: h2.Cancel, Detail: "the request body failed"}
	}
	c.readable.ring()
}

// patience sets until when the response must begin. While it is the client that
// is waited for there is no limit: a backend may take as long for its answer as
// the body takes to arrive. Reading the body has limits of its own.
func (u *streamUpload) patience(until time.Time) {
	u.c.s.mu.Lock()
	defer u.c.s.mu.Unlock()
	u.c.until = until
	if !until.IsZero() {
		u.c.readable.ring() // who waits does not know this limit
	}
}

// send sends p, and what ends the body behind it, as fast as the backend takes
// it. False: it takes no more.
func (u *streamUpload) send(p []byte, end bool) bool {
	var trailers view.Fields
	if end {
		trailers = u.c.req.Body.Trailers()
	}
	timeouts := &u.c.s.lane.addr.reg.opts.Timeouts
	ok := u.sendData(p, end && len(trailers) == 0, timeouts.Stall)
	if ok && len(trailers) > 0 {
		u.c.s.mu.Lock()
		u.c.st.SendTrailers(trailers)
		u.c.s.flush()
		u.c.s.mu.Unlock()
	}
	u.patience(time.Now().Add(timeouts.Head))
	return ok
}

func (u *streamUpload) sendData(p []byte, end bool, stall time.Duration) bool {
	c := u.c
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	until := time.Now().Add(stall)
	for {
		switch {
		case c.over || c.st.Done() || c.err != nil || s.lost != nil:
			return false
		case len(s.conn.Out()) >= sessionOut:
			s.waiting = append(s.waiting, c)
		default:
			n := c.st.SendData(p, end)
			s.flush()
			if p = p[n:]; len(p) == 0 {
				return true
			}
			if n > 0 {
				until = time.Now().Add(stall)
			}
		}
		if !time.Now().Before(until) {
			return false
		}
		c.pause(c.writable, until)
	}
}
