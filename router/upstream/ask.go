package upstream

import "time"

// asks reports whether the request can be sent, and its answer waited for, in one go:
// in plaintext, without a body.
func (c *conn) asks(req *Request) bool {
	return c.socket != nil && c.nc == c.tcp && req.Length == 0
}

// send sends the request's head, and waits for the answer where it can do so at once.
func (c *conn) send(req *Request) (n int, err error) {
	timeouts := &c.registry().opts.Timeouts
	now := req.now
	if req.now = (time.Time{}); now.IsZero() {
		now = time.Now()
	}
	c.limitRead(now, timeouts.Head)
	head := req.appendHead(c.buf[:0]) // free until the response comes
	if c.readErr = nil; c.asks(req) {
		n, c.w, err = c.socket.ask(head, c.buf, c.reused)
		switch {
		case n == len(head):
			c.readErr = err // for whoever reads
			return n, nil
		case err != nil:
			return n, err
		}
	}
	c.limitWrite(now, timeouts.Stall)
	more, err := c.nc.Write(head[n:])
	return n + more, err
}
