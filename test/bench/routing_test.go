package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/certstore"
)

var sizes = []int{10, 1_000, 10_000}

// ingress makes the i-th Ingress: one host, three paths, TLS. version varies
// its backend.
func ingress(i, version int) *router.Ingress {
	ns, host := fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("host-%d.example.com", i)
	backend := func(svc string) router.Backend {
		return router.Backend{Namespace: ns, Service: fmt.Sprintf("%s-%d-%d", svc, i, version), Port: "80"}
	}
	return &router.Ingress{
		Origin: router.Origin{Ref: diag.Ref{Kind: "Ingress", Namespace: ns, Name: fmt.Sprintf("ingress-%d", i), UID: fmt.Sprint(i)}, Generation: int64(version), Created: int64(i)},
		Rules: []router.Rule{{Host: host, Field: "spec.rules[0]", Paths: []router.Path{
			{Path: "/", Backend: backend("web"), Field: "spec.rules[0].http.paths[0]"},
			{Path: "/api/v1", Backend: backend("api"), Field: "spec.rules[0].http.paths[1]"},
			{Path: "/healthz", Type: router.Exact, Backend: backend("health"), Field: "spec.rules[0].http.paths[2]"},
		}}},
		TLS: []router.TLS{{Hosts: []string{host}, Secret: "tls", Field: "spec.tls[0]"}},
	}
}

func ingresses(n int) []*router.Ingress {
	out := make([]*router.Ingress, n)
	for i := range out {
		out[i] = ingress(i, 0)
	}
	return out
}

// BenchmarkMatch is one match against a random-looking host; the peer is
// net/http's ServeMux with the same patterns.
func BenchmarkMatch(b *testing.B) {
	for _, n := range sizes {
		hosts := make([]string, 1024)
		for i := range hosts {
			hosts[i] = fmt.Sprintf("host-%d.example.com", i*7919%n)
		}
		b.Run(fmt.Sprintf("portico/%d", n), func(b *testing.B) {
			table := router.Compile(router.Options{}, ingresses(n))
			r := &view.Request{Path: "/api/v1/items/4711"}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Host = hosts[i%len(hosts)]
				if table.Match(r).Route == nil {
					b.Fatal("no route")
				}
			}
		})
		b.Run(fmt.Sprintf("servemux/%d", n), func(b *testing.B) {
			mux := http.NewServeMux()
			for i := range n {
				for _, path := range []string{"/", "/api/v1/", "/healthz"} {
					mux.Handle(fmt.Sprintf("host-%d.example.com%s", i, path), http.NotFoundHandler())
				}
			}
			r := &http.Request{Method: "GET", URL: &url.URL{Path: "/api/v1/items/4711"}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Host = hosts[i%len(hosts)]
				if _, pattern := mux.Handler(r); pattern == "" {
					b.Fatal("no route")
				}
			}
		})
	}
}

// BenchmarkChange is the time from the event of one changed Ingress to the
// served table, through the publisher; the peer compiles everything anew.
func BenchmarkChange(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("incremental/%d", n), func(b *testing.B) {
			p, served := startPublisher(b, n)
			version := 0
			for i := 0; b.Loop(); i++ {
				version++
				p.Set(ingress(i%n, version), nil)
				<-served
			}
		})
		b.Run(fmt.Sprintf("from-scratch/%d", n), func(b *testing.B) {
			all := ingresses(n)
			for b.Loop() {
				router.Compile(router.Options{}, all)
			}
		})
	}
}

// startPublisher serves n Ingresses and says when each further table is served.
func startPublisher(b *testing.B, n int) (*publish.Publisher, <-chan struct{}) {
	b.Helper()
	certs, err := certstore.New(certstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	registry := upstream.NewRegistry(upstream.Options{})
	served := make(chan struct{}, 1)
	p := publish.New(publish.Options{
		Registry: registry, Certs: certs, Interval: time.Nanosecond, Log: logr.Discard(),
		OnPublish: func(*publish.Snapshot, publish.Stats) { served <- struct{}{} },
	})
	for _, ing := range ingresses(n) {
		p.Set(ing, nil)
	}
	p.Release()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Start(ctx) }()
	b.Cleanup(func() { cancel(); <-done; registry.Close() })
	<-served
	return p, served
}

// BenchmarkMemory reports the memory of a served table with its pools, for one
// Ingress of three paths.
func BenchmarkMemory(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var perIngress float64
			for b.Loop() {
				before := heap()
				builder := router.NewBuilder(router.Options{})
				for i := range n {
					builder.Set(ingress(i, 0))
				}
				table, _ := builder.Build()
				registry := upstream.NewRegistry(upstream.Options{})
				for _, be := range table.Backends() {
					registry.Set(upstream.Key(be), &upstream.State{Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Ready: true}}})
				}
				perIngress = (heap() - before) / float64(n)
				runtime.KeepAlive(builder)
				registry.Close()
			}
			b.ReportMetric(perIngress, "B/Ingress")
		})
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
