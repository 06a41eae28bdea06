package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portico-ingress/portico/router/upstream"
)

// tunnel carries bytes both ways after a 101 until both sides have ended, one
// fails, or both have been silent for Timeouts.Tunnel. A side that ends only
// its sending half may go on receiving.
func (e *Engine) tunnel(x *exchange, resp *upstream.Response) {
	x.rec.Status, x.rec.Upgraded, x.begun = 101, true, true
	head := &responseHead{Status: 101, Reason: resp.Head.Reason, Upgrade: resp.Head.Fields.Get("Upgrade")}
	head.Fields = cleanResponse(resp.Head.Fields, false)
	backend := resp.Hijack()
	defer backend.Close()
	client, err := x.front.Tunnel(head)
	if err != nil {
		x.rec.Reason = clientGone
		return
	}
	defer context.AfterFunc(x.ctx, func() { backend.Close() })()
	t := &duplex{idle: e.opts.Timeouts.Tunnel}
	t.touch()
	var wg sync.WaitGroup
	wg.Go(func() { t.copy(backend, client, &x.rec.BytesIn) })
	t.copy(client, backend, &x.rec.BytesOut)
	wg.Wait()
}

// duplex is the two directions of a tunnel.
type duplex struct {
	idle time.Duration
	last atomic.Int64 // when any byte moved, UnixNano
}

func (d *duplex) touch() { d.last.Store(time.Now().UnixNano()) }

// copy moves bytes one way until src ends, and passes the end on. A failure
// ends the other direction too.
func (d *duplex) copy(dst, src net.Conn, count *int64) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := d.read(src, buf[:])
		if n > 0 {
			d.touch()
			*count += int64(n)
			dst.SetWriteDeadline(time.Now().Add(d.idle))
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == nil {
			continue
		}
		if err != io.EOF || closeWrite(dst) != nil {
			src.Close()
			dst.Close()
		}
		return
	}
}

// read waits for bytes as long as either direction is alive.
func (d *duplex) read(src net.Conn, p []byte) (int, error) {
	for {
		until := time.Unix(0, d.last.Load()).Add(d.idle)
		src.SetReadDeadline(until)
		n, err := src.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Unix(0, d.last.Load()).Add(d.idle).After(until) {
			return n, err
		}
	}
}
