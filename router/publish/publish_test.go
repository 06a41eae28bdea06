package publish

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/certstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	*Publisher
	registry *upstream.Registry
	certs    *certstore.Store

	mu    sync.Mutex
	stats []Stats
}

func start(t *testing.T, opts Options) *fixture {
	t.Helper()
	certs, err := certstore.New(certstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{registry: upstream.NewRegistry(upstream.Options{}), certs: certs}
	opts.Registry, opts.Certs, opts.Log = f.registry, certs, logr.Discard()
	opts.OnPublish = func(_ *Snapshot, s Stats) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stats = append(f.stats, s)
	}
	f.Publisher = New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.registry.Close()
	})
	return f
}

// until waits for a condition over what is published.
func (f *fixture) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for {
		changed := f.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("never saw %s", what)
		}
	}
}

func ing(name, host string, service string) *router.Ingress {
	ns, n, _ := strings.Cut(name, "/")
	return &router.Ingress{
		Origin: router.Origin{Ref: diag.Ref{Kind: "Ingress", Namespace: ns, Name: n}},
		Rules: []router.Rule{{Host: host, Field: "spec.rules[0]", Paths: []router.Path{{
			Path: "/", Field: "spec.rules[0].http.paths[0]", Backend: router.Backend{Namespace: ns, Service: service, Port: "80"},
		}}}},
		TLS: []router.TLS{{Hosts: []string{host}, Secret: "cert", Field: "spec.tls[0]"}},
	}
}

func (f *fixture) serviceFor(host string) string {
	d, pool := f.Match(&view.Request{Host: host, Path: "/"})
	if d.Route == nil {
		return ""
	}
	return pool.Key().Service
}

func TestNothingBeforeRelease(t *testing.T) {
	f := start(t, Options{})
	f.Set(ing("a/one", "one.example", "s1"), nil)
	if f.Snapshot() != nil || f.serviceFor("one.example") != "" {
		t.Fatal("published before the first complete picture")
	}
	f.Set(ing("a/two", "two.example", "s2"), nil)
	f.Release()
	f.until(t, "both Ingresses", func() bool { return f.serviceFor("one.example") == "s1" && f.serviceFor("two.example") == "s2" })
	if g := f.Snapshot().Generation; g != 1 {
		t.Errorf("the first picture is generation %d, want 1: it was not complete", g)
	}
}

func TestReleaseOfAnEmptyPicture(t *testing.T) {
	f := start(t, Options{})
	f.Release()
	f.until(t, "an empty table", func() bool { return f.Snapshot() != nil })
}

func TestChangeAndDelete(t *testing.T) {
	f := start(t, Options{})
	f.Release()
	f.Set(ing("a/one", "one.example", "s1"), nil)
	f.until(t, "s1", func() bool { return f.serviceFor("one.example") == "s1" })
	before := f.Snapshot()
	f.Set(ing("a/one", "one.example", "s2"), nil)
	f.until(t, "s2", func() bool { return f.serviceFor("one.example") == "s2" })
	if d := before.Table.Match(&view.Request{Host: "one.example", Path: "/"}); before.Pools[d.Route.Pool].Key().Service != "s1" {
		t.Error("a published snapshot changed")
	}
	f.Delete(router.Key{Namespace: "a", Name: "one"})
	f.until(t, "no route", func() bool { return f.serviceFor("one.example") == "" })
	if got := f.certs.Wanted(); len(got) != 0 {
		t.Errorf("certificates still wanted: %v", got)
	}
}

func TestReplace(t *testing.T) {
	f := start(t, Options{})
	f.Replace([]Entry{{Ingress: ing("a/one", "one.example", "s1")}, {Ingress: ing("a/two", "two.example", "s2")}})
	f.Release()
	f.until(t, "two hosts", func() bool { return f.serviceFor("two.example") == "s2" })
	f.Replace([]Entry{{Ingress: ing("a/one", "one.example", "s1")}, {Ingress: ing("a/three", "three.example", "s3")}})
	f.until(t, "the new picture", func() bool {
		return f.serviceFor("two.example") == "" && f.serviceFor("three.example") == "s3" && f.serviceFor("one.example") == "s1"
	})
	f.until(t, "the statistics", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.stats) == 2
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stats[1].Hosts != 2 {
		t.Errorf("%d hosts recompiled, want two.example and three.example", f.stats[1].Hosts)
	}
}

// TestEndpointsDoNotPublish: the pool of a published route sees new endpoints
// without another table.
func TestEndpointsDoNotPublish(t *testing.T) {
	f := start(t, Options{})
	f.Set(ing("a/one", "one.example", "s1"), nil)
	f.Release()
	f.until(t, "s1", func() bool { return f.serviceFor("one.example") == "s1" })
	generation := f.Snapshot().Generation
	f.registry.Set(upstream.Key{Namespace: "a", Service: "s1", Port: "80"}, &upstream.State{
		Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Ready: true}},
	})
	_, pool := f.Match(&view.Request{Host: "one.example", Path: "/"})
	if n := len(pool.State().Endpoints); n != 1 || f.Snapshot().Generation != generation {
		t.Errorf("%d endpoints, generation %d", n, f.Snapshot().Generation)
	}
}

func TestProblems(t *testing.T) {
	f := start(t, Options{})
	p := func(name string) diag.Problem {
		return diag.Problem{Object: diag.Ref{Kind: "X", Name: name}, Reason: "R"}
	}
	f.Set(ing("a/one", "one.example", "s1"), []diag.Problem{p("translation")})
	f.Set(ing("b/two", "one.example", "s2"), nil)
	f.SetProblems("source", []diag.Problem{p("source")})
	f.Release()
	f.until(t, "all kinds of problems", func() bool {
		text := fmt.Sprint(f.Problems())
		for _, want := range []string{"X translation", "X source", "HostShared", "CertificateRefused", "CertificateUnusable"} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})
	f.SetProblems("source", nil)
	f.Delete(router.Key{Namespace: "a", Name: "one"})
	f.until(t, "only the missing certificate of the new owner", func() bool {
		ps := f.Problems()
		return len(ps) == 1 && ps[0].Reason == certstore.ReasonUnusable && ps[0].Object.Namespace == "b"
	})
}

// TestConcurrent lets many sources write while requests are matched; the race
// detector looks on.
func TestConcurrent(t *testing.T) {
	f := start(t, Options{Interval: 1})
	f.Release()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("a/i%d", w*100+i%10)
				f.Set(ing(name, fmt.Sprintf("h%d.example", w), "s"), nil)
				f.Match(&view.Request{Host: "h0.example", Path: "/"})
				if i%3 == 0 {
					f.Delete(router.Key{Namespace: "a", Name: strings.TrimPrefix(name, "a/")})
				}
				f.Problems()
			}
		})
	}
	wg.Wait()
	f.Set(ing("z/last", "last.example", "s"), nil)
	f.until(t, "the last write", func() bool { return f.serviceFor("last.example") == "s" })
}
