package proxy

//lint:file-ignore SA1019 net/http offers whole servers and transports; here HTTP/2 is spoken on a connection that was accepted or dialled before.

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test, so that a bug fails instead of hanging.
// Nothing is asserted about time.
const patience = 20 * time.Second

// rig is an engine between real sockets and a backend that the test plays.
type rig struct {
	t       testing.TB
	engine  *Engine
	backend *backend.Server
	reg     *upstream.Registry
	pool    *upstream.Pool
	plain   string // address of the HTTP listener
	tls     string // address of the TLS listener
	drain   chan struct{}
	cancel  context.CancelFunc
	old     *client // of checkCanary

	mu      sync.Mutex // protects the following
	records []view.Record
	recAdd  chan struct{}
}

// match is a Snapshots that a test writes as a function.
type match func(*view.Request) (router.Decision, *upstream.Pool)

func (m match) Match(r *view.Request) (router.Decision, *upstream.Pool) { return m(r) }

// Observe implements Observer.
func (g *rig) Observe(r *view.Record) {
	g.mu.Lock()
	rec := *r
	req := *r.Request
	req.Fields = slices.Clone(req.Fields)
	rec.Request = &req
	g.records = append(g.records, rec)
	g.mu.Unlock()
	select {
	case g.recAdd <- struct{}{}:
	default:
	}
}

// record waits for the n-th record.
func (g *rig) record(n int) view.Record {
	g.t.Helper()
	for timeout := time.After(patience); ; {
		g.mu.Lock()
		if len(g.records) > n {
			defer g.mu.Unlock()
			return g.records[n]
		}
		g.mu.Unlock()
		select {
		case <-g.recAdd:
		case <-timeout:
			g.t.Fatalf("no record %d", n)
		}
	}
}

var webKey = upstream.Key{Namespace: "shop", Service: "web", Port: "80"}

// defaultMatch routes every path but those under /none, and knows a few more.
func defaultMatch(pool *upstream.Pool) match {
	return func(r *view.Request) (router.Decision, *upstream.Pool) {
		route := &router.Route{Ingress: "shop/web", Service: "shop/web", Backend: router.Backend(webKey)}
		d := router.Decision{Outcome: router.ByPath, Route: route}
		switch {
		case strings.HasPrefix(r.Path, "/none"):
			return router.Decision{}, nil
		case strings.HasPrefix(r.Path, "/refused"):
			route.Policy = policy.Policy{Refuse: "secret reason"}
		case strings.HasPrefix(r.Path, "/panic"):
			panic("a bug")
		case strings.HasPrefix(r.Path, "/nopool"):
			return d, nil
		}
		d.TLS = r.Host == "secure.example"
		if r.Host == "mtls.example" {
			d.TLSPolicy = "mtls"
		}
		return d, pool
	}
}

func newRig(t testing.TB, play func(*backend.Conn), change ...func(*Options)) *rig {
	t.Helper()
	g := &rig{t: t, drain: make(chan struct{}), recAdd: make(chan struct{}, 1)}
	g.backend = backend.Serve(t, play)
	g.reg = upstream.NewRegistry(upstream.Options{
		Policy:   upstream.DialPolicy{AllowLoopback: true},
		Timeouts: upstream.Timeouts{Connect: patience, Head: patience, Stall: patience},
	})
	g.reg.Set(webKey, &upstream.State{Endpoints: []upstream.Endpoint{{Addr: g.backend.Addr, Ready: true}}})
	g.pool = g.reg.Pool(webKey)
	opts := Options{Snapshots: defaultMatch(g.pool), Observer: g, Log: logr.Discard(), Draining: g.drain}
	for _, c := range change {
		c(&opts)
	}
	g.engine = New(opts)
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { g.engine.Start(ctx) })
	g.plain = g.listen(ctx, &wg, nil)
	g.tls = g.listen(ctx, &wg, serverTLS)
	t.Cleanup(func() {
		g.cancel()
		g.backend.Close()
		wg.Wait()
		g.reg.Close()
	})
	return g
}

// listen serves the engine on an ephemeral port until ctx ends.
func (g *rig) listen(ctx context.Context, wg *sync.WaitGroup, config *tls.Config) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go g.serve(ctx, nc, config, wg.Done)
		}
	})
	return ln.Addr().String()
}

