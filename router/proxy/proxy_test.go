package proxy

//lint:file-ignore SA1019 net/http offers whole servers and transports; here HTTP/2 is spoken on a connection that was accepted or dialled before.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

func TestOwnAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		raw      string
		status   int
		reason   string
		location string
	}{
		"no route":         {"GET /none HTTP/1.1\r\nHost: h\r\n\r\n", 404, "no_route", ""},
		"refused":          {"GET /refused HTTP/1.1\r\nHost: h\r\n\r\n", 503, "refused", ""},
		"no pool":          {"GET /nopool HTTP/1.1\r\nHost: h\r\n\r\n", 503, "no_endpoint", ""},
		"panic":            {"GET /panic HTTP/1.1\r\nHost: h\r\n\r\n", 500, "panic", ""},
		"redirect":         {"GET /a/../b?c HTTP/1.1\r\nHost: Secure.Example:8080\r\n\r\n", 308, "https_redirect", "https://secure.example:8443/b?c"},
		"challenge":        {"GET /.well-known/acme-challenge/known HTTP/1.1\r\nHost: secure.example\r\n\r\n", 200, "", ""},
		"other challenge":  {"GET /.well-known/acme-challenge/other HTTP/1.1\r\nHost: secure.example\r\n\r\n", 200, "", ""},
		"post a challenge": {"POST /.well-known/acme-challenge/known HTTP/1.1\r\nHost: secure.example\r\nContent-Length: 0\r\n\r\n", 200, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, backend.OK("ok"), func(o *Options) { o.HTTPSPort = 8443; o.Challenges = challenges{} })
			c := g.dial()
			c.send(tt.raw)
			resp := c.response("GET")
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location {
				t.Errorf("status %d, location %q, %v", resp.StatusCode, resp.Header.Get("Location"), err)
			}
			if strings.Contains(string(body), "secret reason") {
				t.Errorf("internals in %q", body)
			}
			if wantBody := map[string]string{"challenge": "known for secure.example", "other challenge": "ok", "post a challenge": "ok"}[name]; wantBody != "" && string(body) != wantBody {
				t.Errorf("body %q, want %q", body, wantBody)
			}
			if rec := g.record(0); rec.Status != tt.status || rec.Reason != tt.reason {
				t.Errorf("record %d %q", rec.Status, rec.Reason)
			}
			// The connection goes on.
			if status, _ := c.do(canary); status != 200 {
				t.Errorf("canary on the same connection: %d", status)
			}
			if panicked := g.engine.Panics() == 1; panicked != (name == "panic") {
				t.Errorf("%d panics counted", g.engine.Panics())
			}
		})
	}
}

type challenges struct{}

func (challenges) Respond(_ context.Context, host, token string) (string, bool) {
	return "known for " + host, token == "known"
}

func TestAnswerForBrowsers(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	c := g.dial()
	c.send("GET /none/%3Cb%3E HTTP/1.1\r\nHost: h\r\nAccept: text/html,*/*\r\n\r\n")
	resp := c.response("GET")
	body, _ := io.ReadAll(resp.Body)
	id := resp.Header.Get("X-Request-ID")
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || id == "" || !strings.Contains(string(body), id) {
		t.Errorf("headers %v, body %q", resp.Header, body)
	}
}

func TestMisdirected(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	for _, tt := range []struct {
		sni, proto, host string
		status           int
	}{
		{"a.covered.example", "http/1.1", "a.covered.example", 200},
		{"a.covered.example", "http/1.1", "elsewhere.example", 200},
		{"a.covered.example", "http/1.1", "mtls.example", 421},
		{"mtls.example", "http/1.1", "mtls.example", 200},
		{"a.covered.example", "h2", "b.covered.example", 200},
		{"a.covered.example", "h2", "elsewhere.example", 421},
		{"a.covered.example", "h2", "mtls.example", 421},
		{"elsewhere.example", "h2", "elsewhere.example", 200},
	} {
		var status int
		if tt.proto == "h2" {
			resp, err := g.h2(tt.sni).RoundTrip(request(t, "GET", "https://"+tt.host+"/", nil))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			status = resp.StatusCode
		} else {
			status, _ = g.dialTLS(tt.sni, tt.proto).do("GET / HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n")
		}
		if status != tt.status {
			t.Errorf("%+v: %d", tt, status)
		}
	}
	if strings.Count(g.backend.Received(), "\nHost: mtls.example\r") != 1 {
		t.Errorf("the backend saw %q", g.backend.Received())
	}
}

