package upstream

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/wire"
)

// FuzzBackends: whatever a backend sends, a request ends, and a response with a
// length that reads to its end has that length.
func FuzzBackends(f *testing.F) {
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	f.Add(false, []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add(false, []byte("HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"))
	f.Add(true, []byte(settings+"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88"))
	f.Add(true, []byte(settings+"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88\x00\x00\x02\x00\x01\x00\x00\x00\x01ok"))
	f.Add(true, []byte(settings+"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, h2 bool, sent []byte) {
		r := NewRegistry(Options{Attempts: 1, Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go playBytes(theirs, sent)
			return ours, nil
		}, Timeouts: Timeouts{Connect: time.Second, Head: time.Second, Stall: time.Second}})
		defer r.Close()
		r.Set(web, ready(netip.MustParseAddrPort("192.0.2.1:80")))
		req := simple()
		if h2 {
			req.Backend.Protocol = policy.GRPC
		}
		resp, err := r.Pool(web).Do(context.Background(), req)
		if err != nil {
			return
		}
		defer resp.Close()
		n, err := io.Copy(io.Discard, resp)
		if err == nil && resp.Head.Framing == wire.Length && n != resp.Head.Length {
			t.Errorf("%d bytes of %d", n, resp.Head.Length)
		}
	})
}

// playBytes reads what comes, sends what it was given, and ends.
func playBytes(nc net.Conn, sent []byte) {
	defer nc.Close()
	go func() { _, _ = io.Copy(io.Discard, nc) }()
	_, _ = nc.Write(sent)
}
