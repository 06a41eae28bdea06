// Package load is a steady load that never retries: every request is sent once,
// and each failure is kept with the phase in which it happened. It is how "no
// request is dropped" is measured.
//
// The clients of net/http are of no use for that: they send a request again on
// another connection when the first one breaks.
package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Phase is how far a request had come when it failed.
type Phase string

// The phases of a request.
const (
	Dial      Phase = "dial"       // no connection, or no handshake
	Write     Phase = "write"      // the request could not be written
	FirstByte Phase = "first byte" // no byte of the response came
	Mid       Phase = "mid-stream" // the response did not come to its end
	Status    Phase = "status"     // the response was not 2xx
)

// unsent is no failure: the server had asked to end the connection before the
// request began, so it goes over a new one, for the first time.
const unsent Phase = "unsent"

// Failure is one request that was not answered as it should have been.
type Failure struct {
	At     time.Time
	Client string // "h1 3"
	Method string
	Phase  Phase
	Err    string
}

// String returns one line.
func (f Failure) String() string {
	return fmt.Sprintf("%s %s %s: %s: %s", f.At.UTC().Format("15:04:05.000"), f.Client, f.Method, f.Phase, f.Err)
}

// Options say what is sent where.
type Options struct {
	// Addr is where connections go, whatever the host is called.
	Addr string
	// Host is sent as Host and as server name.
	Host string
	// TLS is nil for plaintext; h2 needs it.
	TLS *tls.Config
	// H1 and H2 are the number of connections of each protocol, each with one
	// request at a time; WebSockets is the number of open WebSockets at Echo,
	// GRPC that of open gRPC streams at Stream.
	H1, H2, WebSockets, GRPC int
	// Path of the requests. Default: "/".
	Path string
	// Echo is the path of a WebSocket that sends back what it gets.
	Echo string
	// Stream is the path of a gRPC method that sends back each message as it
	// comes.
	Stream string
	// Post makes every n-th request a POST with a body of its own that the
	// backend must get once; 0: none.
	Post int
	// Pace is the pause between two requests of one connection. Default: 10 ms.
	Pace time.Duration
	// Timeout bounds one request. Default: 10 s.
	Timeout time.Duration
	// Dial connects; nil: net.Dialer. Tests that run in another network
	// namespace give their own.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

func (o *Options) setDefaults() {
	if o.Path == "" {
		o.Path = "/"
	}
	if o.Pace == 0 {
		o.Pace = 10 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
}

// Result is what became of the requests.
type Result struct {
	Sent        int
	Answered    int
	Connections int // that were opened
	Failures    []Failure
}

// Lost is the number of requests without the answer that they should have had.
func (r *Result) Lost() int { return len(r.Failures) }

// String sums up in one line, and lists at most twenty failures.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sent %d, answered %d, lost %d, over %d connections", r.Sent, r.Answered, r.Lost(), r.Connections)
	phases := map[string]int{}
	for _, f := range r.Failures {
		phases[f.Method+" "+string(f.Phase)]++
	}
	for _, p := range slices.Sorted(maps.Keys(phases)) {
		fmt.Fprintf(&b, "; %s: %d", p, phases[p])
	}
	for _, f := range r.Failures[:min(len(r.Failures), 20)] {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}

// recorder gathers what the clients report. Safe for concurrent use.
type recorder struct {
	mu     sync.Mutex // protects the following
	result Result
}

func (r *recorder) sent() { r.add(func(x *Result) { x.Sent++ }) }

func (r *recorder) answered() { r.add(func(x *Result) { x.Answered++ }) }

func (r *recorder) connected() { r.add(func(x *Result) { x.Connections++ }) }

func (r *recorder) failed(f Failure) {
	f.At = time.Now()
	r.add(func(x *Result) { x.Failures = append(x.Failures, f) })
}

func (r *recorder) add(f func(*Result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.result)
}

// Run sends until ctx ends. A request that is under way then is finished, not
// counted as lost.
func Run(ctx context.Context, opts Options) *Result {
	opts.setDefaults()
	var rec recorder
	var wg sync.WaitGroup
	for name, n := range map[string]int{"h1": opts.H1, "h2": opts.H2, "ws": opts.WebSockets, "grpc": opts.GRPC} {
		for i := range n {
			c := &worker{opts: &opts, rec: &rec, name: fmt.Sprintf("%s %d", name, i), number: i}
			wg.Go(func() { c.run(ctx, name) })
		}
	}
	wg.Wait()
	return &rec.result
}

// worker is one connection at a time.
type worker struct {
	opts   *Options
	rec    *recorder
	name   string
	number int
	count  int
}

// session is one connection of some protocol.
type session interface {
	// do sends one request and reads its answer. usable is false when the
	// connection must not take another one.
	do(ctx context.Context, method, body string) (usable bool, phase Phase, err error)
	close()
}

func (w *worker) run(ctx context.Context, protocol string) {
	var s session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for ctx.Err() == nil {
		if s = w.once(protocol, s); !pause(ctx, w.opts.Pace) {
			return
		}
	}
}

// once sends one request, over a new connection if there is none.
func (w *worker) once(protocol string, s session) session {
	// Not the context of the run: what has begun is finished.
	ctx, cancel := context.WithTimeout(context.Background(), w.opts.Timeout)
	defer cancel()
	method, body := "GET", ""
	if w.count++; w.opts.Post > 0 && protocol != "ws" && protocol != "grpc" && w.count%w.opts.Post == 0 {
		method, body = "POST", fmt.Sprintf("%s-%d-%d", w.name, w.count, time.Now().UnixNano())
	}
	w.rec.sent()
	s, phase, err := w.send(ctx, protocol, s, method, body)
	if phase == unsent {
		s, phase, err = w.send(ctx, protocol, nil, method, body)
	}
	if err != nil {
		w.rec.failed(Failure{Client: w.name, Method: method, Phase: phase, Err: err.Error()})
	} else {
		w.rec.answered()
	}
	return s
}

// send sends over s, or over a new connection if that is nil, and returns the
// connection if it is good for another request.
func (w *worker) send(ctx context.Context, protocol string, s session, method, body string) (session, Phase, error) {
	if s == nil {
		var err error
		if s, err = w.open(ctx, protocol); err != nil {
			return nil, Dial, err
		}
		w.rec.connected()
	}
	usable, phase, err := s.do(ctx, method, body)
	if !usable {
		s.close()
		s = nil
	}
	return s, phase, err
}

func (w *worker) open(ctx context.Context, protocol string) (session, error) {
	switch protocol {
	case "h2":
		return openH2(ctx, w.opts)
	case "ws":
		return openWebSocket(ctx, w.opts)
	case "grpc":
		return openGRPC(ctx, w.opts)
	}
	return openH1(ctx, w.opts)
}

// pause waits, and reports false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect dials and, with TLS, shakes hands for one protocol.
func connect(ctx context.Context, o *Options, protocol string) (net.Conn, error) {
	c, err := o.Dial(ctx, o.Addr)
	if err != nil || o.TLS == nil {
		return c, err
	}
	cfg := o.TLS.Clone()
	cfg.ServerName, cfg.NextProtos = o.Host, []string{protocol}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return t, nil
}