func TestClientAddress(t *testing.T) {
	for _, tt := range []struct {
		fields      string
		client, xff string
		scheme, id  string
	}{
		{"", "127.0.0.1", "127.0.0.1", "http", ""},
		{"X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4", "1.2.3.4, 127.0.0.1", "http", ""},
		{"X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.9\r\n", "1.2.3.4", "6.6.6.6, 1.2.3.4, 10.0.0.9, 127.0.0.1", "http", ""},
		{"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: ::ffff:1.2.3.4\r\n", "1.2.3.4", "6.6.6.6, ::ffff:1.2.3.4, 127.0.0.1", "http", ""},
		{"X-Forwarded-For: 1.2.3.4, evil, 10.0.0.9\r\n", "10.0.0.9", "1.2.3.4, evil, 10.0.0.9, 127.0.0.1", "http", ""},
		{"X-Forwarded-For: [2001:db8::1]:99\r\nX-Forwarded-Proto: https\r\nX-Request-ID: abc-1\r\n", "2001:db8::1", "[2001:db8::1]:99, 127.0.0.1", "https", "abc-1"},
		{"X-Forwarded-For: 10.0.0.8, ::ffff:10.0.0.9\r\nX-Request-ID: no good\r\n", "10.0.0.8", "10.0.0.8, ::ffff:10.0.0.9, 127.0.0.1", "http", ""},
	} {
		g := newRig(t, backend.OK("ok"), func(o *Options) {
			o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
		})
		g.dial().do("GET / HTTP/1.1\r\nHost: h\r\n" + tt.fields + "\r\n")
		rec, seen := g.record(0), g.backend.Received()
		if rec.Request.Client.String() != tt.client || rec.Request.Scheme != tt.scheme || tt.id != "" && rec.Request.ID != tt.id {
			t.Errorf("%q: client %v, scheme %v, id %v", tt.fields, rec.Request.Client, rec.Request.Scheme, rec.Request.ID)
		}
		for _, want := range []string{"X-Forwarded-For: " + tt.xff, "X-Real-IP: " + tt.client, "X-Forwarded-Proto: " + tt.scheme, "X-Request-ID: " + rec.Request.ID} {
			name, _, _ := strings.Cut(want, ":")
			if strings.Count(seen, "\r\n"+want+"\r\n") != 1 || strings.Count(strings.ToLower(seen), "\r\n"+strings.ToLower(name)+":") != 1 {
				t.Errorf("%q: want exactly one %q in %q", tt.fields, want, seen)
			}
		}
	}
}

func TestPipelining(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			body, _ := c.Body(head)
			path := strings.Fields(head)[1]
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(path+body)) + "\r\n\r\n" + path + body)
		}
	})
	c := g.dial()
	c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nGET" + // not wanted, dropped
		"POST /none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGET\r\n0\r\n\r\n" +
		"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n" +
		"GET /4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"/1", "/2abc", "404", "404", "/3def", "/4"} {
		resp := c.response("GET")
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != want && strconv.Itoa(resp.StatusCode) != want {
			t.Errorf("%d %q, want %q; %v", resp.StatusCode, b, want, err)
		}
	}
	if rest := c.closed(); rest != "" {
		t.Errorf("more came: %q", rest)
	}
}

