package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/wire"
	"github.com/portico-ingress/portico/test/backend"
)

const bad503 = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

// statuses counts the responses to n requests.
func statuses(t *testing.T, p *Pool, n int) map[int]int {
	t.Helper()
	out := map[int]int{}
	for range n {
		resp, err := p.Do(t.Context(), simple())
		if err != nil {
			out[0]++
			continue
		}
		out[resp.Head.Status]++
		resp.Close()
	}
	return out
}

func pool(t *testing.T, opts Options, servers ...*backend.Server) *Pool {
	t.Helper()
	r := newRegistry(t, opts)
	for _, s := range servers {
		t.Cleanup(s.Close)
	}
	var addrs []netip.AddrPort
	for _, s := range servers {
		addrs = append(addrs, s.Addr)
	}
	r.Set(web, ready(addrs...))
	return r.Pool(web)
}

func TestFailingEndpointIsEjected(t *testing.T) {
	p := pool(t, Options{EjectTime: time.Hour}, backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.Always(bad503)))
	if got := statuses(t, p, 100); got[503] != 5 || got[200] != 95 {
		t.Errorf("%v", got)
	}
	if s := p.reg.Stats(); s.Ejections != 1 {
		t.Errorf("%+v", s)
	}
}

// TestEjectionsPanic: where more than half fail, all are asked.
func TestEjectionsPanic(t *testing.T) {
	bad := func() *backend.Server { return backend.Serve(t, backend.Always(bad503)) }
	p := pool(t, Options{EjectTime: time.Hour}, bad(), bad(), bad(), backend.Serve(t, backend.OK("a")))
	got := statuses(t, p, 400)
	if ejected := p.reg.Stats().Ejections; ejected != 2 || got[200] < 150 || got[503] < 150 {
		t.Errorf("%v, %d ejections", got, ejected)
	}
	p = pool(t, Options{EjectTime: time.Hour, EjectPercent: 75}, bad(), bad(), bad(), backend.Serve(t, backend.OK("a")))
	if got := statuses(t, p, 400); p.reg.Stats().Ejections != 3 || got[503] > 30 {
		t.Errorf("three quarters may be out: %v", got)
	}
	single := pool(t, Options{EjectTime: time.Hour}, bad())
	if got := statuses(t, single, 20); got[503] != 20 || single.reg.Stats().Ejections != 0 {
		t.Errorf("a single endpoint: %v", got)
	}
}

// TestEjectedEndpointComesBack: one request tries it, and if that goes well it
// is one of all again.
func TestEjectedEndpointComesBack(t *testing.T) {
	var mu sync.Mutex
	fails := true
	other := backend.Serve(t, func(c *backend.Conn) {
		for {
			if _, err := c.Head(); err != nil {
				return
			}
			mu.Lock()
			answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
			if fails {
				answer = bad503
			}
			mu.Unlock()
			if c.Send(answer) != nil {
				return
			}
		}
	})
	p := pool(t, Options{EjectTime: time.Millisecond}, backend.Serve(t, backend.OK("a")), other)
	for p.reg.Stats().Ejections < 2 {
		statuses(t, p, 1)
	}
	mu.Lock()
	fails = false
	mu.Unlock()
	var target *Target
	for _, tg := range p.live.Load().targets {
		if tg.Endpoint.Addr == other.Addr {
			target = tg
		}
	}
	for target.addr.health.failures.Load() != 0 {
		statuses(t, p, 1)
	}
	if got := statuses(t, p, 20); got[200] != 20 || p.Ejected() != 0 {
		t.Errorf("answers: %v", got)
	}
}

