package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/portico-ingress/portico/router/splice"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

// hesitant is a connection whose second write deadline is not set before the third is,
// or the connection closed.
type hesitant struct {
	net.Conn
	deadlines atomic.Int32
	second    chan struct{} // closed when it is to be set
	free      chan struct{} // it is set when something comes
}

func (c *hesitant) SetWriteDeadline(t time.Time) error {
	switch c.deadlines.Add(1) {
	case 2:
		close(c.second)
		<-c.free
	case 3:
		defer func() { c.free <- struct{}{} }()
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *hesitant) Close() error {
	select {
	case c.free <- struct{}{}:
	default:
	}
	return c.Conn.Close()
}

// TestEndOfAnUpload: a backend that has answered and does not take the rest of the
// request is not waited for, at whatever moment its response ends.
func TestEndOfAnUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &hesitant{Conn: ours, second: make(chan struct{}), free: make(chan struct{}, 1)}
		r := NewRegistry(Options{Timeouts: Timeouts{Stall: time.Hour}, Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return c, nil }})
		defer r.Close()
		r.Set(web, ready(netip.MustParseAddrPort("192.0.2.1:80")))
		go func() {
			if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
				io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}()
		resp, err := r.Pool(web).Do(t.Context(), post("body", 4))
		if err != nil {
			t.Fatal(err)
		}
		<-c.second
		start := time.Now()
		resp.Close()
		if waited := time.Since(start); waited >= time.Hour {
			t.Errorf("it was waited for: %s", waited)
		}
	})
}

// socketBody is a request body that comes straight from a socket.
type socketBody struct {
	*net.TCPConn
	left int64
}

func (*socketBody) Trailers() view.Fields { return nil }
func (*socketBody) Interrupt()            {}
func (*socketBody) Resume()               {}

// Fill implements Source.
func (b *socketBody) Fill(p *splice.Pipe) (int, bool, error) {
	n, err := p.Fill(b.TCPConn, b.left)
	b.left -= int64(n)
	return n, true, err
}

// TestSlowBackendOfAnUpload: a backend has its time for each part of a request that it
// takes, not for all that is on its way at once.
func TestSlowBackendOfAnUpload(t *testing.T) {
	const stall, piece, size = time.Second / 2, 16 << 10, 1 << 20
	srv := backend.Serve(t, func(c *backend.Conn) {
		c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		if _, err := c.Head(); err != nil {
			return
		}
		slow := time.NewTicker(stall / 10)
		defer slow.Stop()
		left := int64(size)
		for ; left > size-40*piece; left -= piece {
			<-slow.C
			if _, err := io.CopyN(io.Discard, c, piece); err != nil {
				return
			}
		}
		if _, err := io.CopyN(io.Discard, c, left); err == nil {
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	dial := func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
		if err == nil {
			err = nc.(*net.TCPConn).SetWriteBuffer(32 << 10)
		}
		return nc, err
	}
	r := newRegistry(t, Options{Timeouts: Timeouts{Stall: stall, Head: 4 * stall}, Dial: dial})
	r.Set(web, ready(srv.Addr))
	client, body := pair(t)
	body.SetReadBuffer(1 << 20)
	go client.Write(make([]byte, size))
	req := &Request{Method: "POST", Target: "/", Host: "h", Length: size, Body: &socketBody{body, size}}
	resp, err := r.Pool(web).Do(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Close()
}