func TestOldClients(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nSum: 1\r\n\r\n"
	for name, tt := range map[string]struct {
		response, request, want string
		kept                    bool
	}{
		"length":     {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.0\r\n\r\n", "Content-Length: 3\r\nConnection: close\r\n\r\nabc", false},
		"keep-alive": {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Content-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", true},
		"chunked":    {chunked, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Connection: close\r\n\r\nabc", false},
		"no 1xx":     {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.0\r\n\r\n", "Content-Length: 3\r\nConnection: close\r\n\r\nabc", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, backend.Always(tt.response))
			c := g.dial()
			c.send(tt.request)
			want := "HTTP/1.1 200 OK\r\n" + tt.want
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c.br, got); err != nil || string(got) != want {
				t.Errorf("%q, want %q; %v", got, want, err)
			}
			if tt.kept {
				c.send(tt.request)
				if c.response("GET").StatusCode != 200 {
					t.Error("no second response")
				}
			} else if rest := c.closed(); rest != "" {
				t.Errorf("more came: %q", rest)
			}
		})
	}
}

// TestBackendsThatMisbehave: what can be told before the head is an error
// response; what breaks later never looks whole. The next request is served.
func TestBackendsThatMisbehave(t *testing.T) {
	serve := func(bad func(*backend.Conn)) func(*backend.Conn) {
		return func(c *backend.Conn) {
			if c.Number == 0 {
				bad(c)
				return
			}
			backend.OK("ok")(c)
		}
	}
	for name, tt := range map[string]struct {
		bad    func(*backend.Conn)
		status int // 0: cut in the middle
		reason string
	}{
		"garbage":      {backend.Once("\x00\x01garbage\r\n\r\n"), 502, "bad_response"},
		"CL and TE":    {backend.Once("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502, "bad_response"},
		"closes":       {backend.Once(""), 502, "backend_closed"},
		"resets":       {func(c *backend.Conn) { c.Head(); c.Reset() }, 502, "backend_closed"},
		"half a head":  {backend.Once("HTTP/1.1 200 OK\r\nA:"), 502, "backend_closed"},
		"bare LF":      {backend.Once("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), 502, "bad_response"},
		"101":          {backend.Once("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 502, "bad_response"},
		"short body":   {backend.Once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), 0, "backend_truncated"},
		"short chunks": {backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), 0, "backend_truncated"},
		"bad chunks":   {backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"), 0, "backend_truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, serve(tt.bad))
			c := g.dial()
			c.send(get)
			resp, err := http.ReadResponse(c.br, nil)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			switch {
			case tt.status != 0 && (err != nil || resp.StatusCode != tt.status):
				t.Errorf("%v, %v", resp, err)
			case tt.status == 0 && err == nil:
				t.Error("the response looks whole")
			}
			if rec := g.record(0); rec.Reason != tt.reason {
				t.Errorf("reason %q", rec.Reason)
			}
			if tt.status != 0 {
				if status, body := c.do(canary); status != 200 || body != "ok" {
					t.Errorf("canary on the same connection: %d %q", status, body)
				}
			}
			g.checkCanary()
			if seen := g.seen(); strings.Count(seen, "GET / ") != 1 {
				t.Errorf("the backend saw %q", seen)
			}

			g = newRig(t, serve(tt.bad))
			h2 := g.h2("")
			h2resp, err := h2.RoundTrip(request(t, "GET", "https://h/", nil))
			if err == nil {
				_, err = io.ReadAll(h2resp.Body)
			}
			if tt.status != 0 && (err != nil || h2resp.StatusCode != tt.status) || tt.status == 0 && err == nil {
				t.Errorf("h2: %v, %v", h2resp, err)
			}
			if resp, err := h2.RoundTrip(request(t, "GET", "https://h/canary", nil)); err != nil || resp.StatusCode != 200 {
				t.Errorf("h2: canary on the same connection: %v, %v", resp, err)
			}
		})
	}
}

func TestTruncationShowsToOldClients(t *testing.T) {
	g := newRig(t, backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"))
	c := g.dial()
	c.send("GET / HTTP/1.0\r\n\r\n")
	if _, err := io.ReadAll(c.br); err == nil {
		t.Error("the end of the connection looks like the end of the body")
	}
}

func TestBackendTimeout(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) { c.Wait() })
	reg := upstream.NewRegistry(upstream.Options{
		Policy:   upstream.DialPolicy{AllowLoopback: true},
		Timeouts: upstream.Timeouts{Head: time.Millisecond},
	})
	defer reg.Close()
	reg.Set(webKey, &upstream.State{Endpoints: []upstream.Endpoint{{Addr: g.backend.Addr, Ready: true}}})
	g.engine.opts.Snapshots = defaultMatch(reg.Pool(webKey))
	if status, _ := g.dial().do(get); status != 504 {
		t.Errorf("status %d", status)
	}
}

func TestNoEndpoint(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	g.reg.Set(webKey, &upstream.State{Reason: "Service shop/web does not exist"})
	c := g.dial()
	c.send(get)
	resp := c.response("GET")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if b, _ := io.ReadAll(resp.Body); strings.Contains(string(b), "shop") {
		t.Errorf("internals in %q", b)
	}
	g.backend.Close()
	g.reg.Set(webKey, &upstream.State{Endpoints: []upstream.Endpoint{{Addr: g.backend.Addr, Ready: true}}})
	if status, _ := c.do(get); status != 502 {
		t.Errorf("closed port: %d", status)
	}
}

func TestServerSentEvents(t *testing.T) {
	next := make(chan string)
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		for s := range next {
			c.Send(s)
		}
	})
	c := g.dial()
	c.send(get)
	resp := c.response("GET")
	br := bufio.NewReader(resp.Body)
	for _, want := range []string{"data: 1\n", "data: 2\n"} {
		next <- want // the next one is not sent before this one has arrived
		if got, err := br.ReadString('\n'); got != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestTrailers(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			c.Body(head)
			c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 7\r\nSet-Cookie: evil\r\n\r\n")
		}
	})
	c := g.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n2\r\nhi\r\n0\r\nSum: 1\r\n\r\n")
	resp := c.response("POST")
	io.Copy(io.Discard, resp.Body)
	if resp.Trailer.Get("Grpc-Status") != "7" || resp.Trailer.Get("Set-Cookie") != "" {
		t.Errorf("h1 trailers %v", resp.Trailer)
	}
	req := request(t, "POST", "https://h/", io.NopCloser(strings.NewReader("hi")))
	req.Trailer = http.Header{"Sum": {"2"}}
	h2resp, err := g.h2("").RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, h2resp.Body)
	if h2resp.Trailer.Get("Grpc-Status") != "7" || h2resp.Trailer.Get("Set-Cookie") != "" {
		t.Errorf("h2 trailers %v", h2resp.Trailer)
	}
	for _, want := range []string{"0\r\nSum: 1\r\n\r\n", "0\r\nsum: 2\r\n\r\n"} {
		if !strings.Contains(g.backend.Received(), want) {
			t.Errorf("no %q at the backend", want)
		}
	}
}

