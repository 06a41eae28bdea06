package upstream

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portico-ingress/portico/router/wire"
)

// Timeouts of the way to a backend. Zero fields take their defaults.
type Timeouts struct {
	// Connect bounds reaching one endpoint, name resolution included.
	// Default: 5 s.
	Connect time.Duration
	// Head bounds the wait for the head of the response, from the last byte
	// of the request that was sent. Default: 60 s.
	Head time.Duration
	// Stall bounds the time between two reads or writes that get on.
	// Default: 60 s.
	Stall time.Duration
	// KeepAlive bounds how long a connection waits unused for the next
	// request. Default: 55 s, under the 60 s of common servers so that it is
	// we who close.
	KeepAlive time.Duration
}

// Options of a Registry. The zero value is what a cluster needs.
type Options struct {
	// NewBalancer makes the Balancer of a pool. Default: NewRoundRobin.
	NewBalancer func() Balancer
	// Policy says which addresses may be dialled.
	Policy DialPolicy
	// Dial connects to an address that Policy allows. Default: TCP. Tests
	// lead addresses that only a cluster has to backends of their own.
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
	// Resolver resolves Endpoint.Host. Default: one on /etc/resolv.conf.
	Resolver *Resolver
	Timeouts Timeouts
	// Limits of response heads. Default: wire.DefaultLimits.
	Limits wire.Limits
	// MaxIdle is the number of unused connections kept per address.
	// Default: 1024, as many as may be in flight: fewer would have connections
	// made and closed while many requests come at once.
	MaxIdle int
	// Attempts is the number of endpoints tried for one request before it
	// fails. Default: 3.
	Attempts int
	// MaxInFlight is the number of requests under way at one endpoint;
	// tunnels do not count. Default: 1024.
	MaxInFlight int
	// MaxPending is the number of requests that wait for an endpoint to have
	// room. Default: 1024; negative: none waits.
	MaxPending int
	// RetryPercent is how many of a hundred requests of a pool may be sent again after
	// a backend had them; in the beginning ten may. Default: 20; negative: none later.
	RetryPercent int
	// EjectAfter is how many failures in a row (502, 503, 504, no response, no
	// connection) take an endpoint out of the balance for EjectTime, and for
	// longer if it goes on; never more than EjectPercent of a pool. Default: 5;
	// negative: never. EjectTime: 30 s. EjectPercent: 50.
	EjectAfter   int
	EjectTime    time.Duration
	EjectPercent int
	// RequireVerification refuses TLS to backends that are not verified.
	RequireVerification bool
}

// Registry holds every pool and the connections to every address. Setting the
// endpoints of a pool disturbs no request in flight. Safe for concurrent use.
type Registry struct {
	opts Options // const after NewRegistry
	dial func(context.Context, netip.AddrPort) (net.Conn, error)
	// credentials is replaced as a whole by SetCredentials, never nil.
	credentials atomic.Pointer[map[SecretRef]*Credentials]
	stats       stats

	mu     sync.Mutex // protects the following
	pools  map[Key]*Pool
	addrs  map[addrKey]*address
	closed bool
}

// NewRegistry returns an empty Registry.
func NewRegistry(opts Options) *Registry {
	if opts.NewBalancer == nil {
		opts.NewBalancer = NewRoundRobin
	}
	if opts.Resolver == nil {
		opts.Resolver = new(Resolver)
	}
	if opts.Limits == (wire.Limits{}) {
		opts.Limits = wire.DefaultLimits
	}
	if opts.Dial == nil {
		opts.Dial = dialTCP
	}
	t := &opts.Timeouts
	t.Connect = or(t.Connect, 5*time.Second)
	t.Head = or(t.Head, time.Minute)
	t.Stall = or(t.Stall, time.Minute)
	t.KeepAlive = or(t.KeepAlive, 55*time.Second)
	opts.MaxIdle = cmp.Or(opts.MaxIdle, 1024)
	opts.Attempts = cmp.Or(opts.Attempts, 3)
	opts.MaxInFlight = cmp.Or(opts.MaxInFlight, 1024)
	opts.MaxPending = cmp.Or(opts.MaxPending, 1024)
	opts.RetryPercent = cmp.Or(opts.RetryPercent, 20)
	opts.EjectAfter = cmp.Or(opts.EjectAfter, 5)
	opts.EjectPercent = cmp.Or(opts.EjectPercent, 50)
	opts.EjectTime = or(opts.EjectTime, 30*time.Second)
	r := &Registry{
		opts:  opts,
		dial:  opts.Dial,
		pools: make(map[Key]*Pool),
		addrs: make(map[addrKey]*address),
	}
	r.credentials.Store(&map[SecretRef]*Credentials{})
	return r
}

func dialTCP(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", ap.String())
}

// Pool returns the pool of that name, a new one without endpoints if need be.
func (r *Registry) Pool(k Key) *Pool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pool(k)
}

func (r *Registry) pool(k Key) *Pool {
	p := r.pools[k]
	if p == nil {
		p = &Pool{key: k, balancer: r.opts.NewBalancer(), reg: r}
		p.budget.balance.Store(retryInitial)
		p.live.Store(&live{state: &State{Reason: "Service " + k.Namespace + "/" + k.Service + " is not known yet"}})
		r.pools[k] = p
	}
	return p
}

// Set replaces the endpoints of a pool, which is made if need be. s must not be
// written afterwards. Requests in flight at an endpoint that is gone finish;
// its unused connections close, unless another pool has it too.
func (r *Registry) Set(k Key, s *State) {
	usable := s.Usable()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pool(k)
	next := &live{state: s, targets: make([]*Target, len(usable))}
	for i, e := range usable {
		next.targets[i] = &Target{Endpoint: e, addr: r.acquire(e)}
	}
	r.release(p.live.Swap(next))
}

// Retain forgets every pool that is not in keep. A pool that a request still
// holds goes on serving it.
func (r *Registry) Retain(keep map[Key]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, p := range r.pools {
		if _, ok := keep[k]; !ok {
			delete(r.pools, k)
			r.release(p.live.Load())
		}
	}
}

// Pools returns all pools, in no order. Unlike Pool it makes none, so it is for
// those who only look.
func (r *Registry) Pools() []*Pool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.pools))
}

// Close closes unused connections, and every other one when its request ends.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, a := range r.addrs {
		a.retire()
	}
}

// acquire returns the address of e with one more user. The caller holds r.mu.
func (r *Registry) acquire(e Endpoint) *address {
	k := addrKey{addr: e.Addr, host: e.Host}
	if e.Host != "" {
		k.addr = netip.AddrPortFrom(netip.Addr{}, e.Port)
	}
	a := r.addrs[k]
	if a == nil {
		a = &address{key: k, name: k.String(), reg: r, retired: r.closed}
		r.addrs[k] = a
	}
	a.refs++
	return a
}

// release takes one user from each address of l. The caller holds r.mu.
func (r *Registry) release(l *live) {
	for _, t := range l.targets {
		a := t.addr
		if a.refs--; a.refs > 0 {
			continue
		}
		delete(r.addrs, a.key)
		a.retire()
		if a.key.host != "" {
			r.opts.Resolver.Forget(a.key.host)
		}
	}
}
