package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/portico-ingress/portico/test/backend"
)

// nameServer answers from a function that the test may change.
type nameServer struct {
	addr string

	mu      sync.Mutex // protects the following
	answer  func(q dns.Question, m *dns.Msg)
	queries int
}

func startDNS(t *testing.T) *nameServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ns := &nameServer{addr: pc.LocalAddr().String()}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, Handler: ns, NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		srv.Shutdown()
		<-done
	})
	return ns
}

func (ns *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	ns.mu.Lock()
	ns.queries++
	ns.answer(q.Question[0], m)
	ns.mu.Unlock()
	w.WriteMsg(m)
}

func (ns *nameServer) set(answer func(q dns.Question, m *dns.Msg)) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.answer = answer
}

func (ns *nameServer) count() int {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.queries
}

// records answers A questions with rrs in zone file form.
func records(rrs ...string) func(dns.Question, *dns.Msg) {
	return func(q dns.Question, m *dns.Msg) {
		if q.Qtype != dns.TypeA {
			return
		}
		for _, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
		}
	}
}

func TestResolver(t *testing.T) {
	ns := startDNS(t)
	now := time.Unix(1e9, 0)
	r := &Resolver{Servers: []string{ns.addr}, now: func() time.Time { return now }}
	lookup := func() ([]netip.Addr, error) { return r.Lookup(t.Context(), "Web.Example.") }
	one := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	two := []netip.Addr{netip.MustParseAddr("192.0.2.2")}

	ns.set(records("web.example. 60 IN CNAME b.example.", "b.example. 10 IN A 192.0.2.1", "other.example. 60 IN A 192.0.2.9"))
	if got, err := lookup(); err != nil || !slices.Equal(got, one) {
		t.Fatalf("first answer: %v, %v", got, err)
	}
	ns.set(records("web.example. 10 IN A 192.0.2.2"))
	before := ns.count()
	now = now.Add(9 * time.Second)
	if got, err := lookup(); err != nil || !slices.Equal(got, one) || ns.count() != before {
		t.Errorf("within the TTL: %v, %v, %d queries more", got, err, ns.count()-before)
	}
	now = now.Add(2 * time.Second)
	if got, err := lookup(); err != nil || !slices.Equal(got, two) {
		t.Errorf("after the TTL: %v, %v", got, err)
	}
	ns.set(func(_ dns.Question, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	now = now.Add(11 * time.Second)
	if got, err := lookup(); err != nil || !slices.Equal(got, two) {
		t.Errorf("while servers fail: %v, %v", got, err)
	}
	now = now.Add(time.Hour)
	if got, err := lookup(); err == nil {
		t.Errorf("long after: %v", got)
	}
	ns.set(records("web.example. 10 IN A 192.0.2.1"))
	now = now.Add(2 * time.Second)
	if got, err := lookup(); err != nil || !slices.Equal(got, one) {
		t.Errorf("after recovery: %v, %v", got, err)
	}
	ns.set(func(_ dns.Question, m *dns.Msg) { m.Rcode = dns.RcodeNameError })
	now = now.Add(11 * time.Second)
	if got, err := lookup(); !errors.Is(err, errNoName) {
		t.Errorf("a name that is gone: %v, %v", got, err)
	}
}

// TestRebinding has a DNS server that answers well first and then points at
// loopback, the metadata service and ourselves: no such address is dialled.
func TestRebinding(t *testing.T) {
	srv := backend.Serve(t, backend.OK("hello"))
	ns := startDNS(t)
	now := time.Unix(1e9, 0)
	reg := NewRegistry(Options{
		Resolver: &Resolver{Servers: []string{ns.addr}, now: func() time.Time { return now }},
		Policy:   DialPolicy{Listeners: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.80:8080")}},
	})
	defer reg.Close()
	var dialled []netip.AddrPort
	reg.dial = func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
		dialled = append(dialled, ap)
		return dialTCP(ctx, srv.Addr) // the good address stands for the backend
	}
	k := Key{Namespace: "shop", Service: "ext", Port: "8080"}
	reg.Set(k, &State{Endpoints: []Endpoint{{Host: "evil.example", Port: 8080, Ready: true}}})
	get := func() error {
		resp, err := reg.Pool(k).Do(t.Context(), &Request{Method: "GET", Target: "/", Host: "h"})
		if err == nil {
			drain(t, resp)
			resp.Close()
		}
		return err
	}
	ns.set(records("evil.example. 1 IN A 192.0.2.1"))
	if err := get(); err != nil {
		t.Fatalf("good address: %v", err)
	}
	for _, bad := range []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "192.0.2.80", "224.0.0.1"} {
		ns.set(records("evil.example. 1 IN A " + bad))
		now = now.Add(2 * time.Second)
		if err := get(); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want refused", bad, err)
		}
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:8080")}
	if !slices.Equal(dialled, want) {
		t.Errorf("dialled %v, want %v", dialled, want)
	}
	ns.set(records("evil.example. 1 IN A 127.0.0.1", "evil.example. 1 IN A 192.0.2.2"))
	now = now.Add(2 * time.Second)
	if err := get(); err != nil || len(dialled) != 2 {
		t.Errorf("a bad address beside a good one: %v, dialled %v", err, dialled)
	}
}