func TestContinue(t *testing.T) {
	goOn := make(chan bool, 1)
	g := newRig(t, func(c *backend.Conn) {
		head, _ := c.Head()
		if !<-goOn {
			c.Send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
			c.Wait()
			return
		}
		c.Send("HTTP/1.1 100 Continue\r\n\r\n")
		body, _ := c.Body(head)
		c.Send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n" + body)
	})
	raw := "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	c := g.dial()
	c.send(raw)
	goOn <- true
	if line, _ := c.br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first %q", line)
	}
	c.br.ReadString('\n')
	if status, body := c.do("hello"); status != 200 || body != "hello" {
		t.Errorf("%d %q", status, body)
	}
	c = g.dial()
	c.send(raw)
	goOn <- false
	resp := c.response("PUT")
	if resp.StatusCode != 401 || !resp.Close {
		t.Errorf("%d, close %v", resp.StatusCode, resp.Close)
	}
	if !strings.Contains(g.backend.Received(), "Expect: 100-continue\r\n") {
		t.Error("the backend was not asked")
	}
}

// TestEarlyResponse has a backend that answers before it has the body. The
// client may send the rest, which is dropped, and then the next request.
func TestEarlyResponse(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		head, _ := c.Head()
		if strings.HasPrefix(head, "GET") {
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		} else {
			c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		}
		c.Wait()
	})
	for name, body := range map[string][3]string{
		"length":  {"Content-Length: 10", "01234", "56789"},
		"chunked": {"Transfer-Encoding: chunked", "5\r\n012", "34\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := g.dial()
			c.t = t
			if status, b := c.do("POST / HTTP/1.1\r\nHost: h\r\n" + body[0] + "\r\n\r\n" + body[1]); status != 413 || b != "no" {
				t.Fatalf("%d %q", status, b)
			}
			if status, b := c.do(body[2] + canary); status != 200 || b != "ok" {
				t.Errorf("next: %d %q", status, b)
			}
		})
	}
	pr, pw := io.Pipe()
	defer pw.Close()
	resp, err := g.h2("").RoundTrip(request(t, "POST", "https://h/", pr))
	if err != nil || resp.StatusCode != 413 {
		t.Errorf("h2: %v, %v", resp, err)
	}
}

