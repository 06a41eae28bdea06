package envtest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/ingress"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/tls/certstore"
)

// A gate holds requests for Secrets back until it is opened.
type gate struct {
	next http.RoundTripper
	open chan struct{}
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/secrets") {
		select {
		case <-g.open:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	return g.next.RoundTrip(req)
}

// Nothing is served before the first complete picture, Secrets included; the
// first table finds them all.
func TestFirstPictureIsComplete(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.secret(c.namespace, "typed", corev1.SecretTypeTLS, keyPair(t, "typed", "typed.example"))
	c.secret(c.namespace, "opaque", corev1.SecretTypeOpaque, keyPair(t, "opaque", "opaque.example"))
	c.ingress("web", rule("typed.example", prefix, "/", "one"), rule("opaque.example", prefix, "/", "one"),
		tlsFor("typed", "typed.example"), tlsFor("opaque", "opaque.example"))
	g := &gate{open: make(chan struct{})}
	in := c.start(func(s *settings) {
		s.interval = time.Microsecond // what may be published is published at once
		s.config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			g.next = next
			return g
		}
	})
	eventually(t, func() error { return in.waitsFor("secrets["+c.namespace+"]", "table") })
	// An Ingress made now has its turn after all that came first: when its
	// pool is known, everything but the Secrets has been handed over.
	c.echoService("two")
	c.ingress("later", rule("later.example", prefix, "/", "two"))
	later := in.registry.Pool(upstream.Key{Namespace: c.namespace, Service: "two", Port: "80"})
	eventually(t, func() error {
		if later.Usable() == 0 {
			return errNotYet(later.State().Reason)
		}
		return nil
	})
	if in.publisher.Snapshot() != nil {
		t.Error("a table is served before Secrets are known")
	}
	if got := in.servedURL("https://typed.example/"); got == "one" {
		t.Errorf("a request is answered by %s before Secrets are known", got)
	}
	changed := in.publisher.Changed()
	close(g.open)
	for in.publisher.Snapshot() == nil {
		<-changed
		changed = in.publisher.Changed()
	}
	for _, name := range []string{"typed", "opaque"} {
		if got := in.certs.Select(name + ".example").Certificate.Leaf.Subject.CommonName; got != name {
			t.Errorf("with the first table, %s.example gets certificate %q", name, got)
		}
	}
	if err := in.waitsFor(); err != nil {
		t.Error(err)
	}
}

// waitsFor returns nil if exactly the named checks are not met.
func (in *instance) waitsFor(names ...string) error {
	var open []string
	for _, check := range in.follows.Ready() {
		if !check.Ready {
			open = append(open, check.Name)
		}
	}
	if strings.Join(open, " ") != strings.Join(names, " ") {
		return errNotYet("readiness waits for " + strings.Join(open, " ") + ", not for " + strings.Join(names, " "))
	}
	return nil
}

// A line is a way to the apiserver that can be cut.
type line struct {
	mu    sync.Mutex // protects the following
	cut   bool
	conns []net.Conn
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("the line is cut")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

// Losing the apiserver changes nothing; what happened meanwhile is caught up
// with.
func TestApiserverLost(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.echoService("two")
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("shop-tls", "tls.example"))
	secret := c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "first", "tls.example"))
	l := new(line)
	in := c.start(func(s *settings) { s.config.Dial = l.dial })
	in.wait("shop.example", "/", "one")

	l.set(true)
	update(c, ing, func(i *networkingv1.Ingress) { i.Spec.Rules[0].HTTP.Paths[0].Backend = backendOf("two") })
	update(c, secret, func(s *corev1.Secret) { s.Data = keyPair(t, "second", "tls.example") })
	gone := c.ingress("gone", rule("gone.example", prefix, "/", "one"))
	c.delete(gone)
	if got := in.served("shop.example", "/"); got != "one" {
		t.Errorf("without the apiserver, a request is answered by %s", got)
	}
	if err := in.waitsFor(); err != nil {
		t.Error(err)
	}
	l.set(false)
	in.wait("shop.example", "/", "two")
	in.waitCertificate("tls.example", "second")
}

// Without an apiserver at the start nothing is served and nothing ends.
func TestNoApiserver(t *testing.T) {
	c := newCluster(t)
	l := &line{cut: true}
	c.echoService("one")
	c.ingress("web", rule("shop.example", prefix, "/", "one"))
	in := c.start(func(s *settings) { s.config.Dial = l.dial })
	if err := in.waitsFor("ingresses", "ingressclasses", "services", "endpointslices", "secrets["+c.namespace+"]", "table"); err != nil {
		t.Error(err)
	}
	if got := in.served("shop.example", "/"); got == "one" {
		t.Errorf("a request is answered by %s", got)
	}
	l.set(false)
	in.wait("shop.example", "/", "one")
}

// The pool of a backend that no path leads to is kept as well.
func TestDefaultBackendService(t *testing.T) {
	c := newCluster(t)
	slice := c.echoService("fallback")
	in := c.start(func(s *settings) {
		s.router.Default = &router.Backend{Namespace: c.namespace, Service: "fallback", Port: "80"}
	})
	in.wait("any.example", "/", "fallback")
	c.delete(slice)
	in.wait("any.example", "/", "503")
}

func TestLoad(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.secret(c.namespace, "typed", corev1.SecretTypeTLS, keyPair(t, "typed", "typed.example"))
	c.secret(c.namespace, "opaque", corev1.SecretTypeOpaque, keyPair(t, "opaque", "opaque.example"))
	c.secret(c.namespace, "unnamed", corev1.SecretTypeOpaque, nil)
	c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("typed", "typed.example"), tlsFor("opaque", "opaque.example"), tlsFor("absent", "absent.example"))
	opts := ingress.LoadOptions{Namespaces: []string{c.namespace}, DefaultTLSSecret: certstore.SecretRef{Namespace: c.namespace, Name: "typed"}}
	objects, refused, err := ingress.Load(t.Context(), envtest.Config(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	for name, counts := range map[string][2]int{
		"Ingresses":      {len(objects.Ingresses), 1},
		"Services":       {len(objects.Services), 1},
		"EndpointSlices": {len(objects.Slices), 1},
		"Secrets":        {len(objects.Secrets), 2},
	} {
		if counts[0] != counts[1] {
			t.Errorf("%d %s, want %d", counts[0], name, counts[1])
		}
	}
	if len(objects.Classes) == 0 {
		t.Error("no IngressClass")
	}

	user := c.namespace + "-user"
	c.bindWithoutSecrets(user)
	eventually(t, func() error { // the authorizer has a cache of its own
		objects, refused, err = ingress.Load(t.Context(), envtest.User(t, user), opts)
		return err
	})
	if len(objects.Ingresses) != 1 || len(objects.Secrets) != 0 || len(refused) != 3 || !strings.Contains(strings.Join(refused, "\n"), c.namespace+"/opaque") {
		t.Errorf("%d Ingresses, %d Secrets, refused: %v", len(objects.Ingresses), len(objects.Secrets), refused)
	}
}
