package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/test/backend"
	"github.com/portico-ingress/portico/test/testcert"
)

var h2c = policy.Backend{Protocol: policy.GRPC}

// server is a backend of Go's own, HTTP/2 with prior knowledge, that counts its
// connections.
func server(t testing.TB, serve http.HandlerFunc, change ...func(*http.Server)) (*Pool, *counter) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: serve, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	for _, c := range change {
		c(srv)
	}
	n := &counter{Listener: ln}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(n) })
	r := newRegistry(t, Options{})
	t.Cleanup(func() { srv.Close(); done.Wait() })
	r.Set(web, ready(ln.Addr().(*net.TCPAddr).AddrPort()))
	return r.Pool(web), n
}

// counter counts the connections that are accepted.
type counter struct {
	net.Listener
	mu sync.Mutex // protects the following
	n  int
}

func (c *counter) Accept() (net.Conn, error) {
	nc, err := c.Listener.Accept()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.n++
	}
	return nc, err
}

func (c *counter) conns() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func onH2(r *Request) *Request { r.Backend = h2c; return r }

func TestStreamsShareAConnection(t *testing.T) {
	var together sync.WaitGroup
	together.Add(50)
	p, n := server(t, func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait()
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL, r.Proto)
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			got, err := get(t, p, onH2(&Request{Method: "GET", Target: fmt.Sprintf("/%d?q", i), Host: "h"}))
			if want := fmt.Sprintf("GET h /%d?q HTTP/2.0", i); err != nil || got != want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n.conns() != 1 {
		t.Errorf("%d connections", n.conns())
	}
}

func TestStreamHeads(t *testing.T) {
	p, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/hints":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(103)
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Sum", "7")
		case "/long":
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})
	for _, tc := range []struct {
		method, path string
		status       int
		framing      wire.Framing
		length       int64
		body         string
		trailer      string
		informed     int
	}{
		{"GET", "/204", 204, wire.NoBody, -1, "", "", 0},
		{"GET", "/304", 304, wire.NoBody, -1, "", "", 0},
		{"HEAD", "/long", 200, wire.NoBody, 5, "", "", 0},
		{"GET", "/long", 200, wire.Length, 5, "hello", "", 0},
		{"GET", "/hints", 200, wire.Length, 0, "", "", 1},
		{"GET", "/trailers", 200, wire.Chunked, -1, "body", "7", 0},
	} {
		informs := 0
		resp, err := p.Do(t.Context(), onH2(&Request{Method: tc.method, Target: tc.path, Host: "h", Trailers: true,
			Client: informed(func(int) { informs++ })}))
		if err != nil {
			t.Fatalf("%s %s: %v", tc.method, tc.path, err)
		}
		body := drain(t, resp)
		h := resp.Head
		if h.Status != tc.status || h.Framing != tc.framing || h.Length != tc.length || body != tc.body || resp.Trailers().Get("x-sum") != tc.trailer || informs != tc.informed {
			t.Errorf("%s %s: %d, framing %d, length %d, %q, trailers %v, %d informed", tc.method, tc.path, h.Status, h.Framing, h.Length, body, resp.Trailers(), informs)
		}
		resp.Close()
	}
}

func TestStreamBodies(t *testing.T) {
	p, n := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %d %s %v", r.ContentLength, len(body), r.Trailer.Get("X-Sum"), err)
	})
	big := strings.Repeat("x", 3<<20)
	for _, tc := range []struct {
		body    string
		length  int64
		trailer string
		want    string
	}{
		{"hello", 5, "", "5 5  <nil>"},
		{"hello", -1, "", "-1 5  <nil>"},
		{"", -1, "", "-1 0  <nil>"},
		{big, -1, "", "-1 3145728  <nil>"},
		{big, 3 << 20, "", "3145728 3145728  <nil>"},
		{"hello", -1, "7", "-1 5 7 <nil>"},
	} {
		req := onH2(post(tc.body, tc.length))
		if tc.trailer != "" {
			req.Fields = view.Fields{{Name: "Trailer", Value: "X-Sum"}}
			req.Body = &textBody{Reader: strings.NewReader(tc.body), trailers: view.Fields{{Name: "X-Sum", Value: tc.trailer}}}
		}
		if got, err := get(t, p, req); err != nil || got != tc.want {
			t.Errorf("%d bytes, length %d: %q, %v", len(tc.body), tc.length, got, err)
		}
	}
	if n.conns() != 1 {
		t.Errorf("%d connections", n.conns())
	}
}

