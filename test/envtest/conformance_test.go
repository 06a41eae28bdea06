package envtest_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/tls/certstore"
)

// The behaviours that the Ingress API promises, as a client sees them.

func TestDefaultBackend(t *testing.T) {
	c := newCluster(t)
	c.echoService("fallback")
	c.ingress("web", defaultBackend("fallback"))
	in := c.start()
	in.wait("any.example", "/", "fallback")
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		for _, url := range []string{"http://my-host/", "http://other.example/sub/path?q=1", "http://192.0.2.1/x"} {
			a := in.do(method, url, "X-Custom", "as sent")
			if a.status != http.StatusOK || a.echo.Backend != "fallback" || a.echo.Method != method {
				t.Errorf("%s %s: %d from %q as %q", method, url, a.status, a.echo.Backend, a.echo.Method)
				continue
			}
			if "http://"+a.echo.Host+a.echo.Target != url {
				t.Errorf("%s %s: the backend saw host %q, target %q", method, url, a.echo.Host, a.echo.Target)
			}
			for name, want := range map[string]string{
				"X-Custom": "as sent", "X-Forwarded-Proto": "http", "X-Forwarded-Host": a.echo.Host, "X-Forwarded-For": "127.0.0.1",
			} {
				if got := a.echo.Headers.Get(name); got != want {
					t.Errorf("%s %s: the backend saw %s: %q, want %q", method, url, name, got, want)
				}
			}
		}
	}
	if a := in.do("HEAD", "http://any.example/"); a.status != http.StatusOK {
		t.Errorf("HEAD: %d", a.status)
	}
}

func TestWildcardHost(t *testing.T) {
	c := newCluster(t)
	c.echoService("wild")
	c.echoService("exact")
	c.ingress("web", rule("*.foo.example", prefix, "/", "wild"), rule("one.foo.example", prefix, "/only", "exact"))
	in := c.start()
	in.wait("bar.foo.example", "/", "wild")
	for host, want := range map[string]string{
		"BAR.foo.example.":     "wild",
		"bar.foo.example:8080": "wild",
		"baz.bar.foo.example":  "404",
		"foo.example":          "404",
		"barfoo.example":       "404",
		"one.foo.example":      "404", // chosen first, and final
	} {
		if got := in.served(host, "/"); got != want {
			t.Errorf("host %s is answered by %s, want %s", host, got, want)
		}
	}
	if got := in.served("one.foo.example", "/only"); got != "exact" {
		t.Errorf("the exact host is answered by %s", got)
	}
}

func TestTLSHostVerifiedByName(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.ingress("web", rule("shop.example", prefix, "/", "one"), rule("mall.example", prefix, "/", "one"), tlsFor("shop-tls", "shop.example"))
	data := keyPair(t, "shop", "shop.example", "mall.example")
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, data)
	in := c.start()
	in.waitCertificate("shop.example", "shop")
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data[corev1.TLSCertKey]) {
		t.Fatal("no certificate")
	}
	verifying := http.Client{Transport: in.transport(&tls.Config{RootCAs: roots})}
	resp, err := verifying.Get("https://shop.example/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.TLS.Version < tls.VersionTLS12 {
		t.Errorf("status %d, TLS %x", resp.StatusCode, resp.TLS.Version)
	}
	// The certificate is also for mall.example, but spec.tls does not say so.
	if resp, err := verifying.Get("https://mall.example/"); err == nil {
		resp.Body.Close()
		t.Errorf("a host that spec.tls does not name is verified, with the certificate of %v", resp.TLS.PeerCertificates[0].Subject)
	}
	if a := in.do("GET", "http://shop.example/"); a.status != http.StatusPermanentRedirect {
		t.Errorf("plaintext is answered by %d, want a redirect", a.status)
	}
}

