package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a publisher with two hosts, and the pages over it.
type fixture struct {
	served  chan uint64 // generations, once they are counted
	t       *testing.T
	pub     *publish.Publisher
	metrics *admin.Metrics
	sources admin.Sources
	drops   atomic.Int64
}

func ingress(name, host string) *router.Ingress {
	return &router.Ingress{
		Origin: router.Origin{Ref: diag.Ref{Kind: "Ingress", Namespace: "shop", Name: name}},
		Rules: []router.Rule{{Host: host, Field: "spec.rules[0]", Paths: []router.Path{{
			Path: "/", Backend: router.Backend{Namespace: "shop", Service: name, Port: "80"}, Field: "spec.rules[0].http.paths[0]",
		}}}},
		TLS: []router.TLS{{Hosts: []string{host}, Secret: name + "-tls", Field: "spec.tls[0]"}},
	}
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	certs, err := certstore.New(certstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := testcert.New(t).Leaf("web.example.com")
	cert, err := certstore.Parse(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	certs.SetSecret(certstore.SecretRef{Namespace: "shop", Name: "web-tls"}, cert, "")
	registry := upstream.NewRegistry(upstream.Options{})
	registry.Set(upstream.Key{Namespace: "shop", Service: "web", Port: "80"}, &upstream.State{Endpoints: []upstream.Endpoint{
		{Addr: netip.MustParseAddrPort("10.0.0.1:8080"), Ready: true, Serving: true, Target: "Pod shop/web-1"},
		{Addr: netip.MustParseAddrPort("10.0.0.2:8080"), Serving: true, Terminating: true},
		{Addr: netip.MustParseAddrPort("10.0.0.3:8080")},
	}})
	registry.Set(upstream.Key{Namespace: "shop", Service: "api", Port: "80"}, &upstream.State{Reason: "Service shop/api has no endpoints"})

	f := &fixture{t: t, metrics: admin.NewMetrics(), served: make(chan uint64, 16)}
	f.pub = publish.New(publish.Options{Registry: registry, Certs: certs, OnPublish: f.onPublish, Log: logr.Discard()})
	f.sources = admin.Sources{Publisher: f.pub, Registry: registry, Certs: certs, AccessLogDrops: f.drops.Load,
		Connections: func() admin.Connections {
			return admin.Connections{Open: 3, Limit: 4, Refused: 5, FailedHeaders: 6, FailedHandshakes: 8}
		}}
	f.metrics.Watch(f.sources)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.pub.Start(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); registry.Close() })
	return f
}

// publish waits until a table with these Ingresses is served.
func (f *fixture) publish(ings ...*router.Ingress) {
	f.t.Helper()
	entries := make([]publish.Entry, len(ings))
	for i, ing := range ings {
		entries[i].Ingress = ing
	}
	f.pub.Replace(entries)
	f.pub.Release()
	<-f.served
}

func (f *fixture) onPublish(s *publish.Snapshot, stats publish.Stats) {
	f.metrics.Published(s, stats)
	f.served <- s.Generation
}

func get(t *testing.T, h http.Handler, url string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	return w.Code, w.Body.String()
}

// has asserts that a page answers 200 and contains every text.
func has(t *testing.T, h http.Handler, url string, texts ...string) string {
	t.Helper()
	code, body := get(t, h, url)
	if code != http.StatusOK {
		t.Fatalf("%s: %d\n%s", url, code, body)
	}
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("%s lacks %q:\n%s", url, text, body)
		}
	}
	return body
}