// TestStreamBothWays: each answer is read before the next question is asked.
func TestStreamBothWays(t *testing.T) {
	p, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		buf := make([]byte, 16)
		_ = rc.Flush()
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})
	pr, pw := io.Pipe()
	resp, err := p.Do(t.Context(), onH2(&Request{Method: "POST", Target: "/", Host: "h", Length: -1, Body: pipeBody{pr}}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	buf := make([]byte, 16)
	for range 10 {
		_, _ = io.WriteString(pw, "ping")
		if n, err := io.ReadFull(resp, buf[:4]); string(buf[:n]) != "PING" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	pw.Close()
	if n, err := resp.Read(buf); err != io.EOF {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// TestSlowReaderHoldsUpNobody: a stream that is not read takes its window, and
// the others go on.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	full := make(chan struct{})
	p, n := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			_, _ = io.WriteString(w, "ok")
			return
		}
		var once sync.Once
		for range 64 {
			_, _ = w.Write(make([]byte, 64<<10))
			once.Do(func() { close(full) })
		}
	})
	slow, err := p.Do(t.Context(), onH2(&Request{Method: "GET", Target: "/big", Host: "h"}))
	if err != nil {
		t.Fatal(err)
	}
	<-full
	for range 20 {
		if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if held := slow.exchange.(*call).body.Len(); held > streamWindow {
		t.Errorf("%d bytes are held", held)
	}
	if got := len(drain(t, slow)); got != 4<<20 {
		t.Errorf("%d bytes", got)
	}
	slow.Close()
	if n.conns() != 1 {
		t.Errorf("%d connections", n.conns())
	}
}

// peer plays HTTP/2 frame by frame.
type peer struct {
	*http2.Framer
	c   *backend.Conn
	enc bytes.Buffer
	hp  *hpack.Encoder
}

// frames plays a backend that has exchanged settings.
func frames(t testing.TB, opts Options, settings []http2.Setting, play func(*peer)) (*Pool, *backend.Server) {
	t.Helper()
	srv := backend.Serve(t, func(c *backend.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		p := &peer{Framer: http2.NewFramer(c.Conn, c), c: c}
		p.hp = hpack.NewEncoder(&p.enc)
		_ = p.WriteSettings(settings...)
		play(p)
	})
	r := newRegistry(t, opts)
	t.Cleanup(srv.Close)
	r.Set(web, ready(srv.Addr))
	return r.Pool(web), srv
}

// request reads up to the next request head.
func (p *peer) request() (uint32, bool) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return 0, false
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			return h.StreamID, true
		}
	}
}

// until reads up to a frame of the given kind.
func (p *peer) until(kind http2.FrameType) http2.Frame {
	for {
		f, err := p.ReadFrame()
		if err != nil || f.Header().Type == kind {
			return f
		}
	}
}

// head sends a response head; fields are pairs.
func (p *peer) head(id uint32, end bool, fields ...string) {
	p.enc.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.hp.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.enc.Bytes(), EndHeaders: true, EndStream: end})
}

// ok answers every request.
func (p *peer) ok() {
	for {
		id, more := p.request()
		if !more {
			return
		}
		p.head(id, false, ":status", "200")
		_ = p.WriteData(id, true, []byte("ok"))
	}
}

