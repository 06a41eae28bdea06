package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/l4"
)

// transactions is a kernel that tells how many Forwardings each transaction has.
type transactions chan int

func (k transactions) Replace(_ context.Context, p *l4.Plan) error {
	k <- len(p.Forwardings)
	return nil
}

func (k transactions) Apply(_ context.Context, c *l4.Change) error {
	k <- len(c.Set)
	return nil
}

func (transactions) Disturbed() <-chan struct{} { return nil }

func (transactions) Affinity(l4.PortKey) (func(context.Context) ([]l4.Sticky, error), error) {
	return nil, nil
}

// newTestOwner returns an owner of a kernel, whose waits begin by a send of how long
// they are and end by a receive.
func newTestOwner(t *testing.T, k Kernel) (o *owner, began chan time.Duration, over chan time.Time) {
	t.Helper()
	c, err := New(Options{
		Client: kubernetes.NewForConfigOrDie(&rest.Config{Host: "http://127.0.0.1:1"}), Kernel: k, Metrics: NewMetrics(true, true),
		Translate: translate.NodeOptions{NodeName: "node1"}, Local: Local{Mode: LocalClusterCIDR}, Log: logr.Discard(),
		Addresses: func() ([]netip.Addr, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	o, began, over = newOwner(c), make(chan time.Duration, 100), make(chan time.Time)
	o.after = func(d time.Duration) <-chan time.Time {
		if d == gap {
			now := make(chan time.Time, 1)
			now <- time.Time{}
			return now
		}
		began <- d
		return over
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); o.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return o, began, over
}

// stubborn is a kernel that refuses until told otherwise, and that others disturb.
type stubborn struct {
	transactions
	refuse    atomic.Bool
	disturbed chan struct{}
	reading   chan struct{} // by who reads clients
	clients   chan []l4.Sticky
}

func (k *stubborn) Replace(ctx context.Context, p *l4.Plan) error {
	_ = k.transactions.Replace(ctx, p)
	if k.refuse.Load() {
		return errors.New("no")
	}
	return nil
}

func (k *stubborn) Disturbed() <-chan struct{} { return k.disturbed }

func (k *stubborn) Affinity(l4.PortKey) (func(context.Context) ([]l4.Sticky, error), error) {
	return func(context.Context) ([]l4.Sticky, error) {
		k.reading <- struct{}{}
		return <-k.clients, nil
	}, nil
}

func receive[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s: in vain", what)
	}
	return v
}

// TestRetry: after a failure the next attempt comes when it was said, whoever
// disturbs meanwhile; and who disturbs all the time is heard only so often.
func TestRetry(t *testing.T) {
	k := &stubborn{transactions: make(transactions, 100), disturbed: make(chan struct{})}
	k.refuse.Store(true)
	o, began, over := newTestOwner(t, k)
	disturb := func() {
		t.Helper()
		select {
		case k.disturbed <- struct{}{}:
		case <-time.After(time.Minute):
			t.Fatal("nobody hears")
		}
	}
	o.inbox.put(func(p *picture) { p.delivered = kinds })
	for _, want := range []time.Duration{firstRetry, 2 * firstRetry, 4 * firstRetry} {
		receive(t, k.transactions, "an attempt")
		if got := receive(t, began, "a wait"); got != want {
			t.Errorf("the next attempt is after %s, want %s", got, want)
		}
		disturb()
		disturb()
		if n := len(k.transactions) + len(began); n > 0 {
			t.Errorf("%d attempts before their time", n)
		}
		if want == 4*firstRetry {
			k.refuse.Store(false)
		}
		over <- time.Time{}
	}
	receive(t, k.transactions, "the attempt that succeeds")
	disturb()
	receive(t, k.transactions, "a repair")
	if got := receive(t, began, "a wait"); got != repairGap {
		t.Errorf("the next repair is after %s, want %s", got, repairGap)
	}
	select {
	case k.disturbed <- struct{}{}:
		t.Error("heard too early")
	default:
	}
	over <- time.Time{}
	disturb()
	receive(t, k.transactions, "the next repair")
}

// TestShowBeside: while somebody reads clients, changes are programmed.
func TestShowBeside(t *testing.T) {
	k := &stubborn{transactions: make(transactions, 100), disturbed: make(chan struct{}), reading: make(chan struct{}), clients: make(chan []l4.Sticky)}
	o, _, _ := newTestOwner(t, k)
	o.inbox.put(func(p *picture) {
		p.delivered = kinds
		s := &l4.Service{
			Name: l4.Name{Namespace: "shop", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.1.1")}, Affinity: time.Hour,
			Ports: []l4.Port{{Protocol: l4.TCP, Port: 80}},
		}
		p.setService(parsedService{name: s.Name, service: s})
	})
	receive(t, k.transactions, "a transaction")
	answer := make(chan string, 1)
	go func() {
		w := httptest.NewRecorder()
		o.Inspect().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/show?service=shop/web", nil))
		answer <- w.Body.String()
	}()
	receive(t, k.reading, "a reader")
	for i := range 3 {
		o.inbox.put(addService(i))
		receive(t, k.transactions, "a change beside a reader")
	}
	if len(answer) > 0 {
		t.Fatal("it was not read, and there is an answer")
	}
	select {
	case k.clients <- []l4.Sticky{{Client: netip.MustParseAddr("192.0.2.7"), Endpoint: netip.MustParseAddrPort("10.0.0.1:80")}}:
	case <-time.After(time.Minute):
		t.Fatal("nobody reads")
	}
	if got := receive(t, answer, "an answer"); !strings.Contains(got, "192.0.2.7 → 10.0.0.1:80") {
		t.Errorf("it says %s", got)
	}
}

// TestFirstAtOnce: the first change after quiet is programmed at once; those that
// follow within the gap are gathered, and programmed together when it is over.
func TestFirstAtOnce(t *testing.T) {
	kernel := make(transactions, 100)
	c, err := New(Options{
		Client: kubernetes.NewForConfigOrDie(&rest.Config{Host: "http://127.0.0.1:1"}), Kernel: kernel, Metrics: NewMetrics(true, true),
		Translate: translate.NodeOptions{NodeName: "node1"}, Local: Local{Mode: LocalClusterCIDR}, Log: logr.Discard(),
		Addresses: func() ([]netip.Addr, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	o := newOwner(c)
	began, over := make(chan struct{}), make(chan time.Time)
	o.after = func(d time.Duration) <-chan time.Time {
		if d != gap {
			t.Errorf("it waits for %s", d)
		}
		began <- struct{}{}
		return over
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); o.run(ctx) }()
	defer func() { cancel(); <-done }()

	// One event, or the owner might take some of four before the others come.
	c.inbox.put(func(p *picture) { p.delivered = kinds })
	expectBatches(t, kernel, began, 0)
	over <- time.Time{}
	for round := range 3 {
		c.inbox.put(addService(10 * round))
		expectBatches(t, kernel, began, 1) // and nobody has ended the gap
		for i := range 5 {
			c.inbox.put(addService(10*round + 1 + i))
		}
		over <- time.Time{}
		expectBatches(t, kernel, began, 5)
		over <- time.Time{}
	}
}

// expectBatches waits for the gap that follows a batch, and counts what was
// programmed until then.
func expectBatches(t *testing.T, kernel transactions, began <-chan struct{}, want ...int) {
	t.Helper()
	select {
	case <-began:
	case <-time.After(time.Minute):
		t.Fatal("nothing happens")
	}
	var got []int
	for len(kernel) > 0 {
		got = append(got, <-kernel)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("transactions with %v Forwardings, want %v", got, want)
	}
}

func addService(i int) event {
	s := &l4.Service{
		Name: l4.Name{Namespace: "shop", Name: fmt.Sprint("s", i)}, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})},
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 80}},
	}
	return func(p *picture) { p.setService(parsedService{name: s.Name, service: s}) }
}