func TestHealth(t *testing.T) {
	table := admin.Check{Name: "table"}
	h := admin.New(http.NotFoundHandler(), func() []admin.Check {
		return []admin.Check{table, {Name: "secrets[shop]", Ready: true, Detail: "refused"}}
	})
	missing := admin.Check{Name: "table", Detail: "none yet"}
	there := admin.Check{Name: "table", Ready: true}
	for _, c := range []struct {
		table admin.Check
		url   string
		code  int
		body  string
	}{
		{there, "/healthz", 200, "ok\n"},
		{missing, "/healthz", 200, "ok\n"},
		{there, "/readyz", 200, "ready\n"},
		{there, "/readyz?verbose", 200, "[+] table\n[+] secrets[shop]: refused\nready\n"},
		{missing, "/readyz", 503, "[-] table: none yet\nnot ready\n"},
		{missing, "/readyz?exclude=table", 200, "ready\n"},
		{missing, "/readyz?exclude=secrets[shop]&exclude=table&verbose", 200, "[+] table: excluded\n[+] secrets[shop]: excluded\nready\n"},
		{missing, "/readyz?exclude=other", 503, "[-] table: none yet\nnot ready\n"},
		{missing, "/readyz?verbose", 503, "[-] table: none yet\n[+] secrets[shop]: refused\nnot ready\n"},
	} {
		table = c.table
		if code, body := get(t, h, c.url); code != c.code || body != c.body {
			t.Errorf("%s with %+v: %d %q, want %d %q", c.url, c.table, code, body, c.code, c.body)
		}
	}
	for _, url := range []string{"/", "/table", "/debug/pprof/"} {
		if code, _ := get(t, h, url); code != http.StatusNotFound {
			t.Errorf("%s: %d", url, code)
		}
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	h := admin.New(f.metrics, noChecks)
	has(t, h, "/metrics", "portico_table_generation 0\n", "go_goroutines ")
	f.publish(ingress("web", "web.example.com"), ingress("api", "api.example.com"))
	f.drops.Store(7)
	observe := func(name string, status int, reason string) {
		r := &view.Record{Request: new(view.Request), Status: status, Reason: reason, Duration: 3 * time.Millisecond}
		if name != "" {
			r.Ingress, r.Service = "shop/"+name, "shop/"+name
		}
		f.metrics.Observe(r)
	}
	observe("web", 200, "")
	observe("web", 204, "")
	observe("api", 503, "no_endpoints")
	observe("", 404, "no_route")
	observe("", 0, "")
	f.metrics.Observe(&view.Record{Request: new(view.Request), Status: 101, Upgraded: true, Duration: time.Hour, Ingress: "shop/web", Service: "shop/web"})
	has(t, h, "/metrics",
		`portico_requests_total{code="2xx",ingress="shop/web",service="shop/web"} 2`,
		`portico_requests_total{code="1xx",ingress="shop/web",service="shop/web"} 1`,
		`portico_requests_total{code="5xx",ingress="shop/api",service="shop/api"} 1`,
		`portico_requests_total{code="4xx",ingress="",service=""} 1`,
		`portico_requests_total{code="other",ingress="",service=""} 1`,
		`portico_refused_requests_total{reason="no_route"} 1`,
		`portico_request_duration_seconds_bucket{ingress="shop/web",le="0.0025"} 0`,
		`portico_request_duration_seconds_bucket{ingress="shop/web",le="0.005"} 2`,
		`portico_request_duration_seconds_count{ingress="shop/web"} 2`,
		"portico_table_generation 1\n", "portico_table_hosts 2\n", "portico_table_routes 2\n",
		"portico_publish_latency_seconds_count 1\n", "portico_publish_compile_seconds_count 1\n",
		`portico_endpoints{state="ready"} 1`, `portico_endpoints{state="terminating"} 1`, `portico_endpoints{state="unready"} 1`,
		`portico_pools{state="usable"} 1`, `portico_pools{state="empty"} 1`,
		`portico_certificate_expiry_timestamp_seconds{host=""}`, `portico_certificate_expiry_timestamp_seconds{host="web.example.com"}`,
		`portico_certificate_not_before_timestamp_seconds{host="web.example.com"}`,
		`portico_problems{reason="CertificateUnusable"} 1`,
		"portico_access_log_dropped_total 7\n",
		"portico_connections 3\n", "portico_connections_limit 4\n", "portico_refused_connections_total 5\n",
		`portico_failed_connections_total{stage="proxy_protocol"} 6`, `portico_failed_connections_total{stage="tls_handshake"} 8`,
	)
	if _, body := get(t, h, "/metrics"); strings.Contains(body, `{host="api.example.com"}`) {
		t.Error("the date of the default certificate is shown as that of a host that has none of its own")
	}

	f.publish(ingress("web", "web.example.com"))
	body := has(t, h, "/metrics", `ingress="shop/web"`, `ingress=""`)
	for line := range strings.Lines(body) {
		if strings.Contains(line, "shop/api") || strings.Contains(line, "api.example.com") {
			t.Errorf("a series of a removed Ingress: %s", line)
		}
	}
	observe("web", 200, "")
	has(t, h, "/metrics", `portico_requests_total{code="2xx",ingress="shop/web",service="shop/web"} 3`)
}

func TestMetricsTellWhatIsDegraded(t *testing.T) {
	m := admin.NewMetrics()
	m.WatchChecks(func() []admin.Check {
		return []admin.Check{{Name: "table", Ready: true}, {Name: "apiserver", Ready: true, Detail: "silent"}, {Name: "ingresses"}}
	})
	has(t, admin.New(m, noChecks), "/metrics",
		`portico_degraded{check="table"} 0`, `portico_degraded{check="apiserver"} 1`, `portico_degraded{check="ingresses"} 1`)
}

func TestObserveDoesNotAllocate(t *testing.T) {
	m := admin.NewMetrics()
	r := &view.Record{Request: new(view.Request), Status: 502, Reason: "dial", Ingress: "shop/web", Service: "shop/web", Duration: time.Millisecond}
	if n := testing.AllocsPerRun(100, func() { m.Observe(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := admin.NewMetrics()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		r := &view.Record{Request: new(view.Request), Status: 200, Ingress: "shop/web", Service: "shop/web", Duration: time.Millisecond}
		for p.Next() {
			m.Observe(r)
		}
	})
}

func TestDebug(t *testing.T) {
	f := newFixture(t)
	h := admin.NewDebug(f.sources)
	const base = "http://127.0.0.1:9091"
	if code, body := get(t, h, base+"/table"); code != http.StatusServiceUnavailable {
		t.Errorf("before the first table: %d %s", code, body)
	}
	f.publish(ingress("web", "web.example.com"), ingress("api", "api.example.com"))
	f.pub.SetProblems("test", []diag.Problem{{Object: diag.Ref{Kind: "Service", Namespace: "shop", Name: "x"}, Field: "spec", Reason: "Bad", Message: "is bad", Remedy: "Mend it"}})

	has(t, h, base+"/", "/table", "/problems", "/certificates", "/debug/pprof/")
	has(t, h, base+"/table", "generation 1", "host web.example.com", "shop/web:80", "10.0.0.1:8080 ready", "10.0.0.2:8080 terminating", "10.0.0.3:8080 unready", "Service shop/api has no endpoints")
	has(t, h, base+"/problems", "Service shop/x: spec: Bad: is bad. Mend it\n", "Secret shop/api-tls does not exist")
	has(t, h, base+"/certificates", "(default)", "web.example.com  Secret shop/web-tls", "Secret shop/api-tls does not exist")
	has(t, h, base+"/debug/pprof/goroutine?debug=1", "goroutine profile")
	has(t, h, "http://localhost:9091/", "/table")
	has(t, h, "http://[::1]:9091/", "/table")

	var table struct {
		Generation uint64
		Hosts      []struct {
			Host   string
			Routes []struct{ Path, PathType, Backend, Ingress string }
		}
		Pools []struct {
			Name      string
			Endpoints []struct{ Address, State, Target string }
		}
	}
	decode(t, has(t, h, base+"/table?format=json"), &table)
	if table.Generation != 1 || len(table.Hosts) != 2 || table.Hosts[1].Routes[0].Backend != "shop/web:80" ||
		len(table.Pools) != 2 || table.Pools[1].Endpoints[0].Target != "Pod shop/web-1" {
		t.Errorf("table %+v", table)
	}
	var problems []struct{ Object, Reason, Remedy string }
	decode(t, has(t, h, base+"/problems?format=json"), &problems)
	if len(problems) != 2 || problems[1].Object != "Service shop/x" || problems[1].Remedy != "Mend it" {
		t.Errorf("problems %+v", problems)
	}
	var certificates []struct {
		Host, Source string
		Names        []string
		NotAfter     time.Time
	}
	decode(t, has(t, h, base+"/certificates?format=json"), &certificates)
	if len(certificates) != 3 || certificates[2].Names[0] != "web.example.com" || certificates[2].NotAfter.Before(time.Now()) {
		t.Errorf("certificates %+v", certificates)
	}

	for url, want := range map[string]int{
		base + "/nowhere":                http.StatusNotFound,
		base + "/table?format=xml":       http.StatusBadRequest,
		"http://evil.example:9091/":      http.StatusForbidden,
		"http://localhost.example:9091/": http.StatusForbidden,
	} {
		if code, _ := get(t, h, url); code != want {
			t.Errorf("%s: %d, want %d", url, code, want)
		}
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
}

// TestServer: other methods are refused, a request under way at the end is
// answered, and the listener is closed.
func TestServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	s := admin.NewServer(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-leave
		}
		fmt.Fprint(w, "done")
	}), time.Minute, logr.Discard())
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Start(ctx) }()
	base := "http://" + l.Addr().String()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405, "OPTIONS": 405} {
		req, err := http.NewRequest(method, base+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want || want == 405 && res.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d %v", method, res.StatusCode, res.Header)
		}
	}

	answered := make(chan string, 1)
	go func() {
		res, err := client.Get(base + "/slow")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answered <- string(body)
	}()
	<-entered
	cancel()
	close(leave)
	if got := <-answered; got != "done" {
		t.Errorf("the request under way: %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := client.Get(base + "/"); err == nil {
		t.Error("the listener is still open")
	}
}

func noChecks() []admin.Check { return nil }
