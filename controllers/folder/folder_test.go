package folder_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/controllers/folder"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ingress is a manifest that leads a host to a Service, with TLS.
func ingress(name, host, service string) string {
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %s}
spec:
  tls: [{hosts: [%q], secretName: %[1]s-tls}]
  rules:
    - host: %[2]q
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: %s, port: {number: 80}}}}
`, name, host, service)
}

// service is a manifest of a Service and its endpoint on a local port.
func service(name string, port int) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1]}]
ports: [{port: %d}]
`, name, port)
}

// fixture is a Source at work.
type fixture struct {
	t        *testing.T
	dir      string
	pub      *publish.Publisher
	registry *upstream.Registry
	certs    *certstore.Store
	report   *report
	stop     func()
}

// report collects what the user is told.
type report struct {
	mu   sync.Mutex // protects the following
	text bytes.Buffer
	more chan struct{} // closed at the next write
}

func (r *report) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.more)
	r.more = make(chan struct{})
	return r.text.Write(p)
}

func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// wait waits until the report contains all texts.
func (r *report) wait(t *testing.T, texts ...string) {
	t.Helper()
	for {
		r.mu.Lock()
		got, more := r.text.String(), r.more
		r.mu.Unlock()
		missing := ""
		for _, text := range texts {
			if !strings.Contains(got, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-more:
		case <-t.Context().Done():
		case <-deadline(t):
			t.Fatalf("the report lacks %q:\n%s", missing, got)
		}
	}
}

func deadline(*testing.T) <-chan time.Time { return time.After(20 * time.Second) }

func newFixture(t *testing.T, files map[string]string, change ...func(*folder.Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), registry: upstream.NewRegistry(upstream.Options{}), report: &report{more: make(chan struct{})}}
	for name, text := range files {
		f.write(name, text)
	}
	var err error
	if f.certs, err = certstore.New(certstore.Options{}); err != nil {
		t.Fatal(err)
	}
	f.pub = publish.New(publish.Options{Registry: f.registry, Certs: f.certs})
	opts := folder.Options{Paths: []string{f.dir}, Publisher: f.pub, Registry: f.registry, Certs: f.certs,
		Report: f.report, Log: logr.Discard(), Poll: 20 * time.Millisecond}
	for _, c := range change {
		c(&opts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.pub.Start(ctx) })
	wg.Go(func() {
		if err := folder.New(opts).Start(ctx); err != nil {
			t.Error(err)
		}
	})
	f.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(func() { f.stop(); f.registry.Close() })
	return f
}

// write replaces a file as an editor does: a draft, then a rename.
func (f *fixture) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path+"~", []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		f.t.Fatal(err)
	}
}

// endpoint is where a request for the host's root goes, "" if nowhere.
func (f *fixture) endpoint(host string) string {
	_, pool := f.pub.Match(&view.Request{Method: "GET", Host: host, Path: "/"})
	if pool == nil {
		return ""
	}
	if usable := pool.State().Usable(); len(usable) > 0 {
		return usable[0].Addr.String()
	}
	return pool.State().Reason
}

// until waits for a condition, which is looked at whenever something is
// published and, for endpoints, which are not, every few milliseconds.
func (f *fixture) until(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := deadline(f.t)
	for !ok() {
		select {
		case <-f.pub.Changed():
		case <-tick.C:
		case <-end:
			f.t.Fatalf("never came: %s\nreport:\n%s\nproblems: %v", what, f.report, f.pub.Problems())
		}
	}
}

func (f *fixture) served(host, endpoint string) {
	f.t.Helper()
	f.until(host+" at "+endpoint, func() bool { return f.endpoint(host) == endpoint })
}

