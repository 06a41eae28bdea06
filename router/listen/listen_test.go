package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every line with the peer and the line, and ends idle
// connections when a drain begins.
type echo struct{ draining <-chan struct{} }

func (e echo) ServeConn(ctx context.Context, c net.Conn, info *view.Conn, over func()) {
	defer over()
	sni := "plain"
	if info.TLS != nil {
		sni = fmt.Sprintf("%s %s %v", info.TLS.ServerName, info.TLS.Protocol, info.TLS.Covers("a.example"))
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	draining := e.draining
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			if strings.HasPrefix(line, "hold") { // a request in flight that outlasts the drain
				draining = nil
			}
			fmt.Fprintf(c, "%s|%s|%s", info.Peer.Addr(), sni, line)
			if strings.HasPrefix(line, "bye") {
				_ = c.Close()
			}
		case <-draining:
			_ = c.Close()
			for range lines {
			}
			return
		case <-ctx.Done():
			_ = c.Close()
			for range lines {
			}
			return
		}
	}
}

type running struct {
	*Server
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, opts Options) *running {
	t.Helper()
	opts.Draining = make(chan struct{})
	if opts.Log.GetSink() == nil {
		opts.Log = logr.Discard()
	}
	if opts.Handler == nil {
		opts.Handler = echo{opts.Draining}
	}
	if opts.Listeners == nil {
		opts.Listeners = []Listener{{Socket: socket(t)}}
	}
	s := New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func socket(t *testing.T) net.Listener {
	t.Helper()
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (r *running) addr() string { return Addr(r.opts.Listeners[0].Socket).String() }

func dial(t *testing.T, r *running) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

func ask(t *testing.T, c io.Writer, r *bufio.Reader, line string) string {
	t.Helper()
	fmt.Fprint(c, line+"\n")
	answer, err := r.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(answer)
}

func TestPlain(t *testing.T) {
	c, r := dial(t, start(t, Options{}))
	if got := ask(t, c, r, "hello"); got != "127.0.0.1|plain|hello" {
		t.Errorf("got %q", got)
	}
}

func TestTLS(t *testing.T) {
	ca := testcert.New(t)
	certPEM, keyPEM := ca.Leaf("a.example")
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: &TLS{
		Config: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}},
		Covers: func(name string) (string, func(string) bool) {
			return strings.ToLower(name), func(host string) bool { return host == "a.example" }
		},
	}}}})
	c, err := tls.Dial("tcp", s.addr(), &tls.Config{ServerName: "A.example", RootCAs: ca.Pool(), NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := ask(t, c, bufio.NewReader(c), "hello"); got != "127.0.0.1|a.example h2 true|hello" {
		t.Errorf("got %q", got)
	}
}

func TestProxyProtocol(t *testing.T) {
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x09\xc0\x00\x02\x01\x30\x39\x00\x50"
	local := "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	from := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for name, tc := range map[string]struct {
		from   []netip.Prefix
		header string
		want   string
	}{
		"version 1":      {from, "PROXY TCP4 192.0.2.7 192.0.2.1 12345 80\r\n", "192.0.2.7|plain|hello"},
		"version 1, v6":  {from, "PROXY TCP6 2001:db8::7 2001:db8::1 12345 80\r\n", "2001:db8::7|plain|hello"},
		"version 2":      {from, v2, "192.0.2.9|plain|hello"},
		"local":          {from, local, "127.0.0.1|plain|hello"},
		"none":           {from, "", "EOF"},
		"malformed":      {from, "PROXY TCP4 nonsense\r\n", "EOF"},
		"not allowed":    {nil, "PROXY TCP4 192.0.2.7 192.0.2.1 12345 80\r\n", "127.0.0.1|plain|PROXY TCP4 192.0.2.7 192.0.2.1 12345 80"},
		"not this range": {[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "PROXY TCP4 192.0.2.7 192.0.2.1 12345 80\r\n", "127.0.0.1|plain|PROXY TCP4 192.0.2.7 192.0.2.1 12345 80"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{ProxyProtocolFrom: tc.from})
			c, r := dial(t, s)
			fmt.Fprint(c, tc.header)
			got := ask(t, c, r, "hello")
			if strings.Contains(got, "reset") {
				got = "EOF" // unread bytes turn the close into a reset
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if failed := s.Stats().FailedHeaders; failed != 0 != (tc.want == "EOF") {
				t.Errorf("%d headers have failed", failed)
			}
		})
	}
}

