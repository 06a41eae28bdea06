package upstream

import (
	"io"
	"sync/atomic"

	"github.com/portico-ingress/portico/router/splice"
)

// replayLimit is how much of a request body is kept to be sent again.
const replayLimit = 64 << 10

// replay is a request body that can be begun anew as long as little of it has been
// read. One goroutine at a time uses it.
type replay struct {
	Body
	kept        []byte      // what has been read, unless it is spilt
	next        int         // of kept, to be read
	ended       bool        // Body has been read to its end
	spilt       bool        // more was read than is kept
	interrupted bool        // by us, since another attempt may follow
	settled     atomic.Bool // no other attempt follows
}

// Read implements Body.
func (b *replay) Read(p []byte) (n int, err error) {
	if b.next < len(b.kept) {
		n = copy(p, b.kept[b.next:])
		if b.next += n; b.next < len(b.kept) {
			return n, nil
		}
		if b.settled.Load() {
			b.kept, b.next = nil, 0
		}
		if b.ended {
			err = io.EOF
		}
		return n, err
	}
	if b.ended {
		return 0, io.EOF
	}
	n, err = b.Body.Read(p)
	b.ended = err == io.EOF
	if b.spilt = b.spilt || b.settled.Load() || len(b.kept)+n > replayLimit; b.spilt {
		b.kept, b.next = nil, 0
		return n, err
	}
	b.kept = append(b.kept, p[:n]...)
	b.next = len(b.kept)
	return n, err
}

// Bare implements Source: once nothing more is kept.
func (b *replay) Bare() bool {
	src, ok := b.Body.(Source)
	return ok && b.spilt && b.next == len(b.kept) && !b.ended && src.Bare()
}

// Fill implements Source.
func (b *replay) Fill(p *splice.Pipe) (int, error) {
	n, err := b.Body.(Source).Fill(p)
	b.ended = err == io.EOF
	return n, err
}

// keep has the body kept, for a request that may be sent again. Of others nothing
// is ever sent twice.
func (r *Request) keep(http2 bool) {
	if r.Body != nil && (http2 || idempotent(r.Method)) {
		r.Body = &replay{Body: r.Body}
	}
}

// whole reports whether the request can be sent from its beginning.
func (r *Request) whole() bool {
	b, ok := r.Body.(*replay)
	return r.Body == nil || ok && !b.spilt
}

// rewind begins the body anew.
func (r *Request) rewind() {
	if b, ok := r.Body.(*replay); ok {
		if b.next = 0; b.interrupted {
			b.interrupted = false
			b.Resume()
		}
	}
}

// cutOff makes a Read of the body that waits return an error. Unless it is final,
// another attempt may follow.
func (r *Request) cutOff(final bool) {
	if b, ok := r.Body.(*replay); ok && !final {
		b.interrupted = true
		b.Interrupt()
		return
	}
	_ = r.Body.Close()
}

// settle tells that the request has a response: what comes of its body from now on
// is not kept.
func (r *Request) settle() {
	if b, ok := r.Body.(*replay); ok {
		b.settled.Store(true)
	}
}

// giveUp is called when no other attempt follows.
func (r *Request) giveUp() {
	if b, ok := r.Body.(*replay); ok && b.interrupted {
		_ = b.Close()
	}
}