func TestFollow(t *testing.T) {
	f := newFixture(t, map[string]string{"shop.yaml": ingress("shop", "shop.localhost", "web") + service("web", 9001)})
	f.served("shop.localhost", "127.0.0.1:9001")

	f.write("shop.yaml", ingress("shop", "shop.localhost", "web")+service("web", 9002))
	f.served("shop.localhost", "127.0.0.1:9002")

	f.write("sub/api.yaml", ingress("api", "api.localhost", "api")+service("api", 9003))
	f.served("api.localhost", "127.0.0.1:9003")
	f.write("sub/api.yaml", ingress("api", "api.localhost", "api")+service("api", 9004))
	f.served("api.localhost", "127.0.0.1:9004")

	if err := os.Remove(filepath.Join(f.dir, "sub/api.yaml")); err != nil {
		t.Fatal(err)
	}
	f.served("api.localhost", "")
	f.served("shop.localhost", "127.0.0.1:9002")

	f.until("the pool of the removed Ingress is forgotten", func() bool {
		for _, p := range f.registry.Pools() {
			if p.Key().Service == "api" {
				return false
			}
		}
		return true
	})
}

func TestBrokenEdit(t *testing.T) {
	good := ingress("shop", "shop.localhost", "web") + service("web", 9001)
	f := newFixture(t, map[string]string{"shop.yaml": good, "other.yaml": ingress("other", "other.localhost", "web")})
	f.served("shop.localhost", "127.0.0.1:9001")

	f.write("shop.yaml", strings.Replace(good, "pathType: Prefix", "pathtype: Prefix", 1))
	f.report.wait(t, f.dir+"/shop.yaml:10: Ingress default/shop: spec.rules[0].http.paths[0].pathtype: unknown field; did you mean pathType?\n",
		"1 fault: the last good table keeps being served\n")
	f.served("shop.localhost", "127.0.0.1:9001")
	f.until("the fault is among the problems", func() bool {
		return strings.Contains(fmt.Sprint(f.pub.Problems()), "did you mean pathType?")
	})

	// The same fault on another line is no news.
	f.write("shop.yaml", "# a comment\n"+strings.Replace(good, "pathType: Prefix", "pathtype: Prefix", 1))
	f.until("the fault moved", func() bool { return strings.Contains(fmt.Sprint(f.pub.Problems()), "shop.yaml:11") })

	// A good edit elsewhere waits too, and that is said.
	f.write("other.yaml", ingress("other", "else.localhost", "web"))
	f.report.wait(t, "still 1 fault, the first in "+f.dir+"/shop.yaml:11: this change is not served")
	f.served("else.localhost", "")

	f.write("shop.yaml", ingress("shop", "new.localhost", "web")+service("web", 9001))
	f.report.wait(t, "mended: the manifests have no faults any more")
	f.served("new.localhost", "127.0.0.1:9001")
	f.served("shop.localhost", "")
	if n := strings.Count(f.report.String(), "unknown field"); n != 1 {
		t.Errorf("told %d times:\n%s", n, f.report)
	}
}

func TestFirstLoadWithFault(t *testing.T) {
	f := newFixture(t, map[string]string{
		"a.yaml": "nonsense: true\n",
		"b.yaml": ingress("shop", "shop.localhost", "web") + service("web", 9001),
	})
	f.served("shop.localhost", "127.0.0.1:9001")
	f.report.wait(t, "/a.yaml:1: is not a Kubernetes object", "1 fault: everything else is served\n")
}

// TestFaultFromTheStart: as long as no load was without fault there is no last
// good table, and good edits are served.
func TestFaultFromTheStart(t *testing.T) {
	f := newFixture(t, map[string]string{"bad.yaml": "kind: [", "web.yaml": service("web", 9001), "a.yaml": ingress("a", "a.localhost", "web")})
	f.served("a.localhost", "127.0.0.1:9001")
	f.write("a.yaml", ingress("a", "b.localhost", "web"))
	f.served("b.localhost", "127.0.0.1:9001")
	f.served("a.localhost", "")
}