// TestHandshakeTimeout: peers that stop in the middle of the handshake go away.
func TestHandshakeTimeout(t *testing.T) {
	s := start(t, Options{HandshakeTimeout: 20 * time.Millisecond, Listeners: []Listener{{Socket: socket(t), TLS: &TLS{Config: &tls.Config{}}}}})
	c, r := dial(t, s)
	fmt.Fprint(c, "\x16\x03\x01")
	if _, err := r.ReadByte(); err == nil {
		t.Error("the server answered half a ClientHello")
	}
}

// TestPlaintextWhereTLSIsSpoken: who speaks HTTP is told so, who speaks anything
// else is not.
func TestPlaintextWhereTLSIsSpoken(t *testing.T) {
	s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: &TLS{Config: &tls.Config{}}}}})
	for sent, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n": "HTTP/1.1 400 Bad Request\r\n",
		"SSH-2.0-OpenSSH_9.2\r\n":           "",
	} {
		c, r := dial(t, s)
		fmt.Fprint(c, sent)
		if got, _ := io.ReadAll(r); !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
			t.Errorf("%q is answered %q", sent, got)
		}
	}
	if n := s.Stats().FailedHandshakes; n != 2 {
		t.Errorf("%d handshakes have failed", n)
	}
}

// TestPanicCostsOneConnection: a handshake that panics ends its connection, and
// the next one is served.
func TestPanicCostsOneConnection(t *testing.T) {
	var later atomic.Bool
	s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: &TLS{Config: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if !later.Swap(true) {
				panic("a bug")
			}
			return nil, errors.New("refused")
		},
	}}}}})
	for _, want := range []string{"EOF", "internal error"} {
		if _, err := tls.Dial("tcp", s.addr(), &tls.Config{InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestMaxConns: a connection beyond the limit is closed at once, whichever listener
// it comes by, others are served on, and the next one is served when one has left.
func TestMaxConns(t *testing.T) {
	other := socket(t)
	s := start(t, Options{MaxConns: 2, Listeners: []Listener{{Socket: socket(t)}, {Socket: other}}})
	first, firstR := dial(t, s)
	second, secondR := dial(t, s)
	ask(t, first, firstR, "hello")
	ask(t, second, secondR, "hello")
	for i, addr := range []string{s.addr(), Addr(other).String()} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection too many ended with %v", err)
		}
		if got, want := s.Stats(), (Stats{Open: 2, Limit: 2, Refused: int64(i + 1)}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	}
	if got := ask(t, first, firstR, "still here"); got != "127.0.0.1|plain|still here" {
		t.Errorf("a connection within the limit: %q", got)
	}
	ask(t, first, firstR, "bye")
	if _, err := firstR.ReadByte(); err != io.EOF {
		t.Fatal(err)
	}
	for got := ""; got != "127.0.0.1|plain|hello"; { // the server notices a moment later that one has left
		if t.Context().Err() != nil {
			t.Fatalf("not served although one has left: %q", got)
		}
		c, r := dial(t, s)
		got = ask(t, c, r, "hello")
	}
}

// TestMaxConnsIsTold: the log says that connections are refused and what to do, and
// does not say it for each of them.
func TestMaxConnsIsTold(t *testing.T) {
	told := make(chan string, 100)
	log := funcr.New(func(_, line string) { told <- line }, funcr.Options{})
	s := start(t, Options{MaxConns: 1, Log: log})
	c, r := dial(t, s)
	ask(t, c, r, "hold")
	for range 20 {
		_, r := dial(t, s)
		if _, err := r.ReadByte(); err != io.EOF {
			t.Fatal(err)
		}
	}
	if cut := drainNow(s); cut != 1 {
		t.Errorf("%d connections were cut, want 1", cut)
	}
	close(told)
	lines := 0
	for line := range told {
		lines++
		if !strings.Contains(line, "--max-connections allows; raise it") {
			t.Errorf("no way out in %s", line)
		}
	}
	if lines != 1 {
		t.Errorf("told %d times of 20 refused connections, want once", lines)
	}
}

// TestFull: where memory has run out a new connection is closed at once, and told of.
func TestFull(t *testing.T) {
	var full atomic.Bool
	told := make(chan string, 10)
	s := start(t, Options{Full: full.Load, Log: funcr.New(func(_, line string) { told <- line }, funcr.Options{})})
	c, r := dial(t, s)
	ask(t, c, r, "hold")
	full.Store(true)
	_, refused := dial(t, s)
	if _, err := refused.ReadByte(); err != io.EOF {
		t.Error(err)
	}
	if line := <-told; !strings.Contains(line, "GOMEMLIMIT") {
		t.Errorf("no way out in %s", line)
	}
	if got := ask(t, c, r, "still here"); !strings.HasSuffix(got, "still here") {
		t.Errorf("a connection that is there: %q", got)
	}
	full.Store(false)
	c, r = dial(t, s)
	if got := ask(t, c, r, "hello"); !strings.HasSuffix(got, "hello") {
		t.Errorf("a connection when there is memory again: %q", got)
	}
}

// drainNow ends the server and cuts what is open.
func drainNow(s *running) (cut int) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Drain(ctx)
}

// TestDrainAtTheLimit: a drain is over when those within the limit have left; who
// comes during its last call and is one too many does not hold it up.
func TestDrainAtTheLimit(t *testing.T) {
	s := start(t, Options{MaxConns: 1})
	busy, busyR := dial(t, s)
	ask(t, busy, busyR, "hold")
	drained := make(chan int, 1)
	go func() { drained <- s.Drain(context.Background()) }()
	<-s.opts.Draining
	for { // refused until the socket is closed
		c, err := net.Dial("tcp", s.addr())
		if err != nil {
			break
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection too many got %d bytes, %v", n, err)
		}
		_ = c.Close()
	}
	leaves(t, busy, busyR, drained)
}

func TestRoom(t *testing.T) {
	for descriptors, want := range map[uint64]int{0: 1, 65: 1, 256: 96, 1024: 480, 1 << 20: 524_256, math.MaxUint64: 1<<29 - 32} {
		if got := room(descriptors); got != want {
			t.Errorf("room(%d) is %d, want %d", descriptors, got, want)
		}
	}
	if n, err := Room(); err != nil || n < 1 {
		t.Errorf("Room() is %d, %v", n, err)
	}
}

// leaves has a busy connection end by itself while the server drains.
func leaves(t *testing.T, busy net.Conn, r *bufio.Reader, drained <-chan int) {
	t.Helper()
	if got := ask(t, busy, r, "still here"); got != "127.0.0.1|plain|still here" {
		t.Errorf("the busy connection was cut: %q", got)
	}
	ask(t, busy, r, "bye")
	if cut := <-drained; cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
}

func TestDrainCutsNothing(t *testing.T) {
	s := start(t, Options{})
	idle, idleR := dial(t, s)
	busy, busyR := dial(t, s)
	ask(t, idle, idleR, "hello")
	ask(t, busy, busyR, "hold")
	drained := make(chan int, 1)
	go func() { drained <- s.Drain(context.Background()) }()
	if _, err := idleR.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection ended with %v", err)
	}
	for { // the sockets close a moment after the drain began
		c, err := net.Dial("tcp", s.addr())
		if err != nil {
			break
		}
		_ = c.Close()
	}
	leaves(t, busy, busyR, drained)
}

