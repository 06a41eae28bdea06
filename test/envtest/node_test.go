package envtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portico-ingress/portico/controllers/node"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/envtest"
)

// fakeKernel is a kernel that takes what it is given, checks that it fits, and
// can be told to fail. Safe for concurrent use.
type fakeKernel struct {
	disturbed chan struct{}

	mu          sync.Mutex // protects the following
	forwardings map[l4.PortKey]*l4.Forwarding
	replaced    int
	fail        int // how often to fail
}

var errKernel = errors.New("the kernel is in a bad mood")

func (k *fakeKernel) failing() error {
	if k.fail > 0 {
		k.fail--
		k.forwardings = nil
		return errKernel
	}
	return nil
}

func (k *fakeKernel) Replace(_ context.Context, p *l4.Plan) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing(); err != nil {
		return err
	}
	k.replaced++
	k.forwardings = map[l4.PortKey]*l4.Forwarding{}
	for _, f := range p.Forwardings {
		k.forwardings[f.Key] = f
	}
	return nil
}

func (k *fakeKernel) Apply(_ context.Context, c *l4.Change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forwardings == nil {
		return errors.New("Apply after an error, without Replace")
	}
	if err := k.failing(); err != nil {
		return err
	}
	for _, key := range c.Delete {
		if k.forwardings[key] == nil {
			return fmt.Errorf("%s is deleted and was not there", key)
		}
		delete(k.forwardings, key)
	}
	for _, u := range c.Set {
		if k.forwardings[u.Key] != u.Old {
			return fmt.Errorf("%s replaces what was not there", u.Key)
		}
		k.forwardings[u.Key] = u.Forwarding
	}
	return nil
}

func (k *fakeKernel) Disturbed() <-chan struct{} { return k.disturbed }

func (k *fakeKernel) Affinity(l4.PortKey) (func(context.Context) ([]l4.Sticky, error), error) {
	return func(context.Context) ([]l4.Sticky, error) { return nil, nil }, nil
}

func (k *fakeKernel) set(do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	do()
}

// endpoints lists those of a Service's ports, sorted.
func (k *fakeKernel) endpoints(service string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, key := range slices.SortedFunc(maps.Keys(k.forwardings), l4.PortKey.Compare) {
		if key.Service.String() == service {
			out = append(out, fmt.Sprint(k.forwardings[key].Cluster))
		}
	}
	return strings.Join(out, " ")
}

// nodeEnv is the node component on a node of the real apiserver.
type nodeEnv struct {
	*testing.T
	client    kubernetes.Interface
	namespace string
	name      string
	kernel    *fakeKernel
	node      *node.Controller
	metrics   *node.Metrics
}

func newNodeEnv(t *testing.T) *nodeEnv {
	t.Helper()
	config := envtest.Config()
	config.QPS = -1
	n := &nodeEnv{T: t, client: kubernetes.NewForConfigOrDie(config), name: "node-" + strings.ToLower(t.Name()), metrics: node.NewMetrics(true, true)}
	n.namespace = "ns-" + n.name
	n.kernel = &fakeKernel{disturbed: make(chan struct{}, 1)}
	ctx := t.Context()
	n.must(n.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.namespace}}, metav1.CreateOptions{}))
	n.must(n.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.180.0.0/24"}}}, metav1.CreateOptions{}))
	var err error
	n.node, err = node.New(node.Options{
		Client: n.client, Kernel: n.kernel, Translate: translate.NodeOptions{NodeName: n.name}, Local: node.Local{Mode: node.LocalNodeCIDR},
		Addresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil },
		Metrics:   n.metrics, Log: testr.New(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.node.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-n.node.Programmed():
	case <-time.After(time.Minute):
		t.Fatal("nothing was programmed: ", n.node.Waiting())
	}
	return n
}

func (n *nodeEnv) must(_ any, err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *nodeEnv) service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	n.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if change != nil {
		change(&s.Spec)
	}
	s, err := n.client.CoreV1().Services(n.namespace).Create(n.Context(), s, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return s
}

func (n *nodeEnv) slice(service string, addresses ...string) *discoveryv1.EndpointSlice {
	port, protocol, name := int32(8080), corev1.ProtocolTCP, ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &n.name})
	}
	return s
}

func (n *nodeEnv) create(s *discoveryv1.EndpointSlice) {
	n.Helper()
	n.must(n.client.DiscoveryV1().EndpointSlices(n.namespace).Create(n.Context(), s, metav1.CreateOptions{}))
}

func (n *nodeEnv) update(s *discoveryv1.EndpointSlice) {
	n.Helper()
	n.must(n.client.DiscoveryV1().EndpointSlices(n.namespace).Update(n.Context(), s, metav1.UpdateOptions{}))
}