func TestCancelResetsTheStream(t *testing.T) {
	code := make(chan http2.ErrCode, 1)
	p, _ := frames(t, Options{}, nil, func(p *peer) {
		id, _ := p.request()
		p.head(id, false, ":status", "200")
		if f, ok := p.until(http2.FrameRSTStream).(*http2.RSTStreamFrame); ok {
			code <- f.ErrCode
		}
		p.ok()
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := p.Do(ctx, onH2(simple()))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(resp); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	resp.Close()
	if got := <-code; got != http2.ErrCodeCancel {
		t.Errorf("%v", got)
	}
	if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil { // on the same connection
		t.Errorf("%q, %v", got, err)
	}
}

// TestRefusedStreams: what was refused has not been looked at, so it is sent
// again whatever its method; what was not refused may have been done.
func TestRefusedStreams(t *testing.T) {
	refuse := func(p *peer, id uint32) { _ = p.WriteRSTStream(id, http2.ErrCodeRefusedStream) }
	for name, tc := range map[string]struct {
		first func(*peer, uint32)
		req   *Request
		again bool
	}{
		"refused":              {refuse, simple(), true},
		"refused POST":         {refuse, &Request{Method: "POST", Target: "/", Host: "h"}, true},
		"refused with a body":  {refuse, post("hello", 5), true},
		"GOAWAY before it":     {func(p *peer, id uint32) { _ = p.WriteGoAway(id-1, http2.ErrCodeNo, nil) }, &Request{Method: "POST", Target: "/", Host: "h"}, true},
		"connection lost":      {func(p *peer, _ uint32) { p.c.Close() }, simple(), true},
		"connection lost POST": {func(p *peer, _ uint32) { p.c.Close() }, &Request{Method: "POST", Target: "/", Host: "h"}, false},
		"reset": {func(p *peer, id uint32) { _ = p.WriteRSTStream(id, http2.ErrCodeInternal) },
			simple(), false},
		"half a response": {func(p *peer, id uint32) { p.head(id, false, ":status", "103"); p.c.Close() }, simple(), false},
	} {
		t.Run(name, func(t *testing.T) {
			var once sync.Once
			p, _ := frames(t, Options{}, nil, func(p *peer) {
				id, ok := p.request()
				first := false
				once.Do(func() { first = ok })
				if !first && ok {
					p.head(id, false, ":status", "200")
					_ = p.WriteData(id, true, []byte("ok"))
				} else if ok {
					tc.first(p, id)
				}
				p.ok()
			})
			got, err := get(t, p, onH2(tc.req))
			if again := got == "ok" && err == nil; again != tc.again {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
}

// TestAlwaysRefused: a backend that refuses for ever is an error, not asked for
// ever.
func TestAlwaysRefused(t *testing.T) {
	p, _ := frames(t, Options{}, nil, func(p *peer) {
		for {
			id, more := p.request()
			if !more {
				return
			}
			_ = p.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		}
	})
	var e *Error
	if _, err := p.Do(t.Context(), onH2(simple())); !errors.As(err, &e) || e.Kind != Broken {
		t.Errorf("%v", err)
	}
}

// TestGracefulGoAway: what is under way ends, what comes next gets a new
// connection, and the old one closes.
func TestGracefulGoAway(t *testing.T) {
	closed := make(chan struct{})
	p, srv := frames(t, Options{}, nil, func(p *peer) {
		if p.c.Number > 0 {
			p.ok()
			return
		}
		id, _ := p.request()
		_ = p.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
		_ = p.WriteGoAway(id, http2.ErrCodeNo, nil)
		p.head(id, false, ":status", "200")
		_ = p.WritePing(false, [8]byte{1})
		p.until(http2.FramePing)
		_ = p.WriteData(id, true, []byte("last"))
		for {
			if _, err := p.ReadFrame(); err != nil {
				close(closed)
				return
			}
		}
	})
	resp, err := p.Do(t.Context(), onH2(simple()))
	if err != nil {
		t.Fatal(err)
	}
	got := drain(t, resp)
	resp.Close()
	<-closed
	if next, err := get(t, p, onH2(simple())); got != "last" || next != "ok" || err != nil || srv.Conns() != 2 {
		t.Errorf("%q, then %q, %v on %d connections", got, next, err, srv.Conns())
	}
}

// TestStreamLimit: a backend that takes one request at a time gets as many
// connections.
func TestStreamLimit(t *testing.T) {
	var together sync.WaitGroup
	together.Add(3)
	p, srv := frames(t, Options{}, []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}, func(p *peer) {
		for {
			id, more := p.request()
			if !more {
				return
			}
			together.Done()
			together.Wait()
			p.head(id, false, ":status", "200")
			_ = p.WriteData(id, true, []byte("ok"))
		}
	})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if srv.Conns() != 3 {
		t.Errorf("%d connections", srv.Conns())
	}
}

// TestUploadsRespectWindows: no byte more than the backend has room for.
// TestSessionLimit: a backend that takes one request at a time gets as many
// connections as are bearable; the rest wait for those, in line. Who waits too
// long goes elsewhere, and the endpoint is not thought to be broken.
func TestSessionLimit(t *testing.T) {
	release := make(chan struct{})
	var begun atomic.Int64
	p, srv := frames(t, Options{EjectAfter: 1}, []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}, func(p *peer) {
		for {
			id, more := p.request()
			if !more {
				return
			}
			begun.Add(1)
			<-release
			p.head(id, false, ":status", "200")
			_ = p.WriteData(id, true, []byte("ok"))
		}
	})
	const all = maxSessions + 100
	results := make(chan error, all)
	for range all {
		go func() {
			got, err := get(t, p, onH2(simple()))
			if err == nil && got != "ok" {
				err = errors.New(got)
			}
			results <- err
		}()
	}
	a := p.live.Load().targets[0].addr
	l := a.lane(&way{protocol: policy.GRPC}, nil)
	for begun.Load() != maxSessions || l.seeking.Load() != all-maxSessions {
		runtime.Gosched()
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.stream(impatient, simple()); err == nil || err.Kind != Canceled {
		t.Errorf("cancelled: %v", err)
	}
	past := make(chan time.Time)
	close(past)
	if _, err := l.listen(t.Context(), l.join(false), past); err == nil || err.Kind != Overloaded || !err.dialing {
		t.Errorf("too long: %v", err)
	}
	close(release)
	for range all {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if srv.Conns() != maxSessions || l.seeking.Load() != 0 || a.down() || p.reg.Stats().Overloaded != 1 {
		t.Errorf("%d connections, %d in line, down: %t, %+v", srv.Conns(), l.seeking.Load(), a.down(), p.reg.Stats())
	}
}

// TestSessionsEndAtOnce: a backend that ends each connection as soon as it is
// made is given up.
func TestSessionsEndAtOnce(t *testing.T) {
	p, srv := frames(t, Options{}, nil, func(p *peer) { _ = p.WriteGoAway(0, http2.ErrCodeNo, nil); p.until(http2.FrameGoAway) })
	_, err := p.Do(t.Context(), onH2(simple()))
	var e *Error
	if !errors.As(err, &e) || e.Kind != Broken && e.Kind != Unreachable || srv.Conns() > 2*maxDials {
		t.Errorf("%v, %d connections", err, srv.Conns())
	}
}

// TestImpatientClientEndsNoSession: who leaves while a name is looked up takes
// nothing from the others.
func TestImpatientClientEndsNoSession(t *testing.T) {
	p, _ := frames(t, Options{}, nil, (*peer).ok)
	if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	a := p.live.Load().targets[0].addr
	a.key.host = "web.example" // as if it had been found by a name
	l := a.lane(&way{protocol: policy.GRPC}, nil)
	a.mu.Lock()
	s := l.sessions[0]
	a.mu.Unlock()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if c := s.begin(gone, simple()); c != nil {
		t.Error("a stream was begun")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		t.Error("the session leaves")
	}
}

func TestUploadsRespectWindows(t *testing.T) {
	const window = 1000
	over := make(chan int, 1)
	p, _ := frames(t, Options{}, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: window}}, func(p *peer) {
		id, _ := p.request()
		room, total := window, 0
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			d, ok := f.(*http2.DataFrame)
			if !ok {
				continue
			}
			if room -= len(d.Data()); room < 0 {
				over <- -room
			}
			total += len(d.Data())
			if d.StreamEnded() {
				p.head(id, false, ":status", "200")
				_ = p.WriteData(id, true, fmt.Append(nil, total))
				return
			}
			if room == 0 {
				room = window
				_ = p.WriteWindowUpdate(id, window)
			}
		}
	})
	if got, err := get(t, p, onH2(post(strings.Repeat("x", 50_000), -1))); got != "50000" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	select {
	case n := <-over:
		t.Errorf("%d bytes more than the window", n)
	default:
	}
}

// TestStreamTimeouts: a backend that says nothing, and one that stops.
func TestStreamTimeouts(t *testing.T) {
	p, _ := frames(t, Options{Timeouts: Timeouts{Head: 50 * time.Millisecond, Stall: 50 * time.Millisecond}}, nil, func(p *peer) {
		id, _ := p.request()
		_, _ = p.request()
		p.head(id+2, false, ":status", "200")
		p.ok()
	})
	_, err := p.Do(t.Context(), onH2(simple()))
	var e *Error
	if !errors.As(err, &e) || e.Kind != Timeout {
		t.Errorf("a silent backend: %v", err)
	}
	resp, err := p.Do(t.Context(), onH2(simple()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if _, err := io.ReadAll(resp); !isTimeout(err) {
		t.Errorf("a backend that stops: %v", err)
	}
}

// TestFailedBodyResetsTheStream: the backend must not take a part for the
// whole.
func TestFailedBodyResetsTheStream(t *testing.T) {
	ended := make(chan http2.Frame, 1)
	p, _ := frames(t, Options{}, nil, func(p *peer) {
		p.request()
		ended <- p.until(http2.FrameRSTStream)
		p.ok()
	})
	pr, pw := io.Pipe()
	go func() { _, _ = io.WriteString(pw, "part"); pw.CloseWithError(errors.New("the client is gone")) }()
	_, err := p.Do(t.Context(), onH2(&Request{Method: "POST", Target: "/", Host: "h", Length: -1, Body: pipeBody{pr}}))
	var e *Error
	if !errors.As(err, &e) || e.Kind != BodyFailed {
		t.Errorf("%v", err)
	}
	if f, ok := (<-ended).(*http2.RSTStreamFrame); !ok || f.ErrCode != http2.ErrCodeCancel {
		t.Errorf("%v", f)
	}
}

// TestHostileStreams: whatever a backend sends, the client sees a failure and
// no false response, and the next request is right.
func TestHostileStreams(t *testing.T) {
	raw := func(s string) func(*peer, uint32) {
		return func(p *peer, _ uint32) { _ = p.c.Send(s) }
	}
	reply := func(fields ...string) func(*peer, uint32) {
		return func(p *peer, id uint32) { p.head(id, true, fields...) }
	}
	body := func(length, body string, end bool) func(*peer, uint32) {
		return func(p *peer, id uint32) {
			p.head(id, false, ":status", "200", "content-length", length)
			_ = p.WriteData(id, end, []byte(body))
			if !end {
				p.c.Close()
			}
		}
	}
	for name, play := range map[string]func(*peer, uint32){
		"no status":             reply("x-a", "b"),
		"two statuses":          reply(":status", "200", ":status", "200"),
		"bad status":            reply(":status", "2x0"),
		"status of four digits": reply(":status", "2000"),
		"101":                   reply(":status", "101"),
		"request pseudo-field":  reply(":status", "200", ":path", "/"),
		"upper case":            reply(":status", "200", "X-A", "b"),
		"line feed in a value":  reply(":status", "200", "x-a", "b\r\nset-cookie: c"),
		"connection field":      reply(":status", "200", "connection", "close"),
		"transfer-encoding":     reply(":status", "200", "transfer-encoding", "chunked"),
		"two lengths":           reply(":status", "200", "content-length", "1", "content-length", "2"),
		"length without a body": reply(":status", "200", "content-length", "5"),
		"1xx that ends":         reply(":status", "103"),
		"body too short":        body("10", "short", true),
		"body too long":         body("3", "too long", true),
		"body cut":              body("10", "cut", false),
		"DATA before the head":  func(p *peer, id uint32) { _ = p.WriteData(id, false, []byte("x")) },
		"HEADERS on stream 99":  func(p *peer, _ uint32) { p.head(99, true, ":status", "200") },
		"HEADERS on stream 2":   func(p *peer, _ uint32) { p.head(2, true, ":status", "200") },
		"RST of an idle stream": func(p *peer, _ uint32) { _ = p.WriteRSTStream(77, http2.ErrCodeCancel) },
		"PUSH_PROMISE": func(p *peer, id uint32) {
			_ = p.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true})
		},
		"window of zero":         raw("\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"window too large":       raw("\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff"),
		"frame too large":        raw("\xff\xff\xff\x00\x00\x00\x00\x00\x01"),
		"MAX_FRAME_SIZE 0":       raw("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00"),
		"INITIAL_WINDOW too big": raw("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff"),
		"SETTINGS of 5 bytes":    raw("\x00\x00\x05\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00"),
		"HTTP/1.1":               raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
		"broken HPACK":           raw("\x00\x00\x02\x01\x05\x00\x00\x00\x01\xff\xff"),
		"half a frame":           func(p *peer, _ uint32) { _ = p.c.Send("\x00\x00\x10\x01\x04\x00\x00\x00\x01abc"); p.c.Close() },
		"informational for ever": func(p *peer, id uint32) {
			for range 2 * maxInformational {
				p.head(id, false, ":status", "103")
			}
		},
		"CONTINUATION for ever": func(p *peer, id uint32) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x88}})
			for range 1000 {
				if p.WriteContinuation(id, false, []byte("\x00\x01a\x01b")) != nil {
					return
				}
			}
		},
		"PING for ever": func(p *peer, _ uint32) {
			for range 5000 {
				if p.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		},
		"head too large": func(p *peer, id uint32) {
			fields := []string{":status", "200"}
			for i := range 20 {
				fields = append(fields, fmt.Sprintf("x-%d", i), strings.Repeat("v", 700))
			}
			p.head(id, true, append(fields, fields[2:]...)...)
			p.head(id, true, append(fields, fields[2:]...)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			limits := wire.DefaultLimits
			if name == "head too large" {
				limits.Head = 8 << 10
			}
			var once sync.Once
			p, _ := frames(t, Options{Limits: limits}, nil, func(p *peer) {
				hostile := false
				once.Do(func() { hostile = true })
				if !hostile {
					p.ok()
					return
				}
				if id, ok := p.request(); ok {
					play(p, id)
					p.ok() // if the connection is still good
				}
			})
			req := post("hello", 5) // that is never sent twice
			if got, err := get(t, p, onH2(req)); err == nil {
				t.Errorf("a response: %q", got)
			}
			for range 2 { // the second on the connection of the first
				if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
					t.Errorf("afterwards: %q, %v", got, err)
				}
			}
		})
	}
}