// TestDrainServesWhoWaits: connections that nobody has accepted when a drain
// begins are not reset.
func TestDrainServesWhoWaits(t *testing.T) {
	const late = 100
	r := &running{Server: New(Options{Listeners: []Listener{{Socket: socket(t)}}, Handler: echo{}, Log: logr.Discard()})}
	answers := make(chan string, late)
	for range late {
		c, lines := dial(t, r) // established by the kernel: nobody accepts yet
		go func() {
			answers <- ask(t, c, lines, "late")
			_ = c.Close()
		}()
	}
	served := make(chan error, 1)
	go func() { served <- r.Serve(t.Context()) }()
	first := <-answers // so it accepts
	drained := make(chan int, 1)
	go func() { drained <- r.Drain(t.Context()) }()
	for got, n := first, 1; ; n++ {
		if got != "127.0.0.1|plain|late" {
			t.Errorf("%q", got)
		}
		if n == late {
			break
		}
		got = <-answers
	}
	if cut, err := <-drained, <-served; cut != 0 || err != nil {
		t.Errorf("%d were cut, %v", cut, err)
	}
	if c, err := net.Dial("tcp", r.addr()); err == nil {
		c.Close()
		t.Error("it accepts still")
	}
}

// leaver returns before its connections are over.
type leaver chan func()

