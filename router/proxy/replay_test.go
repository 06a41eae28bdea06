package proxy

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/test/backend"
)

// dyingRig has a backend whose first connection dies when it has read a part of the
// body of its second request. died is closed then. Later ones answer with what they
// got.
func dyingRig(t *testing.T, part string) (g *rig, died <-chan struct{}) {
	dead := make(chan struct{})
	g = newRig(t, func(c *backend.Conn) {
		for n := 0; ; n++ {
			head, err := c.Head()
			if err != nil {
				return
			}
			if n == 1 && c.Number == 0 {
				chunked := strings.Contains(head, "chunked")
				for got := ""; got != part; {
					if chunked {
						c.Line()
					}
					b := make([]byte, len(part)-len(got))
					m, err := c.Read(b)
					if got += string(b[:m]); err != nil {
						return
					}
				}
				c.Conn.Close()
				close(dead)
				return
			}
			body, err := c.Body(head)
			if err != nil {
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
		}
	})
	return g, dead
}

// TestReplayedBody: where a connection dies before there was an answer, a request
// that may be sent again is, with its whole body: also with what comes later.
func TestReplayedBody(t *testing.T) {
	t.Run("h1", func(t *testing.T) {
		for name, body := range map[string][2]string{
			"length":  {"Content-Length: 10\r\n\r\nhello", "world"},
			"chunked": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "5\r\nworld\r\n0\r\nSum: 1\r\n\r\n"},
		} {
			g, died := dyingRig(t, "hello")
			c := g.dial()
			c.t = t
			c.do(canary)
			c.send("PUT /a HTTP/1.1\r\nHost: h\r\n" + body[0])
			<-died
			if status, got := c.do(body[1]); status != 200 || got != "helloworld" {
				t.Errorf("%s: %d %q", name, status, got)
			}
			if status, _ := c.do(canary); status != 200 {
				t.Errorf("%s: afterwards: %d", name, status)
			}
			if got := g.backend.Received(); name == "chunked" && !strings.Contains(got, "world\r\n0\r\nSum: 1\r\n\r\n") {
				t.Errorf("trailers are lost: %q", got)
			}
		}
	})
	t.Run("h2", func(t *testing.T) {
		g, died := dyingRig(t, "hello")
		h2 := g.h2("")
		resp, err := h2.RoundTrip(request(t, "GET", "https://h/", nil))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		g.record(0) // its connection is free for the next request
		pr, pw := io.Pipe()
		go func() {
			io.WriteString(pw, "hello")
			<-died
			io.WriteString(pw, "world")
			pw.Close()
		}()
		resp, err = h2.RoundTrip(request(t, "PUT", "https://h/a", pr))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != "helloworld" || err != nil {
			t.Errorf("%d %q, %v", resp.StatusCode, got, err)
		}
	})
}

// TestNoReplay: what may have been done is not done twice, and what is too large to
// be kept is not sent again.
func TestNoReplay(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	for name, tc := range map[string]struct{ method, part, body string }{
		"POST":      {"POST", "hello", "hello"},
		"PATCH":     {"PATCH", "hello", "hello"},
		"large PUT": {"PUT", large[:80<<10], large},
	} {
		g, _ := dyingRig(t, tc.part)
		c := g.dial()
		c.t = t
		c.do(canary)
		c.send(tc.method + " /a HTTP/1.1\r\nHost: h\r\nContent-Length: " + strconv.Itoa(len(tc.body)) + "\r\n\r\n" + tc.body)
		if resp := c.response(tc.method); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
		if n := strings.Count(g.backend.Received(), tc.method+" /a"); n != 1 {
			t.Errorf("%s: sent %d times", name, n)
		}
	}
}

// TestFaultWhileInterrupted: what is malformed stays so for the next attempt.
func TestFaultWhileInterrupted(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	e := &Engine{}
	e.opts.Limits = wire.DefaultLimits
	e.opts.Timeouts.BodyStall, e.opts.Timeouts.BodyGrace, e.opts.Timeouts.MinBodyRate = time.Minute, time.Minute, 1
	c := &h1Conn{h1Tools: &h1Tools{buf: []byte("0\r\nA : b\r\n\r\nGET / HTTP/1.1\r\n")}, e: e, nc: near}
	c.w = len(c.buf)
	c.body.c, c.watch.c, c.reads.nc = c, c, near
	defer c.watch.stop()
	c.body.begin(&wire.RequestHead{Framing: wire.Chunked, Length: -1})
	c.Interrupt()
	var p [100]byte
	for range 2 {
		if _, err := c.Read(p[:]); err == nil || err == io.EOF {
			t.Errorf("a body with a malformed trailer section has ended well: %v; left on the connection: %q", err, c.buf[c.r:c.w])
		}
		c.Resume()
	}
}