func TestAllEndpointsAreReached(t *testing.T) {
	c := newCluster(t)
	var names []string
	slice := c.service("many")
	for i := range 10 {
		name := fmt.Sprint("endpoint-", i)
		names = append(names, name)
		slice.Endpoints = append(slice.Endpoints, ready(newBackend(t, name)))
	}
	if err := c.Update(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
	c.ingress("web", rule("shop.example", prefix, "/", "many"))
	in := c.start()
	in.waitRouted("shop.example", "/")
	seen := map[string]int{}
	for range 100 {
		seen[in.served("shop.example", "/")]++
	}
	for _, name := range names {
		if seen[name] == 0 {
			t.Errorf("%s was not reached in 100 requests: %v", name, seen)
		}
	}
}

// waitRouted waits until a request is answered by a backend.
func (in *instance) waitRouted(host, path string) {
	in.t.Helper()
	eventually(in.t, func() error {
		if a := in.do("GET", "http://"+host+path); a.status != http.StatusOK {
			return fmt.Errorf("%s%s is answered with %d", host, path, a.status)
		}
		return nil
	})
}

// Ready endpoints are used; if there is none, those that still serve while
// they terminate; of several slices all.
func TestEndpointConditions(t *testing.T) {
	c := newCluster(t)
	up, leaving, down := newBackend(t, "ready"), newBackend(t, "leaving"), newBackend(t, "unready")
	slice := c.service("web", ready(up), endpoint(leaving, false, true, true), endpoint(down, false, false, false))
	c.ingress("web", rule("shop.example", prefix, "/", "web"))
	in := c.start()
	in.wait("shop.example", "/", "ready")
	for range 20 {
		if got := in.served("shop.example", "/"); got != "ready" {
			t.Fatalf("a request was answered by %s", got)
		}
	}
	set := func(i int, conditions func(e *conditionsOf)) {
		t.Helper()
		conditions(&slice.Endpoints[i].Conditions)
		if err := c.Update(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
	}
	yes, no := true, false
	set(0, func(e *conditionsOf) { e.Ready, e.Serving = &no, &no })
	in.wait("shop.example", "/", "leaving")
	set(1, func(e *conditionsOf) { e.Serving = &no })
	in.wait("shop.example", "/", "503")
	set(2, func(e *conditionsOf) { e.Ready, e.Serving = &yes, &yes })
	in.wait("shop.example", "/", "unready")

	second := c.slice("web", "web-2", ready(newBackend(t, "second slice")))
	in.wait("shop.example", "/", "second slice")
	in.wait("shop.example", "/", "unready")
	c.delete(second)
	c.delete(slice)
	in.wait("shop.example", "/", "503")
}

// A host belongs to the namespace of the oldest Ingress that names it.
func TestHostOwnership(t *testing.T) {
	c := newCluster(t)
	other := c.newNamespace()
	c.echoService("one")
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "owner", "shop.example"))
	c.secret(other, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "thief", "shop.example"))
	first := c.ingress("z-first", rule("shop.example", prefix, "/", "one"), tlsFor("shop-tls", "shop.example"))
	c.waitNextSecond(first)
	c.ingressIn(other, "a-second", rule("shop.example", prefix, "/", "stolen"), rule("shop.example", prefix, "/more", "more"), tlsFor("shop-tls", "shop.example"))
	in := c.start(func(s *settings) { s.namespaces = []string{c.namespace, other} })
	in.waitURL("https://shop.example/", "one")
	in.waitCertificate("shop.example", "owner")
	in.waitURL("https://shop.example/more", "503") // merged; its Service does not exist

	strict := c.start(func(s *settings) {
		s.namespaces = []string{c.namespace, other}
		s.router.StrictHosts = true
	})
	strict.waitURL("https://shop.example/more", "one")

	// The second inherits what the first leaves.
	c.delete(first)
	in.waitURL("https://shop.example/", "503")
	in.waitCertificate("shop.example", "thief")
}

func pathRow(kind networkingv1.PathType, path, request, want string) row {
	return row{paths: []pathOf{{kind, path, "one"}}, request: request, want: want}
}

type pathOf struct {
	kind    networkingv1.PathType
	path    string
	service string
}

type row struct {
	paths   []pathOf
	request string
	want    string // backend or status
}

// Every row of the tables in the documentation of the Ingress API.
func TestPathTables(t *testing.T) {
	c := newCluster(t)
	for _, s := range []string{"one", "two", "three"} {
		c.echoService(s)
	}
	rows := []row{
		pathRow(prefix, "/", "/any/path", "one"),
		pathRow(prefix, "/", "/", "one"),
		pathRow(exact, "/foo", "/foo", "one"),
		pathRow(exact, "/foo", "/bar", "404"),
		pathRow(exact, "/foo", "/foo/", "404"),
		pathRow(exact, "/foo/", "/foo", "404"),
		pathRow(exact, "/foo/", "/foo/", "one"),
		pathRow(exact, "/foo", "/FOO", "404"),
		pathRow(prefix, "/foo", "/foo", "one"),
		pathRow(prefix, "/foo", "/foo/", "one"),
		pathRow(prefix, "/foo", "/FOO", "404"),
		pathRow(prefix, "/foo/", "/foo", "one"),
		pathRow(prefix, "/foo/", "/foo/", "one"),
		pathRow(prefix, "/aaa/bb", "/aaa/bbb", "404"),
		pathRow(prefix, "/aaa/bbb", "/aaa/bbb", "one"),
		pathRow(prefix, "/aaa/bbb/", "/aaa/bbb", "one"),
		pathRow(prefix, "/aaa/bbb", "/aaa/bbb/", "one"),
		pathRow(prefix, "/aaa/bbb", "/aaa/bbb/ccc", "one"),
		pathRow(prefix, "/aaa/bbb", "/aaa/bbbxyz", "404"),
		{[]pathOf{{prefix, "/", "one"}, {prefix, "/aaa", "two"}}, "/aaa/ccc", "two"},
		{[]pathOf{{prefix, "/", "one"}, {prefix, "/aaa", "two"}, {prefix, "/aaa/bbb", "three"}}, "/aaa/bbb", "three"},
		{[]pathOf{{prefix, "/", "one"}, {prefix, "/aaa", "two"}, {prefix, "/aaa/bbb", "three"}}, "/ccc", "one"},
		pathRow(prefix, "/aaa", "/ccc", "fallback"),
		{[]pathOf{{prefix, "/foo", "one"}, {exact, "/foo", "two"}}, "/foo", "two"},
	}
	for i, r := range rows {
		host := fmt.Sprintf("row-%d.example", i)
		var parts []func(*networkingv1.Ingress)
		for _, p := range r.paths {
			parts = append(parts, rule(host, p.kind, p.path, p.service))
		}
		if r.want == "fallback" {
			c.echoService("fallback")
			parts = append(parts, defaultBackend("fallback"))
		}
		c.ingress(fmt.Sprint("row-", i), parts...)
	}
	in := c.start()
	in.waitRouted("row-0.example", "/")
	for i, r := range rows {
		if got := in.served(fmt.Sprintf("row-%d.example", i), r.request); got != r.want {
			t.Errorf("row %d: paths %v, request %s: answered by %s, want %s", i, r.paths, r.request, got, r.want)
		}
	}
}

// The reason of the certificate store's fallback is told to the user.
func TestMissingSecretIsReported(t *testing.T) {
	c := newCluster(t)
	c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("absent", "shop.example"))
	c.start()
	c.waitReason("web", string(certstore.ReasonUnusable))
}