// TestPanicInABody lets reading the request body panic on its own goroutine.
func TestPanicInABody(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) { c.Wait() })
	x := &exchange{ctx: t.Context(), server: t.Context(), front: &brokenFront{}, length: 5, rec: view.Record{Start: time.Now()}}
	x.path = "/"
	x.req = view.Request{Method: "POST", Authority: "h", Proto: "HTTP/1.1", Conn: &view.Conn{Peer: netip.MustParseAddrPort("192.0.2.1:1")}}
	g.engine.run(x)
	if rec := g.record(0); rec.Status != 500 || g.engine.Panics() != 1 {
		t.Errorf("status %d, %d panics", rec.Status, g.engine.Panics())
	}
}

// brokenFront panics where the body is read.
type brokenFront struct{ front }

func (*brokenFront) Read([]byte) (int, error)    { panic("a bug") }
func (*brokenFront) Close() error                { return nil }
func (*brokenFront) Begin(*responseHead) error   { return nil }
func (*brokenFront) Write([]byte) error          { return nil }
func (*brokenFront) Sink() (*net.TCPConn, error) { return nil, nil }
func (*brokenFront) End(view.Fields) error       { return nil }

func TestEarlyHints(t *testing.T) {
	g := newRig(t, backend.Always("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	c := g.dial()
	c.send(get)
	want := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.br, got); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	resp, err := g.h2("").RoundTrip(request(t, "GET", "https://h/", nil))
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Link") != "" {
		t.Errorf("h2: %v, %v", resp, err)
	}
}

// TestWebSocket sends bytes both ways, the first ones together with the heads,
// and ends one direction before the other.
func TestWebSocket(t *testing.T) {
	play := func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst:")
		b, _ := io.ReadAll(c) // to the client's end
		c.Send(strings.ToUpper(string(b)))
	}
	for _, secure := range []bool{false, true} {
		g := newRig(t, play)
		c := g.dial()
		if secure {
			c = g.dialTLS("", "http/1.1")
		}
		c.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly ")
		resp := c.response("GET")
		if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Accept") != "x" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		binary := string([]byte{0, 1, 2, 255, '\r', '\n'})
		c.send(binary + "late")
		closeWrite(c.Conn)
		if got, want := c.closed(), "first:EARLY "+strings.ToUpper(binary+"late"); got != want {
			t.Errorf("secure %v: %q, want %q", secure, got, want)
		}
		if rec := g.record(0); !rec.Upgraded || rec.Status != 101 || rec.BytesIn == 0 || rec.BytesOut == 0 {
			t.Errorf("record %+v", rec)
		}
	}
}

// TestNextRequestDuringASlowOne sends a second request while the engine already
// watches for the client's leaving: no byte of it is lost.
func TestNextRequestDuringASlowOne(t *testing.T) {
	arrived, release := make(chan string, 2), make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			path := strings.Fields(head)[1]
			arrived <- path
			<-release
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(path)) + "\r\n\r\n" + path)
		}
	})
	for _, c := range []*client{g.dial(), g.dialTLS("", "http/1.1")} {
		for round := range 3 {
			c.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
			<-arrived
			if round > 0 {
				c.send("GET /next HT")
			}
			g.waitForWatch()
			release <- struct{}{}
			if b, err := io.ReadAll(c.response("GET").Body); err != nil || string(b) != "/slow" {
				t.Fatalf("%q, %v", b, err)
			}
			if round == 0 {
				continue
			}
			c.send("TP/1.1\r\nHost: h\r\n\r\n")
			<-arrived
			release <- struct{}{}
			if b, err := io.ReadAll(c.response("GET").Body); err != nil || string(b) != "/next" {
				t.Fatalf("%q, %v", b, err)
			}
		}
	}
}

