package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
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

// address is what all pools share about one address: its connections and what
// was last seen of it.
type address struct {
	key       addrKey // const
	name      string  // const, key as "host:port"
	reg       *Registry
	refs      int // users among the pools; protected by Registry.mu
	inFlight  atomic.Int64
	pending   atomic.Int64 // requests that wait for a place
	health    health
	downUntil atomic.Int64 // UnixNano; 0: reachable, as far as known

	mu      sync.Mutex // protects the following, and what is in the lanes
	plain   *lane      // of the zero way; nil: not used yet
	lanes   map[way]*lane
	retired bool // nobody needs unused connections any more
	waiters []chan struct{}
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

// unreachable says why there is no connection, and has others tried first for
// a while, unless it is only a mismatch.
func (a *address) unreachable(request context.Context, err error, mismatch bool) *Error {
	if request.Err() != nil {
		return &Error{Kind: Canceled, Endpoint: a.name, Err: request.Err()}
	}
	kind := Unreachable
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		kind, mismatch = Exhausted, true // which is no fault of the endpoint
	case errors.As(err, &untrusted):
		kind = Unverified
	case isTimeout(err):
		kind, mismatch = Timeout, false // who is asked next would wait as long
	}
	if !mismatch {
		a.downUntil.Store(time.Now().Add(downFor).UnixNano())
	}
	return &Error{Kind: kind, dialing: true, mismatch: mismatch, Endpoint: a.name, Err: fmt.Errorf("connecting: %w", err)}
}

// dial opens a new connection. Every address is checked by the policy right
// before it is dialled, whatever an earlier lookup said.
func (a *address) dial(ctx context.Context) (net.Conn, netip.AddrPort, error) {
	addrs, err := a.resolve(ctx)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	for i, ap := range addrs {
		if err = a.reg.opts.Policy.Check(ap); err != nil {
			continue
		}
		var nc net.Conn
		if nc, err = a.dialShare(ctx, ap, len(addrs)-i); err == nil {
			return nc, ap, nil
		}
	}
	return nil, netip.AddrPort{}, err
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

// String returns the address as "host:port".
func (k addrKey) String() string {
	if k.host == "" {
		return k.addr.String()
	}
	return net.JoinHostPort(k.host, strconv.Itoa(int(k.addr.Port())))
}