// TestNoHTTP2: backends that do not speak it are unreachable, not waited for.
func TestNoHTTP2(t *testing.T) {
	for name, play := range map[string]func(*backend.Conn){
		"HTTP/1.1": backend.Always("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
		"silence":  func(c *backend.Conn) { c.Wait() },
		"end":      func(c *backend.Conn) {},
		"no streams": func(c *backend.Conn) {
			_ = c.Send("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00")
			c.Wait()
		},
		"other settings": func(c *backend.Conn) { _ = c.Send("\x00\x00\x00\x04\x01\x00\x00\x00\x00"); c.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			srv := backend.Serve(t, play)
			r := newRegistry(t, Options{Timeouts: Timeouts{Connect: 200 * time.Millisecond}})
			defer srv.Close()
			r.Set(web, ready(srv.Addr))
			_, err := r.Pool(web).Do(t.Context(), onH2(simple()))
			var e *Error
			if !errors.As(err, &e) || e.Kind != Unreachable && e.Kind != Timeout {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestSilentTLS: a backend that takes connections and never shakes hands costs no
// request while there is another, and is no fault of the client.
func TestSilentTLS(t *testing.T) {
	silent := backend.Serve(t, func(c *backend.Conn) { c.Wait() })
	cert, key := testcert.New(t).Leaf("web.shop.svc")
	good := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}}, whoami)
	for name, tc := range map[string]struct {
		state *State
		want  string
	}{
		"alone":        {ready(silent.Addr), ""},
		"with another": {ready(silent.Addr, good), "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, Options{Timeouts: Timeouts{Connect: 200 * time.Millisecond}})
			r.Set(web, tc.state)
			for range 4 {
				req := simple()
				req.Backend.Protocol = policy.GRPCS
				got, err := get(t, r.Pool(web), req)
				var e *Error
				if tc.want == "" && (!errors.As(err, &e) || e.Kind != Timeout) || tc.want != "" && (err != nil || !strings.HasPrefix(got, tc.want)) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// TestSessionsClose: with the endpoint, and when nobody has used them for a
// while.
func TestSessionsClose(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		end  func(*Registry)
	}{
		"endpoint gone": {Options{}, func(r *Registry) { r.Set(web, ready()) }},
		"registry":      {Options{}, (*Registry).Close},
		"unused":        {Options{Timeouts: Timeouts{KeepAlive: 20 * time.Millisecond}}, func(*Registry) {}},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(chan bool, 1)
			p, _ := frames(t, tc.opts, nil, func(p *peer) {
				id, _ := p.request()
				p.head(id, false, ":status", "200")
				_ = p.WriteData(id, true, []byte("ok"))
				f := p.until(http2.FrameGoAway)
				_, err := p.ReadFrame()
				said <- f != nil && err != nil
			})
			if got, err := get(t, p, onH2(simple())); got != "ok" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			tc.end(p.reg)
			if !<-said {
				t.Error("no GOAWAY, or no end behind it")
			}
		})
	}
}

// tlsBackend serves HTTP/1.1 and HTTP/2 over TLS.
func tlsBackend(t testing.TB, config *tls.Config, serve http.HandlerFunc) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: serve, ErrorLog: quiet, TLSConfig: config}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.ServeTLS(ln, "", "") })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}
