package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/test/backend"
)

// soon has connections parked as soon as they are idle.
func soon(o *Options) { o.parkAfter = time.Millisecond }

// parked waits until that many connections are parked.
func (g *rig) parked(n int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%d connections are parked", n), func() bool {
		g.engine.lot.mu.Lock()
		defer g.engine.lot.mu.Unlock()
		return len(g.engine.lot.parked) == n
	})
}

// gone waits until the engine has no connection any more.
func (g *rig) gone() {
	g.t.Helper()
	g.parked(0)
	eventually(g.t, "no connection is left", func() bool {
		g.engine.mu.Lock()
		defer g.engine.mu.Unlock()
		return len(g.engine.conns) == 0 && len(g.engine.h2conns) == 0
	})
}

// asker is a client of one connection that sends requests.
type asker struct {
	*client
	ask func() int // returns the status
}

// askers are clients of every kind of connection that can be parked.
func (g *rig) askers() map[string]func() asker {
	h1 := func(c *client) asker {
		return asker{c, func() int { status, _ := c.do(get); return status }}
	}
	return map[string]func() asker{
		"plain h1": func() asker { return h1(g.dial()) },
		"TLS h1":   func() asker { return h1(g.dialTLS("", "http/1.1")) },
		"plain h2": func() asker { return askerH2(g.dial()) },
		"TLS h2":   func() asker { return askerH2(g.dialTLS("", "h2")) },
	}
}

// askerH2 speaks HTTP/2.
func askerH2(c *client) asker {
	c.t.Helper()
	fr := handshakeH2(c.t, c)
	id := uint32(1)
	return asker{c, func() int {
		c.t.Helper()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true,
			BlockFragment: block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/")})
		id += 2
		if firstStatus(c.t, fr) != "200" {
			return 0
		}
		return 200
	}}
}

// eachAsker runs a test with every kind of connection, each with an engine of its
// own.
func eachAsker(t *testing.T, test func(*testing.T, *rig, asker), change ...func(*Options)) {
	for _, name := range []string{"plain h2", "plain h1", "TLS h1", "TLS h2"} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, backend.OK("ok"), append([]func(*Options){soon}, change...)...)
			test(t, g, g.askers()[name]())
		})
	}
}

// TestParkedServes: a connection goes on as if it had not been parked, as often as
// it is.
func TestParkedServes(t *testing.T) {
	eachAsker(t, func(t *testing.T, g *rig, c asker) {
		for range 5 {
			if status := c.ask(); status != 200 {
				t.Fatal(status)
			}
			g.parked(1)
		}
		c.Close()
		g.gone()
	})
}

// TestParkedReset: a client that resets its connection is noticed.
func TestParkedReset(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon)
	c := g.dial()
	c.do(get)
	g.parked(1)
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	g.gone()
}

// TestParkedHalfHead: a head that comes too slowly is answered, and the one that
// comes in two pieces served.
func TestParkedHalfHead(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon, func(o *Options) { o.Timeouts.ReadHeader = time.Second })
	for name, connect := range map[string]func() *client{"plain": g.dial, "TLS": func() *client { return g.dialTLS("", "http/1.1") }} {
		c := connect()
		if status, _ := c.do(get); status != 200 {
			t.Fatal(name, status)
		}
		g.parked(1)
		c.send(get[:10])
		if status, _ := c.do(get[10:]); status != 200 {
			t.Errorf("%s: a head in two pieces: %d", name, status)
		}
		g.parked(1)
		c.send(get[:10])
		if status := c.response("GET").StatusCode; status != 408 {
			t.Errorf("%s: half a head: %d", name, status)
		}
		c.Close()
		g.gone()
	}
}

// TestParkedRecord: what wakes a connection and is no byte of a request, such as
// half a TLS record, neither ends it nor is lost.
func TestParkedRecord(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon)
	nc, err := net.Dial("tcp", g.tls)
	if err != nil {
		t.Fatal(err)
	}
	slow := &halving{Conn: nc}
	c := g.client(tls.Client(slow, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}))
	c.do(get)
	g.parked(1)
	slow.between = func() { g.parked(1) }
	if status, _ := c.do(get); status != 200 {
		t.Error(status)
	}
}

