package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Resolver looks up the hosts of ExternalName backends over DNS, and keeps each
// answer for its TTL. It answers with addresses only: whether one may be
// dialled is for DialPolicy to say, on every use. Safe for concurrent use once
// the exported fields are set.
type Resolver struct {
	// Servers are "address:port" of recursive resolvers, tried in order.
	// Empty: those of /etc/resolv.conf, read at the first lookup.
	Servers []string
	// Timeout bounds one query to one server. Default: 2 s.
	Timeout time.Duration
	// MinTTL and MaxTTL bound how long an answer is used. Defaults: 1 s and
	// 5 min. A failed lookup is repeated after MinTTL.
	MinTTL, MaxTTL time.Duration
	// Stale is how long an expired answer goes on being used while no server
	// answers. Default: 10 min. A name that does not exist is never served
	// from an old answer.
	Stale time.Duration

	now func() time.Time // for tests; nil: time.Now

	mu      sync.Mutex // protects the following
	servers []string
	names   map[string]*name
}

// name is the cached answer for one host.
type name struct {
	busy chan struct{} // holds a token while free; protects the following
	answer
	expires time.Time
	stale   time.Time // until when addrs may outlive expires
}

type answer struct {
	addrs []netip.Addr
	err   error
	ttl   time.Duration
}

// errNoName tells an authoritative no from servers that did not answer.
var errNoName = errors.New("the name does not exist or has no address")

// Lookup returns the addresses of host, never none without an error. The slice
// must not be written.
func (r *Resolver) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761 §6.3
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	n := r.name(host)
	select {
	case <-n.busy:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { n.busy <- struct{}{} }()
	if now := r.clock(); now.After(n.expires) {
		r.refresh(ctx, host, n, now)
	}
	return n.addrs, n.err
}

// Forget drops what is known of host.
func (r *Resolver) Forget(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, strings.ToLower(strings.TrimSuffix(host, ".")))
}

func (r *Resolver) name(host string) *name {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		n = &name{busy: make(chan struct{}, 1)}
		n.busy <- struct{}{}
		if r.names == nil {
			r.names = make(map[string]*name)
		}
		r.names[host] = n
	}
	return n
}

// refresh asks again. The caller holds n.
func (r *Resolver) refresh(ctx context.Context, host string, n *name, now time.Time) {
	a := r.ask(ctx, host)
	if ctx.Err() != nil {
		if n.addrs == nil {
			n.err = ctx.Err()
		}
		return // the asker gave up; say nothing about the name
	}
	minTTL := or(r.MinTTL, time.Second)
	if a.err != nil && !errors.Is(a.err, errNoName) && len(n.addrs) > 0 && now.Before(n.stale) {
		n.expires = now.Add(minTTL)
		return
	}
	n.answer = a
	n.expires = now.Add(min(max(a.ttl, minTTL), or(r.MaxTTL, 5*time.Minute)))
	n.stale = n.expires.Add(or(r.Stale, 10*time.Minute))
}

// ask queries for IPv4 and IPv6 addresses at once.
func (r *Resolver) ask(ctx context.Context, host string) answer {
	servers, err := r.serverList()
	if err != nil {
		return answer{err: err}
	}
	qtypes := [...]uint16{dns.TypeA, dns.TypeAAAA}
	var answers [len(qtypes)]answer
	var wg sync.WaitGroup
	for i, qtype := range qtypes {
		wg.Go(func() { answers[i] = r.query(ctx, servers, host, qtype) })
	}
	wg.Wait()
	var out answer
	for _, a := range answers {
		if a.err != nil {
			if out.err == nil || errors.Is(out.err, errNoName) {
				out.err = a.err
			}
			continue
		}
		if len(out.addrs) == 0 || a.ttl < out.ttl {
			out.ttl = a.ttl
		}
		out.addrs = append(out.addrs, a.addrs...)
	}
	if len(out.addrs) > 0 {
		out.err = nil
	}
	return out
}

func (r *Resolver) query(ctx context.Context, servers []string, host string, qtype uint16) answer {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(host), qtype)
	m.SetEdns0(1232, false)
	err := errors.New("no DNS server is configured")
	for _, server := range servers {
		var reply *dns.Msg
		if reply, err = r.exchange(ctx, m, server); err != nil {
			continue
		}
		switch reply.Rcode {
		case dns.RcodeSuccess:
			return extract(reply, host, qtype)
		case dns.RcodeNameError:
			return answer{err: fmt.Errorf("resolving %q: %w", host, errNoName)}
		}
		err = fmt.Errorf("DNS server %s answers %s", server, dns.RcodeToString[reply.Rcode])
	}
	return answer{err: fmt.Errorf("resolving %q: %w", host, err)}
}

// exchange asks one server, over TCP if the answer does not fit in a datagram.
func (r *Resolver) exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	c := dns.Client{Timeout: or(r.Timeout, 2*time.Second)}
	reply, _, err := c.ExchangeContext(ctx, m, server)
	if err == nil && reply.Truncated {
		c.Net = "tcp"
		reply, _, err = c.ExchangeContext(ctx, m, server)
	}
	if err != nil {
		return nil, err
	}
	if len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].Name, m.Question[0].Name) {
		return nil, errors.New("the DNS answer is to another question")
	}
	return reply, nil
}

// extract follows the CNAME chain inside one reply and collects the addresses
// at its end, with the least TTL on the way.
func extract(reply *dns.Msg, host string, qtype uint16) answer {
	const maxChain = 16
	owner, ttl := dns.Fqdn(host), uint32(1<<31-1)
	for range maxChain {
		var out answer
		next := ""
		for _, rr := range reply.Answer {
			if !strings.EqualFold(rr.Header().Name, owner) {
				continue
			}
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.CNAME:
				next = rr.Target
				ttl = min(ttl, rr.Hdr.Ttl)
				continue
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if a, ok := netip.AddrFromSlice(ip); ok && rr.Header().Rrtype == qtype {
				out.addrs = append(out.addrs, a)
				ttl = min(ttl, rr.Header().Ttl)
			}
		}
		if len(out.addrs) > 0 {
			out.ttl = time.Duration(ttl) * time.Second
			return out
		}
		if next == "" {
			break
		}
		owner = next
	}
	return answer{err: fmt.Errorf("resolving %q: %w", host, errNoName)}
}

func (r *Resolver) serverList() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Servers) > 0 {
		return r.Servers, nil
	}
	if r.servers == nil {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("reading the DNS configuration: %w", err)
		}
		for _, s := range conf.Servers {
			r.servers = append(r.servers, net.JoinHostPort(s, conf.Port))
		}
	}
	return slices.Clone(r.servers), nil
}

func (r *Resolver) clock() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

// or returns d, or def if d is not set.
func or(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}
