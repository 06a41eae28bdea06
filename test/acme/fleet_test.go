//go:build acme

package acme

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/test/pebble"
)

// fleet is several processes of the real program with one apiserver and one CA,
// which validates at whichever of them is next.
type fleet struct {
	t         *testing.T
	client    client.Client
	namespace string // of the Ingresses
	storage   string
	class     string
	ca        *pebble.Server
	issuers   string // file
	http      *relay
	https     *relay

	mu       sync.Mutex // protects the following
	replicas []*replica
	turn     int
}

// replica is one process. Its fields are const.
type replica struct {
	cmd                *exec.Cmd
	http, https, debug string
	log                *journal
	apiserver          *relay // its way there
	killed             *atomic.Bool
	ended              chan struct{}
}

// journal is what a process has written.
type journal struct {
	mu   sync.Mutex // protects the following
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newFleet(t *testing.T, size int, o pebble.Options) *fleet {
	t.Helper()
	f := &fleet{t: t}
	var err error
	if f.client, err = client.New(envtest.Config(), client.Options{Scheme: scheme.Scheme}); err != nil {
		t.Fatal(err)
	}
	f.namespace, f.storage = f.newNamespace(), f.newNamespace()
	f.class = f.namespace
	f.create(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: f.class}, Spec: networkingv1.IngressClassSpec{Controller: "portico.dev/" + f.class}})
	f.http = newRelay(t, func() []string { return f.turns(func(r *replica) string { return r.http }) })
	f.https = newRelay(t, func() []string { return f.turns(func(r *replica) string { return r.https }) })
	o.HTTPPort, o.TLSPort = port(f.http.ln), port(f.https.ln)
	f.ca = pebble.Start(t, o)
	f.issuers = filepath.Join(t.TempDir(), "issuers.yaml")
	text := fmt.Sprintf("issuers: [{name: pebble, directory: %q, email: someone@example.com, caBundle: %q}]\n", f.ca.URL, f.ca.Bundle())
	if err := os.WriteFile(f.issuers, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range size {
		f.start()
	}
	return f
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

func (f *fleet) newNamespace() string {
	f.t.Helper()
	name := notInNames.ReplaceAllString(strings.ToLower(strings.TrimPrefix(f.t.Name(), "Test")), "-")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name[:min(len(name), 40)] + "-"}}
	f.create(ns)
	return ns.Name
}

func (f *fleet) create(obj client.Object) {
	f.t.Helper()
	if err := f.client.Create(f.t.Context(), obj); err != nil {
		f.t.Fatal(err)
	}
}

// turns returns an address of every replica, another one first each time.
func (f *fleet) turns(address func(*replica) string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn++
	var out []string
	for i := range f.replicas {
		out = append(out, address(f.replicas[(f.turn+i)%len(f.replicas)]))
	}
	return out
}

// start starts one more replica.
func (f *fleet) start() *replica {
	f.t.Helper()
	r := &replica{http: pebble.FreeAddress(f.t), https: pebble.FreeAddress(f.t), debug: pebble.FreeAddress(f.t), log: &journal{}, killed: new(atomic.Bool), ended: make(chan struct{})}
	r.apiserver = newRelay(f.t, func() []string { return []string{envtest.Server()} })
	r.cmd = exec.Command(program, "controller", "--kubeconfig", envtest.KubeconfigBy(f.t, r.apiserver.ln.Addr().String()),
		"--controller-name", "portico.dev/"+f.class, "--namespaces", f.namespace, "--publish-status=false",
		"--leader-elect-namespace", f.storage, "--leader-elect-lease", "leader", "--acme-namespace", f.storage, "--acme-issuers", f.issuers,
		"--http-addr", r.http, "--https-addr", r.https, "--admin-addr", "", "--debug-addr", r.debug, "--drain-delay", "0s")
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		if err := r.cmd.Wait(); !r.killed.Load() {
			f.t.Errorf("a replica has ended: %v", err)
		}
	}()
	f.t.Cleanup(func() {
		r.kill()
		if text := r.log.String(); f.t.Failed() {
			f.t.Logf("%s:\n%s", r.debug, text[max(0, len(text)-8000):])
		}
	})
	f.mu.Lock()
	f.replicas = append(f.replicas, r)
	f.mu.Unlock()
	return r
}

// kill ends a process as kill -9 does.
func (r *replica) kill() {
	r.killed.Store(true)
	_ = r.cmd.Process.Kill()
	<-r.ended
}

// leads reports whether the replica was elected and has not noticed its end.
func (r *replica) leads() bool {
	text := r.log.String()
	return strings.LastIndex(text, `"elected to write status and Events"`) > strings.LastIndex(text, `"no longer elected`)
}

// dismiss takes the replica that orders from the fleet, and returns it.
func (f *fleet) dismiss() *replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.replicas {
		if r.leads() {
			f.replicas = slices.Delete(f.replicas, i, i+1)
			return r
		}
	}
	return nil
}

func (f *fleet) ingress(name string, hosts ...string) {
	f.t.Helper()
	ing := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name, Annotations: map[string]string{"kubernetes.io/tls-acme": "true"}},
		Spec:       networkingv1.IngressSpec{IngressClassName: &f.class, TLS: []networkingv1.IngressTLS{{Hosts: hosts, SecretName: name + "-tls"}}},
	}
	for _, host := range hosts {
		ing.Spec.Rules = append(ing.Spec.Rules, networkingv1.IngressRule{Host: host})
	}
	f.create(ing)
}

// until asks again and again.
func (f *fleet) until(what string, condition func() error) {
	f.t.Helper()
	f.within(0, what, condition)
}

// within asks for longer than until does.
func (f *fleet) within(longer time.Duration, what string, condition func() error) {
	f.t.Helper()
	patience := 2*patience + longer
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("after %v still not: %s: %v", patience, what, err)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// waitServed waits until the Secret has a certificate for the hosts and every
// replica serves it.
func (f *fleet) waitServed(name string, hosts ...string) {
	f.t.Helper()
	f.until("a certificate for "+strings.Join(hosts, ", "), func() error {
		secret := &corev1.Secret{}
		if err := f.client.Get(f.t.Context(), client.ObjectKey{Namespace: f.namespace, Name: name + "-tls"}, secret); err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
		if err != nil {
			return err
		}
		f.mu.Lock()
		replicas := slices.Clone(f.replicas)
		f.mu.Unlock()
		for _, r := range replicas {
			for _, host := range hosts {
				if leaf, err := r.serves(host); err != nil || !leaf.Equal(pair.Leaf) {
					return fmt.Errorf("%s serves another certificate for %s (%v)", r.https, host, err)
				}
			}
		}
		return nil
	})
}

func (r *replica) serves(host string) (*x509.Certificate, error) {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	conn, err := tls.DialWithDialer(dialer, "tcp", r.https, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// accounts returns how many accounts were made at the CA.
func (f *fleet) accounts() int {
	n := 0
	for _, c := range f.ca.Calls("account") {
		if c.Status == 201 {
			n++
		}
	}
	return n
}