// halving writes the first bytes, waits, and writes the rest.
type halving struct {
	net.Conn
	between func()
}

func (h *halving) Write(p []byte) (int, error) {
	if h.between == nil {
		return h.Conn.Write(p)
	}
	n, err := h.Conn.Write(p[:10])
	if err != nil {
		return n, err
	}
	h.between()
	k, err := h.Conn.Write(p[10:])
	return n + k, err
}

// TestParkedTooLong: the limits of an idle connection hold while it is parked, for
// those that never sent a request, too.
func TestParkedTooLong(t *testing.T) {
	eachAsker(t, func(t *testing.T, g *rig, c asker) {
		if status := c.ask(); status != 200 {
			t.Fatal(status)
		}
		c.closed()
		c.Close()
		g.gone()
	}, func(o *Options) { o.Timeouts.Idle = 500 * time.Millisecond })
	g := newRig(t, backend.OK("ok"), soon, func(o *Options) { o.Timeouts.ReadHeader = 50 * time.Millisecond })
	if said := g.dial().closed(); said != "" {
		t.Errorf("to a client that said nothing: %q", said)
	}
	g.gone()
}

// TestParkedDrain: parked connections end with the engine.
func TestParkedDrain(t *testing.T) {
	eachAsker(t, func(t *testing.T, g *rig, c asker) {
		c.ask()
		g.parked(1)
		close(g.drain)
		c.closed()
		c.Close()
		g.gone()
	}, func(o *Options) { o.Timeouts.DrainIdle = 50 * time.Millisecond })
}

// TestParkedLastRequest: a request that is on its way when the engine drains is
// served.
func TestParkedLastRequest(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon)
	c := g.dial()
	c.do(get)
	g.parked(1)
	close(g.drain)
	c.send(get)
	resp := c.response("GET")
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	c.closed()
	g.gone()
}

// TestParkedCut: parked connections are cut with the others.
func TestParkedCut(t *testing.T) {
	eachAsker(t, func(t *testing.T, g *rig, c asker) {
		c.ask()
		g.parked(1)
		g.cancel()
		c.closed()
		g.gone()
	})
}

// TestParkedNeedNoGoroutine: 200 idle connections have none.
func TestParkedNeedNoGoroutine(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon)
	first := g.dial() // one to the backend is there from now on
	first.do(canary)
	first.Close()
	g.gone()
	before := runtime.NumGoroutine()
	var all []asker
	for name, connect := range g.askers() {
		for range 50 {
			c := connect()
			if status := c.ask(); status != 200 {
				t.Fatal(name, status)
			}
			all = append(all, c)
		}
	}
	g.parked(200)
	eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() < before+20 })
	for _, c := range all {
		if status := c.ask(); status != 200 {
			t.Fatal(status)
		}
	}
	g.parked(200)
	for _, c := range all {
		c.Close()
	}
	g.gone()
}

// TestParkedUpgrade: tunnels are not parked, and a connection that was parked can
// become one.
func TestParkedUpgrade(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if strings.Contains(head, "Upgrade: ") {
				c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
				c.Wait()
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}, soon)
	c := g.dial()
	c.do(get)
	g.parked(1)
	c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if status := c.response("GET").StatusCode; status != http.StatusSwitchingProtocols {
		t.Fatal(status)
	}
	if p := make([]byte, 5); readFull(c, p) != "hello" {
		t.Errorf("%q", p)
	}
	g.parked(0)
}

func readFull(c *client, p []byte) string {
	io.ReadFull(c.br, p)
	return string(p)
}

// TestParkedBehindProxy: a connection that begins with a PROXY header is parked, and
// what came with the header is not left behind.
func TestParkedBehindProxy(t *testing.T) {
	g := newRig(t, backend.OK("ok"), soon)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	over := make(chan struct{})
	go func() {
		if nc, err := ln.Accept(); err == nil {
			g.serve(t.Context(), proxyproto.NewConn(nc), nil, func() { close(over) })
		}
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := g.client(nc)
	if status, _ := c.do("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get); status != 200 {
		t.Fatal(status)
	}
	g.parked(1)
	if status, _ := c.do(get); status != 200 {
		t.Error(status)
	}
	c.Close()
	<-over
	g.gone()
}
