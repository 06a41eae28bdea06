package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/backend"
)

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// digests answers every request with the digest of its body.
func digests(c *backend.Conn) {
	for {
		head, err := c.Head()
		if err != nil {
			return
		}
		body := ""
		if !strings.HasPrefix(head, "GET ") {
			if body, err = c.Body(head); err != nil {
				return
			}
		}
		sum := digest(body)
		if c.Send("HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(sum))+"\r\n\r\n"+sum) != nil {
			return
		}
	}
}

func post(method string, length int) string {
	return method + " / HTTP/1.1\r\nHost: h\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n"
}

// TestLargeUploads: what goes from socket to socket arrives as it was sent, and the
// request that is right behind it, too.
func TestLargeUploads(t *testing.T) {
	big := pattern(5 << 20)
	g := newRig(t, digests)
	for name, dial := range map[string]func() *client{"plaintext": g.dial, "TLS": func() *client { return g.dialTLS("", "http/1.1") }} {
		c := dial()
		for _, method := range []string{"POST", "PUT"} { // of a PUT the beginning is kept, to be sent again
			go io.WriteString(c.Conn, post(method, len(big))+big+canary)
			for _, want := range []string{digest(big), digest("")} {
				resp := c.response(method)
				if sum, err := io.ReadAll(resp.Body); err != nil || string(sum) != want {
					t.Errorf("%s, %s: %d %s %v", name, method, resp.StatusCode, sum, err)
				}
			}
		}
	}
	if n := g.backend.Conns(); n != 1 {
		t.Errorf("%d connections to the backend", n)
	}
	if r := g.record(0); r.BytesIn != int64(len(big)) {
		t.Errorf("%d bytes are on record", r.BytesIn)
	}
}

// TestLargeUploadIsCut: the backend sees that a body is not whole, and gets no byte of
// another request in its place.
func TestLargeUploadIsCut(t *testing.T) {
	part := pattern(1 << 20)
	cut := make(chan string, 1)
	g := newRig(t, func(c *backend.Conn) {
		head, err := c.Head()
		switch {
		case err != nil:
		case strings.HasPrefix(head, "GET "):
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		default:
			got, _ := io.ReadAll(c)
			cut <- string(got)
		}
	})
	c := g.dial()
	c.send(post("POST", 9000000) + part)
	c.Close()
	if got := <-cut; got != part {
		t.Errorf("the backend has %d bytes of %d, or others", len(got), len(part))
	}
	if r := g.record(0); r.Reason != "client_gone" {
		t.Errorf("%+v", r)
	}
	g.checkCanary()
}

// TestLargeUploadIsSlow: a client that stops in the middle is told so.
func TestLargeUploadIsSlow(t *testing.T) {
	g := newRig(t, backend.OK("ok"), func(o *Options) { o.Timeouts.BodyStall = 50 * time.Millisecond })
	c := g.dial()
	status, _ := c.do(post("POST", 9000000) + pattern(1<<20))
	if status != 408 {
		t.Errorf("%d", status)
	}
	if r := g.record(0); r.Reason != "body_timeout" {
		t.Errorf("%+v", r)
	}
	g.checkCanary()
}

// TestLargeUploadIsNotWanted: a backend that answers before it has the body is heard,
// and a client that goes on sending can still read the answer.
func TestLargeUploadIsNotWanted(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		head, err := c.Head()
		switch {
		case err != nil:
		case strings.HasPrefix(head, "GET "):
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		default:
			_ = c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
			c.Wait()
		}
	})
	c := g.dial()
	c.send(post("POST", 9000000) + pattern(128<<10))
	resp := c.response("POST")
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "big" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
	g.checkCanary()
}
