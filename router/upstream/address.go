package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// downFor is how long an endpoint that could not be reached is passed over
// while others are left.
const downFor = 5 * time.Second

// addrKey is an address as endpoints name it: addr alone, or a host and the
// port of addr.
type addrKey struct {
	addr netip.AddrPort
	host string
}

// address is what all pools share about one address: its unused connections
// and what was last seen of it.
type address struct {
	key       addrKey // const
	name      string  // const, key as "host:port"
	reg       *Registry
	refs      int // users among the pools; protected by Registry.mu
	inFlight  atomic.Int64
	downUntil atomic.Int64 // UnixNano; 0: reachable, as far as known

	mu      sync.Mutex // protects the following
	idle    []*conn    // the longest unused first
	retired bool       // nobody needs unused connections any more
	reaper  *time.Timer
}

// resolve says where the address leads to now.
func (a *address) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if a.key.host == "" {
		return []netip.AddrPort{a.key.addr}, nil
	}
	ips, err := a.reg.opts.Resolver.Lookup(ctx, a.key.host)
	if err != nil {
		return nil, err
	}
	out := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		out[i] = netip.AddrPortFrom(ip, a.key.addr.Port())
	}
	return out, nil
}

// connect opens a new connection. Every address is checked by the policy right
// before it is dialled, whatever an earlier lookup said.
func (a *address) connect(request context.Context) (*conn, *Error) {
	ctx, cancel := context.WithTimeout(request, a.reg.opts.Timeouts.Connect)
	defer cancel()
	c, err := a.dial(ctx)
	switch {
	case err == nil:
		a.downUntil.Store(0)
		return c, nil
	case request.Err() != nil:
		return nil, &Error{Kind: Canceled, Endpoint: a.name, Err: request.Err()}
	}
	a.downUntil.Store(time.Now().Add(downFor).UnixNano())
	kind := Unreachable
	if isTimeout(err) {
		kind = Timeout
	}
	return nil, &Error{Kind: kind, dialing: true, Endpoint: a.name, Err: fmt.Errorf("connecting: %w", err)}
}

func (a *address) dial(ctx context.Context) (*conn, error) {
	addrs, err := a.resolve(ctx)
	if err != nil {
		return nil, err
	}
	for i, ap := range addrs {
		if err = a.reg.opts.Policy.Check(ap); err != nil {
			continue
		}
		var nc net.Conn
		if nc, err = a.dialShare(ctx, ap, len(addrs)-i); err == nil {
			return newConn(a, nc, ap), nil
		}
	}
	return nil, err
}

// dialShare dials with an equal share of the time that is left, so that one
// dead address among several does not use up all of it.
func (a *address) dialShare(ctx context.Context, ap netip.AddrPort, shares int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && shares > 1 {
		share, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(shares))
		defer cancel()
		ctx = share
	}
	return a.reg.dial(ctx, ap)
}

// take returns an unused connection that is still good, the most recently used
// first, or nil.
func (a *address) take(ctx context.Context) *conn {
	for {
		c := a.pop()
		if c == nil || c.fresh(ctx) {
			return c
		}
		c.close()
	}
}

func (a *address) pop() *conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.idle)
	if n == 0 {
		return nil
	}
	c := a.idle[n-1]
	a.idle[n-1] = nil
	a.idle = a.idle[:n-1]
	return c
}

// put keeps c for the next request, or closes it.
func (a *address) put(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.retired || len(a.idle) >= a.reg.opts.MaxIdle {
		c.close()
		return
	}
	c.idleSince = time.Now()
	a.idle = append(a.idle, c)
	if a.reaper == nil {
		a.reaper = time.AfterFunc(a.reg.opts.Timeouts.KeepAlive, a.reap)
	}
}

// reap closes what has been unused for too long, and comes back for the rest.
func (a *address) reap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit := time.Now().Add(-a.reg.opts.Timeouts.KeepAlive)
	n := 0
	for n < len(a.idle) && !a.idle[n].idleSince.After(limit) {
		a.idle[n].close()
		n++
	}
	a.idle = slices.Delete(a.idle, 0, n)
	a.reaper = nil
	if len(a.idle) > 0 {
		wait := a.idle[0].idleSince.Sub(limit)
		a.reaper = time.AfterFunc(wait, a.reap)
	}
}

// retire closes unused connections now and the others when they come back.
func (a *address) retire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retired = true
	if a.reaper != nil {
		a.reaper.Stop()
	}
	for _, c := range a.idle {
		c.close()
	}
	a.idle = nil
}

// String returns the address as "host:port".
func (k addrKey) String() string {
	if k.host == "" {
		return k.addr.String()
	}
	return net.JoinHostPort(k.host, strconv.Itoa(int(k.addr.Port())))
}