func (g *rig) serve(ctx context.Context, nc net.Conn, config *tls.Config, over func()) {
	info := &view.Conn{Peer: netip.MustParseAddrPort(nc.RemoteAddr().String()), Local: netip.MustParseAddrPort(nc.LocalAddr().String())}
	if config != nil {
		tc := tls.Server(nc, config)
		if tc.HandshakeContext(ctx) != nil {
			nc.Close()
			over()
			return
		}
		s := tc.ConnectionState()
		info.TLS = &view.TLS{ServerName: s.ServerName, Protocol: s.NegotiatedProtocol,
			Covers: func(host string) bool { return strings.HasSuffix(host, "covered.example") }}
		nc = tc
	}
	g.engine.ServeConn(ctx, nc, info, func() {
		nc.Close()
		over()
	})
}

var serverTLS = selfSigned()

func selfSigned() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.covered.example"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// client is a raw client connection.
type client struct {
	net.Conn
	t  testing.TB
	br *bufio.Reader
}

func (g *rig) dial() *client {
	g.t.Helper()
	nc, err := net.Dial("tcp", g.plain)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.client(nc)
}

func (g *rig) dialTLS(sni, proto string) *client {
	g.t.Helper()
	nc, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{proto}})
	if err != nil {
		g.t.Fatal(err)
	}
	return g.client(nc)
}

func (g *rig) client(nc net.Conn) *client {
	nc.SetDeadline(time.Now().Add(patience))
	g.t.Cleanup(func() { nc.Close() })
	return &client{Conn: nc, t: g.t, br: bufio.NewReader(nc)}
}

func (c *client) send(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, raw); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// response reads the head of one response to a request of that method.
func (c *client) response(method string) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading a response: %v", err)
	}
	return resp
}

// do sends raw and reads one whole response.
func (c *client) do(raw string) (int, string) {
	c.t.Helper()
	c.send(raw)
	method, _, _ := strings.Cut(raw, " ")
	resp := c.response(method)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("reading a body: %v", err)
	}
	return resp.StatusCode, string(b)
}

// closed reads to the end of the connection and returns what came before.
func (c *client) closed() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("the connection was not closed")
	}
	return string(b)
}

const canary = "GET /canary HTTP/1.1\r\nHost: canary.example\r\n\r\n"

// checkCanary makes sure that a fresh client, and one that was there at the last
// check, are served as if nothing had happened.
func (g *rig) checkCanary() {
	g.t.Helper()
	c := g.dial()
	defer func() { g.old = c }()
	clients := map[string]*client{"a new": c}
	if g.old != nil {
		defer g.old.Close()
		clients["an old"] = g.old
	}
	for which, c := range clients {
		if status, body := c.do(canary); status != 200 || body != "ok" {
			g.t.Errorf("canary on %s connection: %d %q", which, status, body)
		}
	}
}

// dialThrough returns a client whose connection the engine has as wrap gives it, and
// closes when it calls over.
func (g *rig) dialThrough(protocol string, wrap func(*net.TCPConn) net.Conn, over func()) *client {
	g.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	c := g.client(nc)
	theirs, err := ln.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	info := &view.Conn{}
	if protocol == "h2" {
		info.TLS = &view.TLS{Protocol: protocol}
	}
	go g.engine.ServeConn(g.t.Context(), wrap(theirs.(*net.TCPConn)), info, func() {
		theirs.Close()
		over()
	})
	return c
}

// h2 returns an HTTP/2 client of one connection.
func (g *rig) h2(sni string) *http2.ClientConn {
	g.t.Helper()
	c := g.dialTLS(sni, "h2")
	c.Conn.SetDeadline(time.Time{})
	cc, err := new(http2.Transport).NewClientConn(c.Conn)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { cc.Close() })
	return cc
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// seen returns the request heads that the backend got, without canaries.
func (g *rig) seen() string {
	var out strings.Builder
	rest := g.backend.Received()
	for {
		i := strings.Index(rest, "GET /canary ")
		if i < 0 {
			out.WriteString(rest)
			return out.String()
		}
		out.WriteString(rest[:i])
		_, rest, _ = strings.Cut(rest[i:], "\r\n\r\n")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !condition(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never: %s", what)
		}
	}
}