// TestTrial: an ejection ends with one request, of which the others wait to hear,
// and what it shows counts, however few failures eject.
func TestTrial(t *testing.T) {
	p := pool(t, Options{EjectAfter: 1, EjectTime: time.Hour}, backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.OK("b")))
	l := p.live.Load()
	target := l.targets[0]
	h := &target.addr.health
	fails, answers, gone := &Error{Kind: Broken}, &Response{Head: &wire.ResponseHead{Status: 200}}, &Error{Kind: Canceled}
	elapse := func() { h.outUntil.Store(time.Now().UnixNano()) }
	for _, step := range []struct {
		name      string
		do        func()
		out       bool
		ejections int32
	}{
		{"a failure", func() { p.judge(l, target, nil, fails) }, true, 1},
		{"one of before", func() { p.judge(l, target, nil, fails) }, true, 1},
		{"time", elapse, false, 1},
		{"the trial", func() { h.begin(time.Hour) }, true, 1},
		{"is cancelled", func() { p.judge(l, target, nil, gone) }, false, 1},
		{"the next trial", func() { h.begin(time.Hour) }, true, 1},
		{"fails", func() { p.judge(l, target, nil, fails) }, true, 2},
		{"time again", elapse, false, 2},
		{"a trial", func() { h.begin(time.Hour) }, true, 2},
		{"goes well", func() { p.judge(l, target, answers, nil) }, false, 0},
		{"a request", func() { h.begin(time.Hour) }, false, 0},
	} {
		if step.do(); h.out() != step.out || h.ejections.Load() != step.ejections {
			t.Errorf("%s: out %t, %d ejections", step.name, h.out(), h.ejections.Load())
		}
	}
}

// TestEjectionsAtOnce: many failures at the same time take no more than half out.
func TestEjectionsAtOnce(t *testing.T) {
	for range 50 {
		p := pool(t, Options{EjectAfter: 1, EjectTime: time.Hour}, backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.OK("b")))
		l := p.live.Load()
		var wg sync.WaitGroup
		for _, target := range l.targets {
			wg.Go(func() { p.judge(l, target, nil, &Error{Kind: Broken}) })
		}
		wg.Wait()
		if n := p.Ejected(); n != 1 {
			t.Fatalf("%d of 2 are ejected", n)
		}
	}
}

func TestRetryBudget(t *testing.T) {
	var b retryBudget
	b.balance.Store(retryInitial)
	spent := 0
	for b.spend() {
		spent++
	}
	for range 100 {
		b.earn(20)
	}
	for b.spend() {
		spent++
	}
	if spent != 10+20 {
		t.Errorf("%d retries for 100 requests and the first 10", spent)
	}
	for range 10_000 {
		b.earn(20)
	}
	if got := b.balance.Load(); got != retryMax {
		t.Errorf("%d saved up", got)
	}
}

// TestRetriesEnd: a backend that takes every request and answers none is asked
// little more often than clients ask.
func TestRetriesEnd(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	deaf := func(c *backend.Conn) {
		if _, err := c.Head(); err == nil {
			mu.Lock()
			asked++
			mu.Unlock()
		}
	}
	p := pool(t, Options{EjectAfter: -1}, backend.Serve(t, deaf), backend.Serve(t, deaf), backend.Serve(t, deaf))
	statuses(t, p, 200)
	mu.Lock()
	defer mu.Unlock()
	if s := p.reg.Stats(); asked < 200 || asked > 200+10+40 || s.RetriesDenied == 0 || int(s.Retries) != asked-200 {
		t.Errorf("asked %d times for 200 requests: %+v", asked, s)
	}
}

// TestNoRetries: the budget is what was set.
func TestNoRetries(t *testing.T) {
	deaf := func(c *backend.Conn) { _, _ = c.Head() }
	p := pool(t, Options{EjectAfter: -1, RetryPercent: -1}, backend.Serve(t, deaf), backend.Serve(t, deaf))
	statuses(t, p, 200)
	if s := p.reg.Stats(); s.Retries > 10 || s.RetriesDenied == 0 {
		t.Errorf("%+v", s)
	}
}

