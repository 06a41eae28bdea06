package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

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
