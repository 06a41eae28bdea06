package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
)

// FuzzEngine sends any bytes through a whole engine. Another parser plays the
// backend: it must understand every byte that the engine forwards, and end each
// request where the engine ended it.
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
		client.Close()
		wg.Wait()
		reg.Close()
		backends.Wait()
		if e.Panics() != 0 {
			t.Errorf("panic on %q", raw)
		}
	})
}

// strictBackend answers requests until one does not parse.
func strictBackend(t *testing.T, nc net.Conn) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the backend cannot read what was forwarded: %v", err)
			}
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // cut off, as it must be when the client's body breaks
		}
		if br.Buffered() > 0 {
			t.Errorf("bytes behind a request: %d", br.Buffered())
		}
		if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}
