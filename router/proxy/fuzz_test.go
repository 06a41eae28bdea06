package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
)

// FuzzEngine sends any bytes through a whole engine, also HTTP/2 with prior
// knowledge. Other parsers play the backend: they must understand every byte that
// the engine forwards, and end each request where the engine ended it.
func FuzzEngine(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"GET http://a/b HTTP/1.1\r\nHost: h\r\nConnection: Host, x\r\nx: y\r\nUpgrade: websocket\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	} {
		f.Add([]byte(s))
	}
	for _, fields := range [][]string{{":method", "POST", "te", "trailers"}, {":method", "GET", "cookie", "a", "cookie", "b"}, {":method", "PUT", "content-length", "3"}} {
		var b bytes.Buffer
		b.WriteString(http2.ClientPreface)
		fr := http2.NewFramer(&b, nil)
		_ = fr.WriteSettings()
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
			BlockFragment: block(append([]string{":scheme", "http", ":authority", "h", ":path", "/a/../b?c"}, fields...)...)})
		_ = fr.WriteData(1, false, []byte("abc"))
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block("sum", "1")})
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var backends sync.WaitGroup
		reg := upstream.NewRegistry(upstream.Options{Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			ours, theirs := net.Pipe()
			backends.Go(func() { strictBackend(t, theirs) })
			return ours, nil
		}})
		reg.Set(webKey, &upstream.State{Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Ready: true}}})
		everything := match(func(*view.Request) (router.Decision, *upstream.Pool) {
			return router.Decision{Outcome: router.ByPath, Route: &router.Route{}}, reg.Pool(webKey)
		})
		e := New(Options{Snapshots: everything, Log: logr.Discard()})
		client, server := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			e.ServeConn(t.Context(), server, &view.Conn{Peer: netip.MustParseAddrPort("192.0.2.2:1")}, func() { server.Close() })
		})
		wg.Go(func() { io.Copy(io.Discard, client) })
		client.Write(raw)
		if bytes.HasPrefix(raw, []byte(http2.ClientPreface)) {
			client.Write(nil) // it returns when the engine reads again, and has taken what was there
			awaitStreams(e)
		}
		client.Close()
		wg.Wait()
		reg.Close()
		backends.Wait()
		if e.Panics() != 0 {
			t.Errorf("panic on %q", raw)
		}
	})
}

// awaitStreams gives streams, which are served beside the reading, a little time to
// end: some never do, for want of bytes.
func awaitStreams(e *Engine) {
	for until := time.Now().Add(10 * time.Millisecond); time.Now().Before(until); runtime.Gosched() {
		e.mu.Lock()
		conns := slices.Collect(maps.Keys(e.h2conns))
		e.mu.Unlock()
		if !slices.ContainsFunc(conns, func(c *h2Conn) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.running > 0
		}) {
			return
		}
	}
}

// strictBackend answers requests until one is cut short. Two parsers read each: one
// that knows the grammar alone, and net/http, and both must find the same body.
func strictBackend(t *testing.T, nc net.Conn) {
	defer nc.Close()
	var raw bytes.Buffer
	br := bufio.NewReader(io.TeeReader(nc, &raw))
	for {
		body, err := strictRequest(br)
		if broken := (*brokenGrammar)(nil); errors.As(err, &broken) {
			t.Errorf("forwarded: %v, in %q", err, raw.Bytes())
		}
		if err != nil {
			return // cut off, as it must be when the client's body breaks
		}
		if br.Buffered() > 0 {
			t.Errorf("bytes behind a request: %d", br.Buffered())
		}
		r, err := http.ReadRequest(bufio.NewReader(&raw))
		if err != nil {
			t.Errorf("net/http cannot read what was forwarded: %v", err)
			return
		}
		if theirs, err := io.ReadAll(r.Body); !bytes.Equal(theirs, body) {
			t.Errorf("net/http finds the body %q, not %q: %v", theirs, body, err)
		}
		raw.Reset()
		if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}