func (l leaver) ServeConn(_ context.Context, _ net.Conn, _ *view.Conn, over func()) { l <- over }

// TestHandlerReturnsFirst: a connection lives until its handler calls it over, and
// a drain waits for that.
func TestHandlerReturnsFirst(t *testing.T) {
	ca := testcert.New(t)
	cert, err := tls.X509KeyPair(ca.Leaf("a.example"))
	if err != nil {
		t.Fatal(err)
	}
	secure := &TLS{Config: &tls.Config{Certificates: []tls.Certificate{cert}}, Covers: func(name string) (string, func(string) bool) { return name, nil }}
	for name, dial := range map[string]func(addr string) (net.Conn, error){
		"plain": func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) },
		"TLS": func(addr string) (net.Conn, error) {
			return tls.Dial("tcp", addr, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()})
		},
	} {
		l := Listener{Socket: socket(t)}
		if name == "TLS" {
			l.TLS = secure
		}
		handler := make(leaver, 1)
		s := New(Options{Listeners: []Listener{l}, Handler: handler, Log: logr.Discard()})
		served, drained := make(chan error, 1), make(chan int, 1)
		go func() { served <- s.Serve(t.Context()) }()
		c, err := dial(Addr(l.Socket).String())
		if err != nil {
			t.Fatal(name, err)
		}
		over := <-handler
		go func() { drained <- s.Drain(t.Context()) }()
		<-s.opts.Draining
		if n := s.Stats().Open; n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
		over()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the connection ended with %v", name, err)
		}
		if cut, err, n := <-drained, <-served, s.Stats().Open; cut != 0 || err != nil || n != 0 {
			t.Errorf("%s: %d were cut, %d are left, %v", name, cut, n, err)
		}
		_ = c.Close()
	}
}

func TestDrainDeadline(t *testing.T) {
	s := start(t, Options{})
	busy, busyR := dial(t, s)
	ask(t, busy, busyR, "hold")
	if cut := drainNow(s); cut != 1 {
		t.Errorf("%d connections were cut, want 1", cut)
	}
	if _, err := busyR.ReadByte(); err == nil {
		t.Error("the connection is still open")
	}
}

func TestListenNamesTheAddress(t *testing.T) {
	ln := socket(t)
	defer ln.Close()
	addr := Addr(ln).String()
	if _, err := Listen(addr); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v does not name the address", err)
	}
}
