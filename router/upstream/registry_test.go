package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var web = Key{Namespace: "shop", Service: "web", Port: "80"}

func newRegistry(t testing.TB, opts Options) *Registry {
	opts.Policy.AllowLoopback = true
	r := NewRegistry(opts)
	t.Cleanup(r.Close)
	return r
}

func ready(addrs ...netip.AddrPort) *State {
	s := new(State)
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, Endpoint{Addr: a, Ready: true})
	}
	return s
}

func serve(t testing.TB, play func(*backend.Conn)) (*Pool, *backend.Server) {
	srv := backend.Serve(t, play)
	r := newRegistry(t, Options{})
	r.Set(web, ready(srv.Addr))
	return r.Pool(web), srv
}

func drain(t testing.TB, resp *Response) string {
	t.Helper()
	b, err := io.ReadAll(resp)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// get does one request and returns the body, or why there is none.
func get(t testing.TB, p *Pool, req *Request) (string, error) {
	t.Helper()
	resp, err := p.Do(t.Context(), req)
	if err != nil {
		return "", err
	}
	defer resp.Close()
	b, err := io.ReadAll(resp)
	return string(b), err
}

func simple() *Request { return &Request{Method: "GET", Target: "/a?b", Host: "h"} }

// textBody is a request body that is there at once.
type textBody struct {
	io.Reader
	trailers view.Fields
}

func text(s string) *textBody             { return &textBody{Reader: strings.NewReader(s)} }
func (b *textBody) Trailers() view.Fields { return b.trailers }
func (b *textBody) Interrupt()            {}
func (b *textBody) Resume()               {}
func (b *textBody) Close() error          { return nil }
func post(s string, length int64) *Request {
	return &Request{Method: "POST", Target: "/", Host: "h", Length: length, Body: text(s)}
}

// pipeBody is a request body that the test writes when it likes.
type pipeBody struct{ *io.PipeReader }

func (pipeBody) Trailers() view.Fields { return nil }
func (pipeBody) Interrupt()            {}
func (pipeBody) Resume()               {}

func TestConnectionIsReused(t *testing.T) {
	p, srv := serve(t, backend.OK("hello"))
	for range 3 {
		if body, err := get(t, p, simple()); err != nil || body != "hello" {
			t.Fatalf("%q, %v", body, err)
		}
	}
	if srv.Conns() != 1 {
		t.Errorf("%d connections, want 1", srv.Conns())
	}
	want := "GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
	if got := srv.Received(); got != strings.Repeat(want, 3) {
		t.Errorf("the backend saw %q", got)
	}
}

func TestIdleConnectionsAreSharedBetweenPools(t *testing.T) {
	srv := backend.Serve(t, backend.OK("x"))
	r := newRegistry(t, Options{})
	other := Key{Namespace: "shop", Service: "web", Port: "http"}
	r.Set(web, ready(srv.Addr))
	r.Set(other, ready(srv.Addr))
	for _, k := range []Key{web, other, web} {
		if _, err := get(t, r.Pool(k), simple()); err != nil {
			t.Fatal(err)
		}
	}
	if srv.Conns() != 1 {
		t.Errorf("%d connections, want 1", srv.Conns())
	}
}

func TestRoundRobinReachesEveryEndpoint(t *testing.T) {
	r := newRegistry(t, Options{})
	s := new(State)
	for i := range 10 {
		srv := backend.Serve(t, backend.OK(strconv.Itoa(i)))
		s.Endpoints = append(s.Endpoints, Endpoint{Addr: srv.Addr, Ready: true})
	}
	r.Set(web, s)
	count := make(map[string]int)
	for range 100 {
		body, err := get(t, r.Pool(web), simple())
		if err != nil {
			t.Fatal(err)
		}
		count[body]++
	}
	for i := range 10 {
		if count[strconv.Itoa(i)] != 10 {
			t.Errorf("endpoint %d got %d requests of 100", i, count[strconv.Itoa(i)])
		}
	}
}

// closedAddr returns an address that refuses connections.
func closedAddr(t testing.TB) netip.AddrPort {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestFailedDialGoesElsewhere(t *testing.T) {
	srv := backend.Serve(t, backend.OK("x"))
	r := newRegistry(t, Options{})
	r.Set(web, ready(closedAddr(t), srv.Addr))
	for range 4 {
		resp, err := r.Pool(web).Do(t.Context(), post("abc", 3))
		if err != nil {
			t.Fatal(err)
		}
		drain(t, resp)
		resp.Close()
	}
	r.Set(web, ready(closedAddr(t), closedAddr(t)))
	_, err := r.Pool(web).Do(t.Context(), simple())
	var e *Error
	if !errors.As(err, &e) || e.Kind != Unreachable || e.Attempts != 2 {
		t.Errorf("all closed: %+v", err)
	}
}

func TestNoEndpoint(t *testing.T) {
	r := newRegistry(t, Options{})
	_, err := r.Pool(web).Do(t.Context(), simple())
	var e *Error
	if !errors.As(err, &e) || e.Kind != NoEndpoint || !strings.Contains(err.Error(), "not known yet") {
		t.Errorf("unknown pool: %v", err)
	}
	r.Set(web, &State{Endpoints: []Endpoint{{Addr: closedAddr(t)}}})
	if _, err := r.Pool(web).Do(t.Context(), simple()); !errors.As(err, &e) || e.Kind != NoEndpoint {
		t.Errorf("unready endpoint: %v", err)
	}
}

func TestPolicyIsAskedBeforeDialling(t *testing.T) {
	srv := backend.Serve(t, backend.OK("x"))
	r := NewRegistry(Options{})
	defer r.Close()
	r.Set(web, ready(srv.Addr))
	if _, err := r.Pool(web).Do(t.Context(), simple()); !errors.Is(err, ErrRefused) {
		t.Errorf("loopback: %v", err)
	}
	if srv.Conns() != 0 {
		t.Error("the address was dialled")
	}
}

// TestStaleConnections closes, resets or pollutes connections between requests:
// none of it may be seen by the next request.
func TestStaleConnections(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
	for name, after := range map[string]func(*backend.Conn){
		"closed":      func(*backend.Conn) {},
		"reset":       func(c *backend.Conn) { c.Reset() },
		"extra bytes": func(c *backend.Conn) { c.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil") },
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{}, 10)
			p, srv := serve(t, func(c *backend.Conn) {
				if _, err := c.Head(); err != nil {
					return
				}
				c.Send(ok)
				after(c)
				done <- struct{}{}
				if name == "extra bytes" {
					c.Wait()
				}
			})
			for range 3 {
				body, err := get(t, p, simple())
				if err != nil || body != "x" {
					t.Fatalf("%q, %v", body, err)
				}
				<-done
			}
			if srv.Conns() != 3 {
				t.Errorf("%d connections, want a new one each time", srv.Conns())
			}
		})
	}
}

