//go:build linux && root

package nft_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// TestNothingLost: while a storm of changes goes through the node, and process
// after process takes over from one that was killed, no connection fails that
// is new, and none that is established.
func TestNothingLost(t *testing.T) {
	const restarts, changes = 20, 6000
	r := newRig(t, false)
	l := newLoad(t, r)
	k := open(t, r.node)
	p := l4.NewPlanner(l4.Node{Name: "node1", NodePorts: l4.NodePorts{All: true}})
	l.services(p, 0)
	k.replace(t, p.Plan())
	l.start()
	storm := time.Duration(0)
	for i := 1; i <= changes; i++ {
		l.services(p, i)
		began := time.Now()
		k.apply(t, p.Take())
		storm += time.Since(began)
		if i%(changes/restarts) == 0 {
			k = open(t, r.node) // the one before says no goodbye
			k.replace(t, p.Plan())
		}
	}
	l.stop(t)
	t.Logf("%d changes (%.0f/s), %d restarts: %d new connections, %d round trips on an established one",
		changes, changes/storm.Seconds(), restarts, l.opened.Load(), l.trips.Load())
}

// load connects through a node without pause.
type load struct {
	*rig
	endpoints     []netip.AddrPort
	to            netip.AddrPort
	opened, trips atomic.Int64
	cancel        context.CancelFunc
	failed        chan error
}

func newLoad(t *testing.T, r *rig) *load {
	l := &load{rig: r, to: netip.AddrPortFrom(r.addr("172.30.0.1"), 80), failed: make(chan error, 2)}
	for i := range 6 {
		a := netip.AddrPortFrom(r.addr(fmt.Sprintf("10.180.0.%d", i+1)), 8080)
		r.own(t, r.pods, a.Addr())
		var err error
		r.pods.Do(func() { err = echo(t, a) })
		if err != nil {
			t.Fatal(err)
		}
		l.endpoints = append(l.endpoints, a)
	}
	r.own(t, r.outside, r.addr("203.0.113.5"))
	return l
}

// services sets the i-th state: from one endpoint to all, others each time,
// and a Service beside it that comes and goes.
func (l *load) services(p *l4.Planner, i int) {
	g := &l4.Group{}
	for n := range 1 + i%len(l.endpoints) {
		g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: l.endpoints[(i+n)%len(l.endpoints)], Ready: true, Serving: true})
	}
	p.Set(&l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "load"}, ClusterIPs: []netip.Addr{l.to.Addr()},
		Ports: []l4.Port{{Protocol: l4.TCP, Port: l.to.Port(), Groups: []*l4.Group{g}}},
	})
	other := &l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "other"}, ClusterIPs: []netip.Addr{l.addr("172.30.0.2")}, Affinity: time.Minute,
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 80, NodePort: 30080, Groups: []*l4.Group{g}}},
	}
	if i%7 == 0 {
		p.Delete(other.Name)
	} else {
		p.Set(other)
	}
}

func echo(t testing.TB, a netip.AddrPort) error {
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return nil
}

func (l *load) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	started := make(chan struct{})
	go l.outside.Do(func() {
		held, err := l.dial()
		close(started)
		if err != nil {
			l.failed <- fmt.Errorf("the first connection: %w", err)
			return
		}
		defer held.Close()
		l.failed <- l.run(ctx, held)
	})
	<-started
}

func (l *load) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: l.addr("203.0.113.5").AsSlice()}}
	return d.Dial("tcp", l.to.String())
}

func (l *load) run(ctx context.Context, held net.Conn) error {
	for ctx.Err() == nil {
		c, err := l.dial()
		if err != nil {
			return fmt.Errorf("connection %d: %w", l.opened.Load(), err)
		}
		err = trip(c)
		_ = c.(*net.TCPConn).SetLinger(0) // or ports run out
		c.Close()
		if err != nil {
			return fmt.Errorf("connection %d: %w", l.opened.Load(), err)
		}
		l.opened.Add(1)
		if err := trip(held); err != nil {
			return fmt.Errorf("the established connection: %w", err)
		}
		l.trips.Add(1)
	}
	return nil
}

// trip sends a line and expects it back.
func trip(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && got != "hello\n" {
		err = errors.New("another answer: " + got)
	}
	return err
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	if err := <-l.failed; err != nil {
		t.Error(err)
	}
	if l.opened.Load() < 100 {
		t.Errorf("only %d connections were made", l.opened.Load())
	}
}