// TestLostSessionsEnd is TestRetriesEnd for backends that take HTTP/2.
func TestLostSessionsEnd(t *testing.T) {
	var asked atomic.Int64
	var lost []*backend.Server
	for range 3 {
		_, srv := frames(t, Options{}, nil, func(p *peer) {
			if _, ok := p.request(); ok {
				asked.Add(1)
			}
		})
		lost = append(lost, srv)
	}
	p := pool(t, Options{EjectAfter: -1}, lost...)
	for range 200 {
		if got, err := get(t, p, onH2(simple())); err == nil {
			t.Fatalf("%q", got)
		}
	}
	// A request may also be lost between the backend's last read and its end.
	if s := p.reg.Stats(); asked.Load() > 200+10+40 || s.RetriesDenied == 0 || s.Retries > 10+40 {
		t.Errorf("asked %d times for 200 requests: %+v", asked.Load(), s)
	}
}

// TestInFlightLimit: what is too much waits, what is too much for that is
// refused, and who waits gets the next place.
func TestInFlightLimit(t *testing.T) {
	release := make(chan struct{})
	p := pool(t, Options{MaxInFlight: 2, MaxPending: 1}, backend.Serve(t, func(c *backend.Conn) {
		for {
			if _, err := c.Head(); err != nil {
				return
			}
			<-release
			if c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") != nil {
				return
			}
		}
	}))
	results := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := get(t, p, simple())
			results <- err
		}()
	}
	a := p.live.Load().targets[0].addr
	for a.pending.Load() != 1 {
		runtime.Gosched()
	}
	_, err := p.Do(t.Context(), simple())
	var e *Error
	if !errors.As(err, &e) || e.Kind != Overloaded {
		t.Errorf("the fourth: %v", err)
	}
	close(release)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if s := p.reg.Stats(); s.Waited != 1 || s.Overloaded != 1 || a.inFlight.Load() != 0 || a.pending.Load() != 0 {
		t.Errorf("%+v, %d in flight, %d pending", s, a.inFlight.Load(), a.pending.Load())
	}
}

// TestWaitingEnds: with the request, or when it has been long enough.
func TestWaitingEnds(t *testing.T) {
	began := make(chan struct{}, 1)
	p := pool(t, Options{MaxInFlight: 1, Timeouts: Timeouts{Connect: 20 * time.Millisecond}}, backend.Serve(t, func(c *backend.Conn) {
		_, _ = c.Head()
		began <- struct{}{}
		c.Wait()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() { defer close(first); _, _ = p.Do(ctx, simple()) }()
	<-began
	var e *Error
	if _, err := p.Do(t.Context(), simple()); !errors.As(err, &e) || e.Kind != Overloaded {
		t.Errorf("too long: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := p.live.Load().targets[0].addr.enter(gone); err == nil || err.Kind != Canceled {
		t.Errorf("cancelled: %v", err)
	}
	cancel()
	<-first
	a := p.live.Load().targets[0].addr
	if a.inFlight.Load() != 0 || a.pending.Load() != 0 || len(a.waiters) != 0 {
		t.Errorf("%d in flight, %d pending", a.inFlight.Load(), a.pending.Load())
	}
}

func TestCrowdedEndpointIsPassedOver(t *testing.T) {
	p := pool(t, Options{MaxInFlight: 1}, backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.OK("b")))
	first, err := p.Do(t.Context(), simple())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for range 4 {
		resp, err := p.Do(t.Context(), simple())
		if err != nil || resp.Endpoint == first.Endpoint {
			t.Fatalf("%v", err)
		}
		resp.Close()
	}
	if s := p.reg.Stats(); s.Waited != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNoDescriptor: that we have none left is not held against the endpoint.
func TestNoDescriptor(t *testing.T) {
	dial := func(context.Context, netip.AddrPort) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
	p := pool(t, Options{EjectAfter: 1, Dial: dial}, backend.Serve(t, backend.OK("a")), backend.Serve(t, backend.OK("b")))
	for range 3 {
		var e *Error
		if _, err := p.Do(t.Context(), simple()); !errors.As(err, &e) || e.Kind != Exhausted {
			t.Errorf("%v", err)
		}
	}
	for _, target := range p.live.Load().targets {
		if target.addr.down() {
			t.Errorf("%s is passed over", target.addr.name)
		}
	}
}