// waitForWatch waits until the engine watches a connection.
func (g *rig) waitForWatch() {
	for {
		g.engine.mu.Lock()
		for c := range g.engine.conns {
			c.mu.Lock()
			tools, watching := c.h1Tools, false
			c.mu.Unlock()
			if tools != nil {
				tools.watchMu.Lock()
				watching = tools.reading != nil
				tools.watchMu.Unlock()
			}
			if watching {
				g.engine.mu.Unlock()
				return
			}
		}
		g.engine.mu.Unlock()
		runtime.Gosched()
	}
}

func TestAllowUnderscores(t *testing.T) {
	g := newRig(t, backend.OK("ok"), func(o *Options) { o.AllowUnderscores = true })
	g.dial().do("GET / HTTP/1.1\r\nHost: h\r\nA_b: c\r\nX_Real_IP: 1.2.3.4\r\nx_forwarded-for: 1.2.3.4\r\n\r\n")
	if seen := g.backend.Received(); !strings.Contains(seen, "\r\nA_b: c\r\n") || strings.Contains(seen, "1.2.3.4") {
		t.Errorf("the backend saw %q", seen)
	}
}

func TestUpgradeThatIsNotTaken(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	c := g.dial()
	raw := "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for range 2 {
		if status, body := c.do(raw); status != 200 || body != "ok" {
			t.Errorf("%d %q", status, body)
		}
	}
}

