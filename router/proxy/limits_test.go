package proxy

import (
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/test/backend"
)

// TestOverload: requests are answered 503 and connections end; when it is over,
// all is as before.
func TestOverload(t *testing.T) {
	var over atomic.Bool
	g := newRig(t, backend.OK("ok"), func(o *Options) { o.Overloaded = over.Load })
	g.checkCanary()
	old := g.dial()
	if status, _ := old.do(canary); status != 200 {
		t.Fatal(status)
	}
	g.record(1) // a connection writes its record after the answer, so two may come in any order
	over.Store(true)
	old.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
	resp := old.response("POST")
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close || old.closed() != "" || g.record(2).Reason != "overload" {
		t.Errorf("HTTP/1.1: %d %v", resp.StatusCode, resp.Header)
	}
	slow := g.dial() // whose head would take more memory, and has no end yet
	slow.send("GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 2*h1Buffer))
	if resp := slow.response("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close {
		t.Errorf("half a head: %d %v", resp.StatusCode, resp.Header)
	}
	slow.Close()
	c := g.dialTLS("", "h2")
	fr := handshakeH2(t, c)
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true,
		BlockFragment: block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/")})
	status, away := "", false
	for status != "503" || !away {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("status %q, GOAWAY %t: %v", status, away, err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
		case *http2.GoAwayFrame:
			away = true
		case *http2.PingFrame:
			_ = fr.WritePing(true, f.Data)
		}
	}
	if n := strings.Count(g.seen(), "HTTP/1.1\r\n"); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	over.Store(false)
	g.checkCanary()
}

func TestMemoryGuard(t *testing.T) {
	var used int64
	g := &MemoryGuard{limit: 1000, percent: 90, used: func() int64 { return used }}
	for _, step := range []struct {
		used       int64
		over, full bool
	}{
		{100, false, false}, {899, false, false}, {900, true, false}, {850, true, false}, {815, true, false}, {809, false, false},
		{899, false, false}, {900, true, false}, {969, true, true}, {815, true, true}, {809, false, false}, {1200, true, true},
	} {
		used = step.used
		if g.look(); g.Overloaded() != step.over || g.Full() != step.full {
			t.Errorf("%d of 1000: %t, %t", step.used, g.Overloaded(), g.Full())
		}
	}
	if n := memoryInUse(); n <= 0 || n > 1<<36 {
		t.Errorf("%d bytes in use", n)
	}
	if g := NewMemoryGuard(0); g.limit != math.MaxInt64 {
		t.Errorf("a guard that is off has the limit %d", g.limit)
	}
}

// TestLimitsOfHeads: as they are set, in both protocols, and nothing of a
// refused request reaches the backend.
func TestLimitsOfHeads(t *testing.T) {
	limits := wire.DefaultLimits
	limits.Head, limits.Fields, limits.Target = 2<<10, 10, 100
	g := newRig(t, backend.OK("ok"), func(o *Options) { o.Limits = limits })
	many, large, long := strings.Repeat("a: b\r\n", 20), "a: "+strings.Repeat("x", 3<<10)+"\r\n", "/"+strings.Repeat("p", 200)
	for head, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: h\r\n" + many + "\r\n":  431,
		"GET / HTTP/1.1\r\nHost: h\r\n" + large + "\r\n": 431,
		"GET " + long + " HTTP/1.1\r\nHost: h\r\n\r\n":   414,
	} {
		if status, _ := g.dial().do(head); status != want {
			t.Errorf("%.30q: %d, want %d", head, status, want)
		}
	}
	cc := g.h2("")
	for path, want := range map[string]int{"https://h/": 431, "https://h" + long: 414} {
		req := request(t, "GET", path, nil)
		if want == 431 {
			for i := range 20 {
				req.Header.Set("X-"+string(rune('a'+i)), "b")
			}
		}
		resp, err := cc.RoundTrip(req)
		if err != nil || resp.StatusCode != want {
			t.Errorf("HTTP/2 %.20s: %v, %v", path, resp, err)
		}
	}
	if seen := g.seen(); seen != "" {
		t.Errorf("the backend saw %q", seen)
	}
	g.checkCanary()
}
