package proxy

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/test/backend"
)

// TestRefusedHeadOnRecord: the record of a head that was refused says whose it was, as
// far as it could be read, and nothing of the request before it.
func TestRefusedHeadOnRecord(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	both := "POST /a?q=1 HTTP/1.1\r\nHost: h.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
	large := "GET /b HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 128<<10) + "\r\n\r\n"
	type known struct{ method, host, path, scheme, reason string }
	n := 0
	record := func() known {
		r := g.record(n)
		n++
		return known{r.Request.Method, r.Request.Host, r.Request.Path, r.Request.Scheme, r.Reason}
	}
	for name, tc := range map[string]struct {
		dial func() *client
		raw  string
		want known
	}{
		"after the target": {g.dial, both, known{"POST", "h.example", "/a", "http", "length_and_coding"}},
		"over TLS":         {func() *client { return g.dialTLS("", "http/1.1") }, both, known{"POST", "h.example", "/a", "https", "length_and_coding"}},
		"whole":            {g.dial, large, known{"", "", "", "http", "head_too_large"}},
		"two hosts":        {g.dial, "GET /c HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", known{"GET", "", "/c", "http", "host_count"}},
		"a password":       {g.dial, strings.Replace(both, "/a", "http://me:hunter2@h.example/a", 1), known{"POST", "h.example", "h.example/a", "http", "length_and_coding"}},
		"one in Host":      {g.dial, "GET /d@e HTTP/1.1\r\nHost: me:hunter2@h\r\n\r\n", known{"GET", "h", "/d@e", "http", "bad_host"}},
	} {
		c := tc.dial()
		c.do(canary)
		record()
		c.do(tc.raw)
		if got := record(); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	fr := handshakeH2(t, g.dialTLS("", "h2"))
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block(":method", "PUT", ":scheme", "https", ":authority", "h.example", ":path", "/d?q", "expect", "a miracle")})
	if got := record(); got.method != "PUT" || got.host != "h.example" || got.path != "/d" || got.scheme != "https" {
		t.Errorf("HTTP/2: %q", got)
	}
}

// TestCutOnRecord: a request that a shutdown has cut does not pass for one whose
// client was gone.
func TestCutOnRecord(t *testing.T) {
	asked := make(chan struct{}, 2)
	g := newRig(t, func(c *backend.Conn) {
		if _, err := c.Head(); err == nil {
			asked <- struct{}{}
			c.Wait()
		}
	})
	c := g.dial()
	c.send(get)
	go g.h2("").RoundTrip(request(t, "GET", "https://h/", nil))
	<-asked
	<-asked
	g.cancel()
	for n := range 2 {
		if r := g.record(n); r.Status != 499 || r.Reason != "shutdown" {
			t.Errorf("%s: %d %q", r.Request.Proto, r.Status, r.Reason)
		}
	}
}