func (n *nodeEnv) eventually(what string, condition func() bool) {
	n.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			n.Fatalf("%s: not within a minute", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (n *nodeEnv) expect(service, endpoints string) {
	n.Helper()
	got := ""
	n.eventually(service+" at "+endpoints, func() bool {
		got = n.kernel.endpoints(n.namespace + "/" + service)
		return got == endpoints
	})
}

func page(h http.Handler, url string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	return w.Code, w.Body.String()
}

// TestNode: what the apiserver knows reaches the kernel, whatever comes first,
// and can be asked for.
func TestNode(t *testing.T) {
	n := newNodeEnv(t)
	n.create(n.slice("web", "10.180.0.5", "10.180.0.6"))
	svc := n.service("web", nil)
	n.expect("web", "[10.180.0.5:8080 10.180.0.6:8080]")
	code, text := page(n.node.Inspect(), "/trace?from=10.180.0.9&to="+svc.Spec.ClusterIP+":80")
	if code != http.StatusOK || !strings.Contains(text, "counts as pod") || !strings.Contains(text, "→ 10.180.0.6:8080\n") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := page(n.node.Inspect(), "/show?service="+n.namespace+"/web"); code != http.StatusOK || !strings.Contains(text, "10.180.0.5:8080 on this node") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := page(n.node.Inspect(), "/trace?from=here&to="+svc.Spec.ClusterIP+":80"); code != http.StatusBadRequest || !strings.Contains(text, `"here" is not an address`) {
		t.Errorf("%d %s", code, text)
	}
	n.update(n.slice("web", "10.180.0.6", "10.180.0.7"))
	n.expect("web", "[10.180.0.6:8080 10.180.0.7:8080]")
	for _, path := range []string{"/healthz", "/livez"} {
		if code, text := page(n.node.Health(), path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	_, text = page(n.metrics.Handler(), "/metrics")
	for _, want := range []string{
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1` + "\n", `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} `,
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending 0\n", `kubeproxy_proxy_livez_total{code="200"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	// The autoscaler is about to delete the node: no new connections, but all
	// is well otherwise.
	n.taint("ToBeDeletedByClusterAutoscaler")
	n.eventually("not eligible", func() bool {
		code, _ := page(n.node.Health(), "/healthz")
		return code == http.StatusServiceUnavailable
	})
	if code, _ := page(n.node.Health(), "/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d", code)
	}
	if err := n.client.CoreV1().Services(n.namespace).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.expect("web", "")
}

func (n *nodeEnv) taint(key string) {
	n.Helper()
	object, err := n.client.CoreV1().Nodes().Get(n.Context(), n.name, metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	object.Spec.Taints = append(object.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	n.must(n.client.CoreV1().Nodes().Update(n.Context(), object, metav1.UpdateOptions{}))
}

// TestNodeFailures: after a failure, and after somebody's interference,
// everything is programmed again.
func TestNodeFailures(t *testing.T) {
	n := newNodeEnv(t)
	n.service("web", nil)
	n.expect("web", "[]")
	n.kernel.set(func() { n.kernel.fail = 3 })
	n.create(n.slice("web", "10.180.0.5"))
	n.expect("web", "[10.180.0.5:8080]")
	before := 0
	n.kernel.set(func() {
		before = n.kernel.replaced
		n.kernel.forwardings = nil
	})
	n.kernel.disturbed <- struct{}{}
	n.expect("web", "[10.180.0.5:8080]")
	n.kernel.set(func() {
		if n.kernel.replaced <= before {
			t.Error("a disturbance replaced nothing")
		}
	})
	if _, text := page(n.metrics.Handler(), "/metrics"); !strings.Contains(text, `kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 3`+"\n") {
		t.Error("three failures are not in the metrics")
	}
}

// TestNodeHealthCheck: external load balancers are told whether the node has
// endpoints, at a port that the apiserver chose.
func TestNodeHealthCheck(t *testing.T) {
	n := newNodeEnv(t)
	svc := n.service("balanced", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", svc.Spec.HealthCheckNodePort)
	ask := func() (int, string) {
		r, err := http.Get(url)
		if err != nil {
			return 0, ""
		}
		defer r.Body.Close()
		return r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight")
	}
	n.eventually("no endpoints", func() bool { code, _ := ask(); return code == http.StatusServiceUnavailable })
	n.create(n.slice("balanced", "10.180.0.5", "10.180.0.6"))
	n.eventually("two endpoints", func() bool { code, weight := ask(); return code == http.StatusOK && weight == "2" })
	terminating := n.slice("balanced", "10.180.0.5", "10.180.0.6")
	no, yes := false, true
	for i := range terminating.Endpoints {
		terminating.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	}
	n.update(terminating)
	n.eventually("terminating ones do not count", func() bool { code, _ := ask(); return code == http.StatusServiceUnavailable })
	if err := n.client.CoreV1().Services(n.namespace).Delete(t.Context(), "balanced", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.eventually("closed", func() bool { code, _ := ask(); return code == 0 })
	http.DefaultClient.CloseIdleConnections()
}

// TestNodeEvents: what is wrong with a Service is said on it, once.
func TestNodeEvents(t *testing.T) {
	n := newNodeEnv(t)
	external := func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"192.0.2.77"} }
	n.service("first", external)
	n.service("second", external)
	n.eventually("an Event", func() bool {
		list, err := n.client.CoreV1().Events(n.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == string(node.ReasonAddressTaken) && strings.Contains(e.Message, "external IP 192.0.2.77, port 80/TCP, is not answered") {
				return true
			}
		}
		return false
	})
}