func TestClientCancels(t *testing.T) {
	arrived, left := make(chan struct{}, 2), make(chan struct{}, 2)
	g := newRig(t, func(c *backend.Conn) {
		head, _ := c.Head()
		if strings.Contains(head, "/stream") {
			c.Send("HTTP/1.1 200 OK\r\n\r\nabc")
		}
		arrived <- struct{}{}
		c.Wait()
		left <- struct{}{}
	})
	for n, path := range []string{"/silent", "/stream"} {
		c := g.dial()
		c.send("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		<-arrived
		c.Close()
		<-left // the backend's connection was closed
		if rec := g.record(n); rec.Reason != "client_gone" || path == "/silent" && rec.Status != 499 {
			t.Errorf("%s: %d %q", path, rec.Status, rec.Reason)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := g.h2("").RoundTrip(request(t, "GET", "https://h/silent", nil).WithContext(ctx)); err == nil {
		t.Error("h2: a response to a cancelled request")
	}
	<-left
}

func TestSlowClients(t *testing.T) {
	g := newRig(t, backend.OK("ok"), func(o *Options) {
		const short = 500 * time.Millisecond // long enough to begin a request on a busy machine
		o.Timeouts = Timeouts{ReadHeader: short, BodyGrace: short, Idle: short}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		if got := g.dial().closed(); got != "" {
			t.Errorf("%q", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		c := g.dial()
		c.do(canary)
		if got := c.closed(); got != "" {
			t.Errorf("%q", got)
		}
	})
	for name, raw := range map[string]string{
		"head":         "GET / HTTP/1.1\r\nHost: h\r\nA: ",
		"body":         "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
		"chunked body": "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := g.dial()
			c.send(raw)
			if resp := c.response("POST"); resp.StatusCode != 408 || !resp.Close {
				t.Errorf("%d, close %v", resp.StatusCode, resp.Close)
			}
		})
	}
	for name, raw := range map[string]string{
		"no preface":         "",
		"half a preface":     http2.ClientPreface[:20],
		"no SETTINGS":        http2.ClientPreface,
		"half a frame":       http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x06\x00",
		"half a head":        http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82",
		"nothing after that": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		t.Run("h2 "+name, func(t *testing.T) {
			t.Parallel()
			for _, c := range []*client{g.dial(), g.dialTLS("", "h2")} {
				c.send(raw)
				if got := c.closed(); strings.Contains(got, "HTTP/1.1 200") {
					t.Errorf("%q", got)
				}
			}
		})
	}
	t.Run("h2 body", func(t *testing.T) {
		t.Parallel()
		pr, pw := io.Pipe()
		defer pw.Close()
		resp, err := g.h2("").RoundTrip(request(t, "POST", "https://h/", pr))
		if err != nil || resp.StatusCode != 408 {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

// deadlines is a connection that sends one byte, then nothing, and notes until
// when it is read from.
type deadlines struct {
	net.Conn
	read  int
	until []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.until = append(d.until, t)
	return nil
}

func (d *deadlines) Read(p []byte) (int, error) {
	if d.read++; d.read > 1 {
		return 0, os.ErrDeadlineExceeded
	}
	p[0] = 'G'
	return 1, nil
}

// TestFirstHead: a client gains no time for its first head by sending the first
// byte late.
func TestFirstHead(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	go io.Copy(io.Discard, client)
	d := &deadlines{Conn: server}
	New(Options{Log: logr.Discard()}).ServeConn(t.Context(), d, &view.Conn{}, func() { server.Close() })
	if len(d.until) != 2 || d.until[1].After(d.until[0]) {
		t.Errorf("the first byte put the deadline off: %v", d.until)
	}
}

// TestStalledReaders: clients that take nothing lose the response, not the
// engine its memory.
func TestStalledReaders(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\n\r\n")
		for chunk := strings.Repeat("x", 64<<10); c.Send(chunk) == nil; {
		}
	}, func(o *Options) { o.Timeouts.WriteStall = 50 * time.Millisecond })
	c := g.dial()
	c.send(get)
	if rec := g.record(0); rec.Reason != "client_stalled" {
		t.Errorf("h1: %q", rec.Reason)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("h1: what the client did not take is kept for it: %v", err)
	}
	resp, err := g.h2("").RoundTrip(request(t, "GET", "https://h/", nil))
	if err != nil {
		t.Fatal(err)
	}
	if rec := g.record(1); rec.Reason != "client_stalled" {
		t.Errorf("h2: %q", rec.Reason)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("h2: the response looks whole")
	}
}

func TestThousandAtOnce(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			body, err := c.Body(head)
			if err != nil {
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
		}
	})
	var h2 []*http2.ClientConn
	for range 10 {
		h2 = append(h2, g.h2(""))
	}
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			want := strings.Repeat(strconv.Itoa(i)+",", 1+i%500)
			if i%2 == 0 {
				resp, err := h2[i/2%10].RoundTrip(request(t, "POST", "https://h/", strings.NewReader(want)))
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want {
					t.Errorf("h2 %d: %d bytes, %v: %.120q", i, len(b), err, b)
				}
				return
			}
			c := g.dial()
			defer c.Close()
			if _, body := c.do("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + strconv.Itoa(len(want)) + "\r\n\r\n" + want); body != want {
				t.Errorf("h1 %d: %d bytes: %.120q", i, len(body), body)
			}
		})
	}
	wg.Wait()
}

// TestDrainAnswersIdle: an idle connection stays open while the engine drains,
// and its next answer says that it closes.
func TestDrainAnswersIdle(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	idle := g.dial()
	idle.do(canary)
	close(g.drain)
	<-g.engine.opts.Draining
	idle.send(canary)
	resp := idle.response("GET")
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" || !resp.Close {
		t.Errorf("%q, %v, close %v", body, err, resp.Close)
	}
	if rest := idle.closed(); rest != "" {
		t.Errorf("more came: %q", rest)
	}
}

