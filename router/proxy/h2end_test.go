package proxy

import (
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
	"github.com/portico-ingress/portico/test/backend"
)

// TestH2IdleSince: a connection whose last stream has just ended is not one that
// has been idle since the stream before.
func TestH2IdleSince(t *testing.T) {
	asked := make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if strings.HasPrefix(head, "GET /hold ") {
				asked <- struct{}{}
				c.Wait()
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	c := g.dialTLS("", "h2")
	fr := handshakeH2(t, c)
	ask := func(id uint32, path string) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true,
			BlockFragment: block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", path)})
	}
	for id := uint32(1); id < 80; id += 4 {
		ask(id, "/hold")
		<-asked
		g.engine.mu.Lock()
		for c := range g.engine.h2conns {
			c.mu.Lock()
			c.idleSince = time.Now().Add(-time.Hour) // the stream has taken that long
			c.mu.Unlock()
		}
		g.engine.mu.Unlock()
		if err := fr.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
		ask(id+2, "/")
		if status := firstStatus(t, fr); status != "200" {
			t.Fatalf("stream %d after one that was cancelled: %q", id+2, status)
		}
	}
}

// TestH2DepartClosing: behind the GOAWAY that ends a connection there is none that
// lets in more streams again (RFC 9113 §6.8).
func TestH2DepartClosing(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	c := &h2Conn{e: New(Options{}), nc: server, info: &view.Conn{}}
	c.conn = h2.New(h2.Options{}, c)
	c.conn.GoAway()
	c.closing, c.writing = true, true // what writes is to write what there is
	before := len(c.conn.Out())
	if c.depart(); len(c.conn.Out()) != before {
		t.Errorf("%d bytes behind the last GOAWAY", len(c.conn.Out())-before)
	}
}

// faulty panics with what it reads once it is told to.
type faulty struct {
	net.Conn
	now <-chan struct{}
}

func (f faulty) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	select {
	case <-f.now:
		panic("a bug")
	default:
		return n, err
	}
}

// TestH2Panic: a connection on which reading panics is not over before its streams,
// which end with it.
func TestH2Panic(t *testing.T) {
	asked := make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		close(asked)
		c.Wait()
	})
	over := make(chan int, 1)
	c := g.dialThrough("h2", func(nc *net.TCPConn) net.Conn { return faulty{nc, asked} }, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		over <- len(g.records)
	})
	fr := handshakeH2(t, c)
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true,
		BlockFragment: block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/")})
	<-asked
	fr.WritePing(false, [8]byte{})
	if ended := <-over; ended != 1 || g.engine.Panics() != 1 {
		t.Errorf("%d streams had ended, %d panics", ended, g.engine.Panics())
	}
}
