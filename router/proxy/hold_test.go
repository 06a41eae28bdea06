package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

// holder is what a TLS connection is on; it counts how often it is asked to hold.
type holder struct {
	net.Conn
	holds int
}

func (h *holder) Hold(time.Duration) { h.holds++ }
func (h *holder) Release()           {}

// TestHold: the last bytes are held back only where nothing can come between them and
// the end. A body may still be on its way to the backend.
func TestHold(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for name, tc := range map[string]struct {
		request string
		holds   int
	}{
		"last":       {"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", 1},
		"persistent": {"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 0},
		"body":       {"POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 0},
		"malformed":  {"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			below := new(holder)
			var served sync.WaitGroup
			served.Go(func() {
				var err error
				if below.Conn, err = ln.Accept(); err == nil {
					g.engine.ServeConn(t.Context(), tls.Server(below, serverTLS), &view.Conn{TLS: &view.TLS{}}, func() { below.Close() })
				}
			})
			nc, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			c := g.client(nc)
			c.send(tc.request)
			if _, err := io.ReadAll(c.response("GET").Body); err != nil {
				t.Error(err)
			}
			c.Close()
			served.Wait()
			if below.holds != tc.holds {
				t.Errorf("held back %d times, want %d", below.holds, tc.holds)
			}
		})
	}
}

// TestHeadBeforeItsBody: a head is passed on although a chunk has begun behind it.
func TestHeadBeforeItsBody(t *testing.T) {
	seen := make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		if _, err := c.Head(); err != nil {
			return
		}
		c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2")
		<-seen
		c.Send("\r\nok\r\n0\r\n\r\n")
	})
	c := g.dial()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	c.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	t.Cleanup(func() {
		select {
		case <-seen:
		default:
			close(seen)
		}
	})
	resp := c.response("GET")
	close(seen)
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
		t.Errorf("%q, %v", body, err)
	}
}