// TestReplay lets an old connection die with the request on it.
func TestReplay(t *testing.T) {
	play := func(c *backend.Conn) {
		for n := 0; ; n++ {
			if _, err := c.Head(); err != nil || n == 1 && c.Number == 0 {
				return // the first connection dies with its second request
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + strconv.Itoa(c.Number))
		}
	}
	for _, tt := range []struct {
		method string
		want   string
	}{{"GET", "1"}, {"DELETE", "1"}, {"POST", ""}, {"PATCH", ""}} {
		t.Run(tt.method, func(t *testing.T) {
			p, srv := serve(t, play)
			if body, err := get(t, p, simple()); err != nil || body != "0" {
				t.Fatalf("first: %q, %v", body, err)
			}
			body, err := get(t, p, &Request{Method: tt.method, Target: "/", Host: "h"})
			if body != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("second: %q, %v", body, err)
			}
			if n := strings.Count(srv.Received(), tt.method+" / "); tt.want == "" && n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

// TestDyingEndpoint: an endpoint that takes a request and dies costs no
// idempotent request while another endpoint lives, and others are never sent
// twice.
func TestDyingEndpoint(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "DELETE", "POST", "PATCH"} {
		t.Run(method, func(t *testing.T) {
			dying := backend.Serve(t, func(c *backend.Conn) { c.Head(); c.Reset() })
			living := backend.Serve(t, backend.Always("HTTP/1.1 204 No Content\r\n\r\n"))
			r := newRegistry(t, Options{Policy: DialPolicy{AllowLoopback: true}})
			k := Key{"ns", "svc", "80"}
			r.Set(k, ready(dying.Addr, living.Addr))
			failed := 0
			const requests = 6
			for range requests {
				if _, err := get(t, r.Pool(k), &Request{Method: method, Target: "/", Host: "h"}); err != nil {
					failed++
				}
			}
			sent := strings.Count(dying.Received()+living.Received(), method+" / ")
			if idempotent(method) && failed != 0 {
				t.Errorf("%d of %d were lost", failed, requests)
			}
			if !idempotent(method) && (sent != requests || failed == 0) {
				t.Errorf("%d requests were sent %d times, %d failed", requests, sent, failed)
			}
		})
	}
}

// TestBodyIsKeptNoLonger: when there is a response, nothing of the body is kept.
func TestBodyIsKeptNoLonger(t *testing.T) {
	p, _ := serve(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
		io.CopyN(io.Discard, c, 50000)
		c.Send("x")
	})
	pr, pw := io.Pipe()
	req := &Request{Method: "PUT", Target: "/", Host: "h", Length: 50000, Body: pipeBody{pr}}
	resp, err := p.Do(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	pw.Write(make([]byte, 50000))
	drain(t, resp)
	resp.Close()
	if n := len(req.Body.(*replay).kept); n > 0 {
		t.Errorf("%d bytes are kept of a request that is not sent again", n)
	}
}

func TestResponseFraming(t *testing.T) {
	for name, tt := range map[string]struct {
		response string
		method   string
		body     string
		reused   bool
	}{
		"length":      {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", "abc", true},
		"chunked":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\n\r\n", "GET", "abc", true},
		"close":       {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", "GET", "abc", false},
		"1.0":         {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", "abc", false},
		"no content":  {"HTTP/1.1 204 No Content\r\n\r\n", "GET", "", true},
		"unmodified":  {"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "GET", "", true},
		"extra bytes": {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n", "GET", "abc", false},
		"head extra":  {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "GET", "", false},
		"many 1xx":    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "GET", "a", true},
		"HEAD":        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			p, srv := serve(t, backend.Always(tt.response))
			for range 2 {
				body, err := get(t, p, &Request{Method: tt.method, Target: "/", Host: "h"})
				if err != nil || body != tt.body {
					t.Fatalf("%q, %v", body, err)
				}
			}
			if reused := srv.Conns() == 1; reused != tt.reused {
				t.Errorf("%d connections for two requests", srv.Conns())
			}
		})
	}
}

func TestBodyUntilClose(t *testing.T) {
	p, _ := serve(t, backend.Once("HTTP/1.1 200 OK\r\n\r\nabc"))
	if body, err := get(t, p, simple()); err != nil || body != "abc" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestBrokenResponses(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(*backend.Conn)
		head bool // whether a head comes before it breaks
	}{
		"garbage":         {backend.Once("SSH-2.0-x\r\n\r\n"), false},
		"half a head":     {backend.Once("HTTP/1.1 200 OK\r\nA: b"), false},
		"closed":          {backend.Once(""), false},
		"reset":           {func(c *backend.Conn) { c.Head(); c.Reset() }, false},
		"CL and TE":       {backend.Once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), false},
		"uninvited 101":   {backend.Once("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), false},
		"endless 1xx":     {backend.Once(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100)), false},
		"large head":      {backend.Once("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 70<<10) + "\r\n\r\n"), false},
		"short length":    {backend.Once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), true},
		"short chunks":    {backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"), true},
		"no last chunk":   {backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), true},
		"bad chunk":       {backend.Once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"), true},
		"short in middle": {func(c *backend.Conn) { c.Head(); c.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"); c.Reset() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := serve(t, tt.play)
			resp, err := p.Do(t.Context(), simple())
			if !tt.head {
				var e *Error
				if !errors.As(err, &e) || e.Kind != Broken {
					t.Fatalf("got %v, want Broken", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Close()
			if b, err := io.ReadAll(resp); err == nil {
				t.Errorf("taken for whole: %q", b)
			}
		})
	}
}

func TestRequestBodies(t *testing.T) {
	play := func(c *backend.Conn) {
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
	}
	p, srv := serve(t, play)
	for _, length := range []int64{3, -1} {
		if body, err := get(t, p, post("abc", length)); err != nil || body != "abc" {
			t.Errorf("length %d: %q, %v", length, body, err)
		}
	}
	big := strings.Repeat("0123456789", 100_000)
	if body, err := get(t, p, post(big, -1)); err != nil || body != big {
		t.Errorf("large body: %d bytes, %v", len(body), err)
	}
	req := post("abc", -1)
	req.Body.(*textBody).trailers = view.Fields{{Name: "Sum", Value: "42"}}
	if _, err := get(t, p, req); err != nil {
		t.Error(err)
	}
	if !strings.HasSuffix(srv.Received(), "3\r\nabc\r\n0\r\nSum: 42\r\n\r\n") {
		t.Error("no trailer at the backend")
	}
	if srv.Conns() != 1 {
		t.Errorf("%d connections", srv.Conns())
	}
}

func TestShortRequestBody(t *testing.T) {
	p, _ := serve(t, backend.OK("x"))
	_, err := p.Do(t.Context(), post("abc", 5))
	var e *Error
	if !errors.As(err, &e) || e.Kind != BodyFailed || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// TestEarlyResponse has a backend that answers before the body has come: the
// response passes, the connection is not used again.
func TestEarlyResponse(t *testing.T) {
	p, srv := serve(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		c.Wait()
	})
	for range 2 {
		pr, pw := io.Pipe()
		resp, err := p.Do(t.Context(), &Request{Method: "POST", Target: "/", Host: "h", Length: 1000, Body: pipeBody{pr}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Head.Status != 413 || drain(t, resp) != "no" || resp.Sent() {
			t.Errorf("got %+v, sent %v", resp.Head, resp.Sent())
		}
		resp.Close()
		if _, err := pw.Write([]byte("x")); err == nil {
			t.Error("the body is still being read")
		}
	}
	if srv.Conns() != 2 {
		t.Errorf("%d connections", srv.Conns())
	}
}

// TestBothWaysAtOnce talks to a backend that echoes each chunk as it comes.
func TestBothWaysAtOnce(t *testing.T) {
	p, _ := serve(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := c.Line()
			if err != nil || size == "0" {
				break
			}
			data, _ := c.Line()
			c.Send(size + "\r\n" + data + "\r\n")
		}
		c.Send("0\r\nDone: yes\r\n\r\n")
		c.Wait()
	})
	pr, pw := io.Pipe()
	resp, err := p.Do(t.Context(), &Request{Method: "POST", Target: "/", Host: "h", Length: -1, Body: pipeBody{pr}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	buf := make([]byte, 100)
	for _, s := range []string{"one", "two", "three"} {
		if _, err := pw.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(resp, buf[:len(s)])
		if err != nil || string(buf[:n]) != s {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	pw.Close()
	if rest := drain(t, resp); rest != "" || resp.Trailers().Get("Done") != "yes" {
		t.Errorf("rest %q, trailers %v", rest, resp.Trailers())
	}
}

// informed is an Informer that notes what it is told.
type informed func(status int)

func (i informed) Inform(status int, _ view.Fields) error { i(status); return nil }

func TestInformational(t *testing.T) {
	p, _ := serve(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			c.Send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
			c.Body(head)
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for _, asked := range []bool{true, false} {
		var got []int
		req := post("abc", 3)
		req.Continue = asked
		req.Client = informed(func(status int) { got = append(got, status) })
		if _, err := get(t, p, req); err != nil {
			t.Fatal(err)
		}
		if asked && len(got) != 2 || !asked && (len(got) != 1 || got[0] != 103) {
			t.Errorf("asked %v: passed on %v", asked, got)
		}
	}
}

func TestUpgrade(t *testing.T) {
	p, srv := serve(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: Echo\r\nConnection: upgrade\r\n\r\nearly")
		io.Copy(c.Conn, c)
	})
	req := simple()
	req.Upgrade = "echo"
	resp, err := p.Do(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	nc := resp.Hijack()
	resp.Close()
	defer nc.Close()
	if !strings.Contains(srv.Received(), "\r\nConnection: Upgrade\r\nUpgrade: echo\r\n") {
		t.Errorf("the backend saw %q", srv.Received())
	}
	nc.Write([]byte("hello"))
	nc.(interface{ CloseWrite() error }).CloseWrite()
	if b, err := io.ReadAll(nc); string(b) != "earlyhello" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	req.Upgrade = "other"
	if _, err := p.Do(t.Context(), req); err == nil {
		t.Error("switched to a protocol that was not offered")
	}
}

func TestCancelClosesTheBackendConnection(t *testing.T) {
	arrived, closed := make(chan struct{}), make(chan struct{})
	p, _ := serve(t, func(c *backend.Conn) {
		c.Head()
		close(arrived)
		c.Wait()
		close(closed)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := p.Do(ctx, simple())
	var e *Error
	if !errors.As(err, &e) || e.Kind != Canceled {
		t.Errorf("got %v", err)
	}
	<-closed
}

func TestTimeouts(t *testing.T) {
	silent := backend.Serve(t, func(c *backend.Conn) { c.Wait() })
	stuck := backend.Serve(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
		c.Wait()
	})
	r := newRegistry(t, Options{Timeouts: Timeouts{Head: 20 * time.Millisecond, Stall: 20 * time.Millisecond}})
	r.Set(web, ready(silent.Addr))
	_, err := r.Pool(web).Do(t.Context(), simple())
	var e *Error
	if !errors.As(err, &e) || e.Kind != Timeout {
		t.Errorf("no answer: %v", err)
	}
	r.Set(web, ready(stuck.Addr))
	if _, err := get(t, r.Pool(web), simple()); !isTimeout(err) {
		t.Errorf("stuck in the body: %v", err)
	}
}

// TestDrain removes an endpoint: the request in flight finishes, its connection
// and the unused ones close.
func TestDrain(t *testing.T) {
	release := make(chan struct{})
	var gone sync.WaitGroup
	gone.Add(2)
	srv := backend.Serve(t, func(c *backend.Conn) {
		defer gone.Done()
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if strings.Contains(head, "/slow") {
				c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
				<-release
				c.Send("b")
				continue
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	other := backend.Serve(t, backend.OK("other"))
	r := newRegistry(t, Options{})
	r.Set(web, ready(srv.Addr))
	p := r.Pool(web)
	slow, err := p.Do(t.Context(), &Request{Method: "GET", Target: "/slow", Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, p, simple()); err != nil {
		t.Fatal(err)
	}
	r.Set(web, ready(other.Addr))
	if body, err := get(t, p, simple()); err != nil || body != "other" {
		t.Errorf("after the change: %q, %v", body, err)
	}
	close(release)
	if body := drain(t, slow); body != "ab" {
		t.Errorf("in flight: %q", body)
	}
	slow.Close()
	gone.Wait()
}

// TestUnusedConnectionsClose: after KeepAlive, and beyond MaxIdle at once.
func TestUnusedConnectionsClose(t *testing.T) {
	closed := make(chan int, 2)
	srv := backend.Serve(t, func(c *backend.Conn) {
		backend.OK("x")(c)
		closed <- c.Number
	})
	r := newRegistry(t, Options{MaxIdle: 1, Timeouts: Timeouts{KeepAlive: time.Millisecond}})
	r.Set(web, ready(srv.Addr))
	a, err := r.Pool(web).Do(t.Context(), simple())
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Pool(web).Do(t.Context(), simple())
	if err != nil {
		t.Fatal(err)
	}
	drain(t, a)
	drain(t, b)
	a.Close()
	b.Close()
	if first, second := <-closed, <-closed; first == second {
		t.Errorf("connection %d closed twice", first)
	}
}

// TestUnreachableEndpointIsPassedOver: one failed dial is enough for the next
// requests to begin elsewhere.
func TestUnreachableEndpointIsPassedOver(t *testing.T) {
	srv := backend.Serve(t, backend.OK("x"))
	bad := closedAddr(t)
	var mu sync.Mutex
	dials := make(map[netip.AddrPort]int)
	r := newRegistry(t, Options{Dial: func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		dials[ap]++
		mu.Unlock()
		return dialTCP(ctx, ap)
	}})
	r.Set(web, ready(bad, srv.Addr))
	for range 10 {
		if _, err := get(t, r.Pool(web), simple()); err != nil {
			t.Fatal(err)
		}
	}
	if dials[bad] >= 5 { // its share, if every turn of its were tried
		t.Errorf("the bad endpoint was dialled %d times", dials[bad])
	}
}

func TestRetain(t *testing.T) {
	srv := backend.Serve(t, backend.OK("x"))
	r := newRegistry(t, Options{})
	other := Key{Namespace: "a", Service: "b", Port: "c"}
	r.Set(web, ready(srv.Addr))
	r.Set(other, ready(srv.Addr))
	held := r.Pool(other)
	r.Retain(map[Key]struct{}{web: {}})
	if pools := r.Pools(); len(pools) != 1 || pools[0].Key() != web {
		t.Errorf("kept %v", pools)
	}
	if _, err := get(t, held, simple()); err != nil {
		t.Errorf("a pool that is still held: %v", err)
	}
	if held.Key() != other || len(held.State().Endpoints) != 1 {
		t.Errorf("held pool changed: %v %v", held.Key(), held.State())
	}
	r.Retain(nil)
	if len(r.addrs) != 0 {
		t.Errorf("addresses left: %v", r.addrs)
	}
}

// TestSetUnderLoad changes endpoints while requests run: none fails.
func TestSetUnderLoad(t *testing.T) {
	a, b := backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.OK("b"))
	r := newRegistry(t, Options{})
	r.Set(web, ready(a.Addr))
	p := r.Pool(web)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if _, err := get(t, p, simple()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 200 {
		r.Set(web, ready([]netip.AddrPort{a.Addr, b.Addr}[i%2]))
	}
	wg.Wait()
}

func TestPickDoesNotAllocate(t *testing.T) {
	r := newRegistry(t, Options{})
	r.Set(web, manyEndpoints(0, 10))
	p := r.Pool(web)
	if n := testing.AllocsPerRun(100, func() { p.Pick() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func manyEndpoints(pool, n int) *State {
	s := &State{Endpoints: make([]Endpoint, n)}
	for i := range s.Endpoints {
		a := netip.AddrFrom4([4]byte{10, byte(pool >> 8), byte(pool), byte(i)})
		s.Endpoints[i] = Endpoint{Addr: netip.AddrPortFrom(a, 80), Ready: true}
	}
	return s
}

func BenchmarkPick(b *testing.B) {
	r := newRegistry(b, Options{})
	r.Set(web, manyEndpoints(0, 10))
	p := r.Pool(web)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if p.Pick() == nil {
				b.Error("nothing picked")
			}
		}
	})
}

// BenchmarkSet is the time from a changed EndpointSlice to traffic that follows
// it, with 10,000 pools of 10 endpoints.
func BenchmarkSet(b *testing.B) {
	r := newRegistry(b, Options{})
	keys := make([]Key, 10_000)
	for i := range keys {
		keys[i] = Key{Namespace: "ns", Service: "s" + strconv.Itoa(i), Port: "80"}
		r.Set(keys[i], manyEndpoints(i, 10))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := keys[i%len(keys)]
		r.Set(k, manyEndpoints(i%len(keys), 9+i%2))
		if t := r.Pool(k).Pick(); t == nil || !t.Endpoint.Ready {
			b.Fatal("no traffic")
		}
	}
}

// BenchmarkDo is one request over a connection that persists.
func BenchmarkDo(b *testing.B) {
	p, _ := serve(b, backend.OK("hello"))
	b.ReportAllocs()
	var buf [64]byte
	req := simple()
	for b.Loop() {
		resp, err := p.Do(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf[:])
		}
		resp.Close()
	}
}