// TestDrain begins a drain with connections in every state: nothing is cut.
func TestDrain(t *testing.T) {
	arrived, release := make(chan struct{}, 3), make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if strings.Contains(head, "/ws") {
				c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
				io.Copy(c.Conn, c)
				return
			}
			if strings.Contains(head, "/slow") {
				arrived <- struct{}{}
				<-release
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}, func(o *Options) { o.Timeouts.DrainIdle = time.Millisecond })
	slow, slowTLS, idle, tunnel := g.dial(), g.dialTLS("", "http/1.1"), g.dial(), g.dial()
	idle.do(canary)
	tunnel.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if tunnel.response("GET").StatusCode != 101 {
		t.Fatal("no tunnel")
	}
	raw := "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"
	slow.send(raw)
	slowTLS.send(raw)
	h2 := g.h2("")
	h2done := make(chan error, 1)
	req := request(t, "GET", "https://h/slow", nil)
	go func() {
		resp, err := h2.RoundTrip(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		h2done <- err
	}()
	for range 3 {
		<-arrived
	}
	close(g.drain)
	if rest := idle.closed(); rest != "" {
		t.Errorf("idle connection: %q", rest)
	}
	close(release)
	for _, c := range []*client{slow, slowTLS} {
		resp := c.response("GET")
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" || !resp.Close {
			t.Errorf("in flight: %q, close %v, %v", b, resp.Close, err)
		}
		if rest := c.closed(); rest != "" {
			t.Errorf("more came: %q", rest)
		}
	}
	if err := <-h2done; err != nil {
		t.Errorf("h2 in flight: %v", err)
	}
	tunnel.send("still here")
	buf := make([]byte, 10)
	if _, err := io.ReadFull(tunnel.br, buf); err != nil || string(buf) != "still here" {
		t.Errorf("tunnel: %q, %v", buf, err)
	}
	g.cancel()
	tunnel.closed()
}

func TestAccessLog(t *testing.T) {
	var out lockedBuffer
	log := NewAccessLog(&out, JSONLine, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- log.Start(ctx) }()
	g := newRig(t, backend.OK("ok"))
	g.engine.opts.Observer = Observers{log, g}
	g.dial().do("POST /a?token=hunter2 HTTP/1.1\r\nHost: h\r\nUser-Agent: \"\\\xff\t{}\r\nAuthorization: Bearer hunter2\r\nCookie: hunter2\r\nContent-Length: 3\r\n\r\nabc")
	g.dial().do("BAD\r\n\r\n")
	g.record(1)
	cancel()
	<-done
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 || strings.Contains(out.String(), "hunter2") {
		t.Fatalf("log %q", lines)
	}
	var got struct {
		Time                                                                                          time.Time
		ID, Client, Method, Host, Path, Proto, Scheme, Reason, Ingress, Service, Endpoint, User_agent string
		Status, Attempts                                                                              int
		Bytes_in, Bytes_out                                                                           int64
		Duration_ms, Upstream_ms                                                                      float64
	}
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got.Path != "/a" || got.Method != "POST" || got.Status != 200 || got.Bytes_in != 3 || got.Bytes_out != 2 ||
		got.Endpoint != g.backend.Addr.String() || got.Attempts != 1 || got.Ingress != "shop/web" || got.ID == "" ||
		got.Client != "127.0.0.1" || got.User_agent != "\"\\\ufffd\t{}" || got.Time.IsZero() || got.Upstream_ms <= 0 {
		t.Errorf("entry %+v", got)
	}
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil || got.Status != 400 || got.Reason != "request_line" {
		t.Errorf("refused head: %+v, %v", got, err)
	}
}

func TestAccessLogDrops(t *testing.T) {
	log := NewAccessLog(io.Discard, JSONLine, 2)
	rec := &view.Record{Request: &view.Request{}}
	for range 5 {
		log.Observe(rec)
	}
	if log.Dropped() != 3 {
		t.Errorf("%d dropped, want 3", log.Dropped())
	}
}

func FuzzLogString(f *testing.F) {
	f.Add("a\"b\\c\n\r\x00\x7f\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		b := appendString(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q is not JSON: %v", b, err)
		}
		if bytes.ContainsAny(b, "\n\r\x00") {
			t.Errorf("%q breaks the line", b)
		}
		if back != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(back, "\ufffd") {
			t.Errorf("%q became %q", s, back)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
