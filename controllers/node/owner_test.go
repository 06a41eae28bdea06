package node

import (
	"context"
	"fmt"
	"net/netip"
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
