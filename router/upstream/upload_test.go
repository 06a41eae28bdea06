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
