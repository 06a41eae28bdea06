package envtest_test

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/envtest"
)

// BenchmarkScale measures, with 10,000 Ingresses of 3 paths, 10,000 Services
// and 100,000 endpoints at a real apiserver (PORTICO_SCALE sets the number of
// Ingresses), how long it takes from the start to the first table, from an
// update of an Ingress to the served table, and from an update of an
// EndpointSlice to the pool. Making the objects takes minutes, which is why it
// is no part of make test or make bench.
func BenchmarkScale(b *testing.B) {
	n := 10000
	if s := os.Getenv("PORTICO_SCALE"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			b.Fatalf("PORTICO_SCALE is %q, want a number of Ingresses", s)
		}
	}
	c := newCluster(b)
	c.Client = fastClient(b)
	b.Logf("making %d Ingresses, Services and EndpointSlices", n)
	c.populate(n)

	before := heap()
	begin := time.Now()
	in := c.start(func(s *settings) { s.silent = true })
	for in.publisher.Snapshot() == nil {
		<-in.publisher.Changed()
	}
	first := time.Since(begin)
	perIngress := float64(heap()-before) / float64(n)

	b.Run("Start", func(b *testing.B) {
		for b.Loop() { // once is enough, and has been
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(first.Seconds(), "s-to-first-table")
		b.ReportMetric(perIngress, "heap-B/ingress") // with its Service and 10 endpoints
	})
	in.stop()
	b.Run("Process", func(b *testing.B) {
		for b.Loop() {
		}
		c.measureProcess(b, n)
	})
	in = c.start(func(s *settings) { s.silent = true })
	for in.publisher.Snapshot() == nil {
		<-in.publisher.Changed()
	}
	b.Run("Ingress", func(b *testing.B) { c.measureIngress(b, in, n) })
	b.Run("EndpointSlice", func(b *testing.B) { c.measureSlice(b, in, n) })
}

func fastClient(b *testing.B) client.Client {
	b.Helper()
	cfg := envtest.Config()
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	admin, err := client.New(cfg, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		b.Fatal(err)
	}
	return admin
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func scaleName(i int) string { return fmt.Sprintf("n-%05d", i) }

func scaleHost(i int) string { return scaleName(i) + ".example" }

// populate makes n of everything, some at a time.
func (c *cluster) populate(n int) {
	c.t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			for _, obj := range c.scaleObjects(i) {
				if err := c.Create(c.t.Context(), obj); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) scaleObjects(i int) []client.Object {
	name := scaleName(i)
	meta := func() metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: c.namespace, Name: name} }
	ing := &networkingv1.Ingress{ObjectMeta: meta(), Spec: networkingv1.IngressSpec{IngressClassName: &c.class}}
	for _, path := range []string{"/", "/api", "/static"} {
		rule(scaleHost(i), prefix, path, name)(ing)
	}
	// Headless: the allocation of cluster IPs would be most of the time.
	svc := &corev1.Service{ObjectMeta: meta(), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}}}
	port, unnamed := int32(endpointPort), ""
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &unnamed, Port: &port}},
		Endpoints:   scaleEndpoints(i, 10),
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	return []client.Object{svc, slice, ing}
}

// scaleEndpoints are addresses that an apiserver takes and that are never
// connected to: requests are answered 502 where they would go.
func scaleEndpoints(i, count int) []discoveryv1.Endpoint {
	var out []discoveryv1.Endpoint
	for j := range count {
		out = append(out, ready(fmt.Sprintf("0.%d.%d.%d", 1+i>>8, i&255, 1+j)))
	}
	return out
}

// pause lets the publisher's interval pass, so that each update is the first
// after quiet.
func pause() { <-time.After(100 * time.Millisecond) }

func (c *cluster) measureIngress(b *testing.B, in *instance, n int) {
	var calls, returns []time.Duration
	for i := 0; b.Loop(); i++ {
		k := i * 7919 % n
		ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: scaleName(k)}}
		if !c.exists(ing) {
			b.Fatalf("no Ingress %s", ing.Name)
		}
		path := fmt.Sprint("/changed-", i)
		ing.Spec.Rules[0].HTTP.Paths[1].Path = path
		pause()
		called := time.Now()
		if err := c.Update(b.Context(), ing); err != nil {
			b.Fatal(err)
		}
		returned := time.Now()
		req := &view.Request{Method: "GET", Scheme: "http", Host: scaleHost(k), Path: path, Conn: new(view.Conn)}
		for {
			changed := in.publisher.Changed()
			if d, _ := in.publisher.Match(req); d.Route != nil && d.Route.Path == path {
				break
			}
			<-changed
		}
		calls = append(calls, time.Since(called))
		returns = append(returns, max(0, time.Since(returned)))
	}
	report(b, "call", calls)
	report(b, "return", returns)
}

func (c *cluster) measureSlice(b *testing.B, in *instance, n int) {
	var calls []time.Duration
	for i := 0; b.Loop(); i++ {
		k := i * 7919 % n
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: scaleName(k)}}
		if !c.exists(slice) {
			b.Fatalf("no EndpointSlice %s", slice.Name)
		}
		want := 1 + len(slice.Endpoints)%10
		slice.Endpoints = scaleEndpoints(k, want)
		pool := in.registry.Pool(upstream.Key{Namespace: c.namespace, Service: scaleName(k), Port: "80"})
		called := time.Now()
		if err := c.Update(b.Context(), slice); err != nil {
			b.Fatal(err)
		}
		for len(pool.State().Endpoints) != want {
			runtime.Gosched()
		}
		calls = append(calls, time.Since(called))
	}
	report(b, "call", calls)
}

// report gives the median and the 99th percentile since the call of Update and
// since its return.
func report(b *testing.B, since string, times []time.Duration) {
	slices.SortFunc(times, cmp.Compare)
	for _, p := range []int{50, 99} {
		at := times[min(len(times)-1, len(times)*p/100)]
		b.ReportMetric(float64(at.Microseconds())/1000, fmt.Sprintf("ms-p%d-since-%s", p, since))
	}
}