func TestProblemsAndNotices(t *testing.T) {
	f := newFixture(t, map[string]string{
		"a.yaml": ingress("shop", "shop.example.com", "missing"),
		"b.yaml": "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: other}\nspec: {controller: example.com/other}\n---\n" +
			"apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: portico, annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}}\nspec: {controller: portico.dev/ingress-controller}\n",
		"c.yaml": strings.Replace(ingress("foreign", "foreign.localhost", "web"), "spec:", "spec:\n  ingressClassName: other", 1),
		"d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n",
		"e.yaml": "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: old}\nspec: {backend: {serviceName: web, servicePort: 80}}\n" + service("web", 9001),
	})
	f.report.wait(t,
		"a.yaml:5: Ingress default/shop: spec.tls[0]", "Secret default/shop-tls does not exist",
		"a.yaml:10: Ingress default/shop: ", "Service default/missing does not exist",
		"c.yaml:1: Ingress default/foreign is not served: ",
		"ignored objects of other kinds: 1 apps/v1 Deployment\n",
		"e.yaml:1: Ingress default/old: is written as extensions/v1beta1", "\n      name: web\n")
	f.write("a.yaml", ingress("shop", "shop.example.com", "web"))
	f.report.wait(t, "mended: Ingress default/shop: ")
	if n := strings.Count(f.report.String(), "extensions/v1beta1"); n != 1 {
		t.Errorf("the old form is told of %d times:\n%s", n, f.report)
	}
}

// TestLinks: changes behind links give no notification here, so this is about
// polling. The kubelet swaps a mounted ConfigMap by renaming a link.
func TestLinks(t *testing.T) {
	outside := t.TempDir()
	for version, port := range map[string]int{"1": 9001, "2": 9002} {
		dir := filepath.Join(outside, version)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(ingress("shop", "shop.localhost", "web")+service("web", port)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(outside, "..data")
	if err := os.Symlink("1", data); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, nil, func(o *folder.Options) {
		if err := os.Symlink(filepath.Join(data, "shop.yaml"), filepath.Join(o.Paths[0], "shop.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	f.served("shop.localhost", "127.0.0.1:9001")
	if err := os.Symlink("2", data+"_tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+"_tmp", data); err != nil {
		t.Fatal(err)
	}
	f.served("shop.localhost", "127.0.0.1:9002")
}

// TestNotifications: with polling as good as off, an edit still takes effect.
func TestNotifications(t *testing.T) {
	f := newFixture(t, map[string]string{"shop.yaml": ingress("shop", "shop.localhost", "web") + service("web", 9001)},
		func(o *folder.Options) { o.Poll = time.Hour })
	f.served("shop.localhost", "127.0.0.1:9001")
	f.write("shop.yaml", ingress("shop", "shop.localhost", "web")+service("web", 9002))
	f.served("shop.localhost", "127.0.0.1:9002")
}

func TestStdin(t *testing.T) {
	f := newFixture(t, map[string]string{"api.yaml": service("web", 9001)}, func(o *folder.Options) {
		o.Paths = append(o.Paths, "-")
		o.Stdin = strings.NewReader(ingress("shop", "shop.localhost", "web"))
	})
	f.served("shop.localhost", "127.0.0.1:9001")
	f.write("api.yaml", service("web", 9002)) // standard input is remembered
	f.served("shop.localhost", "127.0.0.1:9002")
}

func TestMissingPath(t *testing.T) {
	err := folder.New(folder.Options{Paths: []string{"/nowhere"}}).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("got %v", err)
	}
}

// TestEndsMeanwhile: that a certificate has ended is told when it has, although no
// file changes then.
func TestEndsMeanwhile(t *testing.T) {
	now := time.Now()
	chain, key := testcert.New(t).LeafOf(testcert.ECDSA, now.Add(-time.Hour), now.Add(2*time.Second), "shop.example.com")
	f := newFixture(t, map[string]string{
		"shop.yaml": ingress("shop", "shop.example.com", "web"), "web.yaml": service("web", 9001),
		"tls.yaml": fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: shop-tls}\ntype: kubernetes.io/tls\nstringData: {tls.crt: %q, tls.key: %q}\n", chain, key),
	})
	f.served("shop.example.com", "127.0.0.1:9001")
	f.report.wait(t, "expired at ")
}
