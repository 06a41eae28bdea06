package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/backend"
)

// pattern is a body in which no two parts are alike.
func pattern(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte(' ')
	}
	return b.String()[:n]
}

// TestLargeBodies: what goes from socket to socket arrives as it was sent, and
// the next response on both connections too.
func TestLargeBodies(t *testing.T) {
	big := pattern(5 << 20)
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			body := "ok"
			if strings.HasPrefix(head, "GET /big") {
				body = big
			}
			if c.Send("HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body) != nil {
				return
			}
		}
	})
	// Each is connected when its turn comes: a connection without a head is closed.
	for name, dial := range map[string]func() *client{"plaintext": g.dial, "TLS": func() *client { return g.dialTLS("", "http/1.1") }} {
		c := dial()
		for range 3 {
			status, body := c.do("GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
			if status != 200 || sha256.Sum256([]byte(body)) != sha256.Sum256([]byte(big)) {
				t.Errorf("%s: %d, %d bytes, which differ", name, status, len(body))
			}
			if status, body := c.do(canary); status != 200 || body != "ok" {
				t.Errorf("%s, afterwards: %d %q", name, status, body)
			}
		}
	}
	if n := g.backend.Conns(); n != 1 {
		t.Errorf("%d connections to the backend", n)
	}
	if r := g.record(0); r.BytesOut != int64(len(big)) {
		t.Errorf("%d bytes are on record", r.BytesOut)
	}
}

// TestLargeBodyEndsEarly: a part must not look like the whole, and leaves
// nothing behind for the next response.
func TestLargeBodyEndsEarly(t *testing.T) {
	part := pattern(1 << 20)
	g := newRig(t, func(c *backend.Conn) {
		head, err := c.Head()
		switch {
		case err != nil:
		case strings.HasPrefix(head, "GET /canary"):
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		default:
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + part)
		}
	})
	for range 5 {
		c := g.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		resp := c.response("GET")
		if got, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || !bytes.Equal(got, []byte(part)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		g.checkCanary()
	}
	if r := g.record(0); r.Reason != "backend_truncated" {
		t.Errorf("%+v", r)
	}
}

// TestLargeBodyNotTaken: a client that stops reading, and one that leaves.
func TestLargeBodyNotTaken(t *testing.T) {
	big := pattern(32 << 20)
	g := newRig(t, func(c *backend.Conn) {
		head, _ := c.Head()
		if strings.HasPrefix(head, "GET /canary") {
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			return
		}
		_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(big)) + "\r\n\r\n" + big)
	}, func(o *Options) { o.Timeouts.WriteStall = 100 * time.Millisecond })
	stopped := g.dial()
	stopped.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if r := g.record(0); r.Reason != "client_stalled" || r.BytesOut >= int64(len(big)) {
		t.Errorf("stopped: %s, %d bytes", r.Reason, r.BytesOut)
	}
	if _, err := io.Copy(io.Discard, stopped); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("what the client did not take is kept for it: %v", err)
	}
	left := g.dial()
	left.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	left.response("GET")
	left.Close()
	if r := g.record(1); r.Reason != "client_gone" {
		t.Errorf("left: %s", r.Reason)
	}
	g.checkCanary()
}

// TestSpliceToASlowClient: a client that goes on taking what is sent to it gets all of
// it, be it slower than the kernel's buffer empties enough to be filled again.
func TestSpliceToASlowClient(t *testing.T) {
	const stall, size = 300 * time.Millisecond, 6 << 20
	g := newRig(t, func(c *backend.Conn) {
		if _, err := c.Head(); err == nil {
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + pattern(size))
			c.Wait()
		}
	}, func(o *Options) { o.Timeouts.WriteStall = stall })
	c := g.dial()
	c.send(get)
	resp := c.response("GET")
	slow := time.NewTicker(stall / 10)
	defer slow.Stop()
	for range 40 {
		<-slow.C
		if _, err := io.CopyN(io.Discard, resp.Body, 16<<10); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size-40*16<<10 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
