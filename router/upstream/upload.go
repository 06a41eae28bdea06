package upstream

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/portico-ingress/portico/router/splice"
	"github.com/portico-ingress/portico/router/wire"
)

// upload carries the request body to the backend while the response is read.
type upload struct {
	resp *h1Exchange
	// taken is set when the last of the body has been read from the client.
	taken atomic.Bool
	// broken is set when reading the body has failed.
	broken atomic.Bool
	done   chan struct{} // closed at the end; guards the following
	// bodyErr is what reading the body failed with, writeErr what sending it
	// failed with. At most one is set.
	bodyErr  error
	writeErr error
	panicked any // what reading the body panicked with
	// cutOff is set by finish when it was we who ended the body.
	cutOff bool
}

func newUpload(r *h1Exchange) *upload {
	return &upload{resp: r, done: make(chan struct{})}
}

func (u *upload) run() {
	defer close(u.done)
	defer func() {
		if u.panicked = recover(); u.panicked != nil {
			u.resp.conn.close()
		}
	}()
	p := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(p)
	if u.resp.req.Length < 0 {
		u.copyChunked(p[:])
	} else {
		u.copyLength(p[:])
	}
	if u.bodyErr != nil {
		u.broken.Store(true)
		u.resp.conn.close() // the backend must see that the request did not end
	}
}

func (u *upload) copyLength(p []byte) {
	left, ok := u.resp.req.Length, true
	for left > 0 {
		if left, ok = u.splice(left); left == 0 || !ok {
			return
		}
		u.lift()
		n, err := u.resp.req.Body.Read(p[:min(int64(len(p)), left)])
		left -= int64(n)
		u.taken.Store(left == 0)
		if !u.send(p[:n]) {
			return
		}
		if err != nil && left > 0 {
			u.bodyErr = unexpected(err)
			return
		}
	}
}

// splice has what is left move from socket to socket as long as that can be done, and
// returns the rest. False: the upload has come to its end before that.
func (u *upload) splice(left int64) (int64, bool) {
	dst, plain := u.resp.conn.nc.(*net.TCPConn)
	body, can := u.resp.req.Body.(Source)
	if !plain || !can || left < splice.From || !body.Bare() {
		return left, true
	}
	p := splice.Borrow()
	if p == nil {
		return left, true
	}
	defer p.GiveBack()
	for left > 0 {
		u.lift()
		n, err := body.Fill(p)
		left -= int64(n)
		u.taken.Store(left == 0)
		if !u.drain(p, dst) {
			return left, false
		}
		if err != nil && left > 0 {
			u.bodyErr = unexpected(err)
			return left, false
		}
	}
	return left, true
}

// drain is send of what is in a pipe.
func (u *upload) drain(p *splice.Pipe, dst *net.TCPConn) bool {
	timeouts := &u.resp.conn.registry().opts.Timeouts
	for p.Held() > 0 && u.writeErr == nil {
		dst.SetWriteDeadline(time.Now().Add(timeouts.Stall)) // a pipe holds more than a slow backend takes in that time
		_, u.writeErr = p.Drain(dst)
	}
	dst.SetReadDeadline(time.Now().Add(timeouts.Head))
	return u.writeErr == nil
}

func (u *upload) copyChunked(p []byte) {
	out := make([]byte, 0, 4<<10)
	for {
		u.lift()
		n, err := u.resp.req.Body.Read(p)
		out = wire.AppendChunk(out[:0], p[:n])
		if err == io.EOF {
			u.taken.Store(true)
			out = wire.AppendLastChunk(out, u.resp.req.Body.Trailers())
		}
		if !u.send(out) || err == io.EOF {
			return
		}
		if err != nil {
			u.bodyErr = err
			return
		}
	}
}

// lift takes the limit for the response away while it is the client that is
// waited for: a backend may take as long for its answer as the body takes to
// arrive. Reading the body has limits of its own.
func (u *upload) lift() { u.resp.conn.nc.SetReadDeadline(time.Time{}) }

// send writes b, and gives the backend its time to answer from now on.
func (u *upload) send(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	c, timeouts := u.resp.conn, &u.resp.conn.registry().opts.Timeouts
	c.nc.SetWriteDeadline(time.Now().Add(timeouts.Stall))
	_, u.writeErr = c.nc.Write(b)
	c.nc.SetReadDeadline(time.Now().Add(timeouts.Head))
	return u.writeErr == nil
}

// finish waits for the end of the upload, now that the response has been dealt
// with, and reports whether the whole body was sent. A body that is still to
// come is cut off; final tells that no other attempt may follow.
func (u *upload) finish(final bool) bool {
	select {
	case <-u.done:
	default:
		switch {
		case u.broken.Load():
		case u.taken.Load():
			return u.sentWithin(time.Second)
		default:
			u.cutOff = true
			u.resp.conn.close()
			u.resp.req.cutOff(final)
		}
		<-u.done
	}
	return u.sent()
}

// sent reports whether the whole body was sent. done is closed.
func (u *upload) sent() bool {
	return u.bodyErr == nil && u.writeErr == nil && u.panicked == nil
}

// sentWithin waits for the end of the upload no longer than that. It sets no deadline:
// send may be about to set another one.
func (u *upload) sentWithin(wait time.Duration) bool {
	late := time.AfterFunc(wait, u.resp.conn.close)
	<-u.done
	return late.Stop() && u.sent()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
