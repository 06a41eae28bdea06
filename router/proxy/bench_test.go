package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

const benchBody = "hello, world"

// load sends n requests over each of conns connections that persist, and
// returns the CPU time that the whole process used per request.
func load(b *testing.B, addr string, conns, n int) time.Duration {
	b.Helper()
	var wg sync.WaitGroup
	start := cpuTime(b)
	for range conns {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer nc.Close()
			var buf [4096]byte
			for range n {
				io.WriteString(nc, "GET /a/b?c=d HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
				for got := 0; !bytes.HasSuffix(buf[:got], []byte(benchBody)); {
					m, err := nc.Read(buf[got:])
					if err != nil {
						b.Error(err)
						return
					}
					got += m
				}
			}
		})
	}
	wg.Wait()
	return (cpuTime(b) - start) / time.Duration(conns*n)
}

// cpuTime is what the process has used so far, user and system.
func cpuTime(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkAgainstReverseProxy runs the engine, net/http's ReverseProxy and no
// proxy at all in turns in one process, with the same client and backend. What
// a proxy costs is its figure less that of no proxy; their ratio holds on a busy
// machine too.
func BenchmarkAgainstReverseProxy(b *testing.B) {
	g := newRig(b, backend.OK(benchBody))
	route := &router.Route{Ingress: "shop/web", Service: "shop/web"}
	g.engine.opts.Observer = Observers(nil)
	g.engine.opts.Snapshots = match(func(*view.Request) (router.Decision, *upstream.Pool) {
		return router.Decision{Outcome: router.ByPath, Route: route}, g.pool
	})
	target, err := url.Parse("http://" + g.backend.Addr.String())
	if err != nil {
		b.Fatal(err)
	}
	peer := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	})
	defer peer.Close()
	peerAddr := peer.Listener.Addr().String()
	const conns, n = 8, 200
	load(b, g.plain, conns, n) // warm up
	load(b, peerAddr, conns, n)
	var direct, ours, theirs time.Duration
	rounds := 0
	for b.Loop() {
		direct += load(b, g.backend.Addr.String(), conns, n)
		ours += load(b, g.plain, conns, n)
		theirs += load(b, peerAddr, conns, n)
		rounds++
	}
	ours -= direct
	theirs -= direct
	b.ReportMetric(float64(ours.Nanoseconds())/float64(rounds), "cpu-ns/req")
	b.ReportMetric(float64(theirs.Nanoseconds())/float64(rounds), "peer-cpu-ns/req")
	b.ReportMetric(float64(ours)/float64(theirs), "ratio")
}

// BenchmarkRequest is one request through the engine on one connection.
func BenchmarkRequest(b *testing.B) {
	g := newRig(b, backend.OK("hello"))
	g.engine.opts.Observer = Observers(nil)
	nc, err := net.Dial("tcp", g.plain)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	var buf [4096]byte
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(nc, get)
		if _, err := nc.Read(buf[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// batches is a client that sends ten requests on HTTP/2 as soon as the ten before
// are answered, and its Engine's Observer.
type batches struct {
	net.Conn
	left    int // requests to send
	next    uint32
	block   []byte
	answers atomic.Int32
	ready   chan struct{}
}

const batch = 10

func (c *batches) Read(p []byte) (int, error) {
	<-c.ready
	if c.left <= 0 {
		return 0, io.EOF
	}
	out := p[:0]
	for range batch {
		out = append(out, 0, 0, byte(len(c.block)), 1, 5)
		out = binary.BigEndian.AppendUint32(out, c.next)
		out = append(out, c.block...)
		c.next += 2
	}
	c.left -= batch
	return len(out), nil
}

func (c *batches) Write(p []byte) (int, error)      { return len(p), nil }
func (c *batches) SetDeadline(time.Time) error      { return nil }
func (c *batches) SetReadDeadline(time.Time) error  { return nil }
func (c *batches) SetWriteDeadline(time.Time) error { return nil }
func (c *batches) Close() error                     { return nil }

// Observe implements Observer.
func (c *batches) Observe(*view.Record) {
	if c.answers.Add(1)%batch == 0 {
		c.ready <- struct{}{}
	}
}

// Respond implements ChallengeResponder.
func (c *batches) Respond(context.Context, string, string) (string, bool) { return benchBody, true }

// BenchmarkH2Front is what a request costs in the front of HTTP/2, without network,
// TLS and backend.
func BenchmarkH2Front(b *testing.B) {
	var wire bytes.Buffer
	fr, enc := http2.NewFramer(&wire, nil), hpack.NewEncoder(&wire)
	wire.WriteString(http2.ClientPreface)
	fr.WriteSettings()
	fr.WriteWindowUpdate(0, 1<<31-1<<16) // for all that is to come
	head := func() []byte {
		var buf bytes.Buffer
		start := wire.Len()
		for _, f := range [][2]string{
			{":method", "GET"}, {":scheme", "https"}, {":authority", "shop.example"}, {":path", "/.well-known/acme-challenge/x"},
			{"user-agent", "bench"}, {"accept", "*/*"}, {"accept-encoding", "gzip, br"},
		} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		buf.Write(wire.Bytes()[start:])
		wire.Truncate(start)
		return buf.Bytes()
	}
	first := head()
	c := &batches{left: b.N, next: 3, block: head(), ready: make(chan struct{}, 1)}
	c.answers.Store(batch - 1) // the first request is one by itself
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: true})
	e := New(Options{Observer: c, Challenges: c})
	info := &view.Conn{TLS: &view.TLS{Protocol: "h2"}, Peer: netip.MustParseAddrPort("192.0.2.1:1")}
	b.ReportAllocs()
	b.ResetTimer()
	e.serveH2(b.Context(), c, info, wire.Bytes(), func() {})
}
