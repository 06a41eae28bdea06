package envtest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/test/envtest"
)

// elect has the named instance take part in the election of the test.
func (c *cluster) elect(identity string) func(*settings) {
	return func(s *settings) {
		s.status.Lease = status.Lease{Namespace: c.namespace, Name: "portico", Identity: identity, Duration: 3 * time.Second}
	}
}

// leader returns the identity of the elected instance, "" without one.
func (c *cluster) leader() string {
	c.t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "portico"}}
	if !c.exists(lease) || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

func (c *cluster) waitLeader(want string) {
	c.t.Helper()
	eventually(c.t, func() error {
		if got := c.leader(); got != want {
			return fmt.Errorf("the leader is %q, want %q", got, want)
		}
		return nil
	})
}

func TestStatusFromAddresses(t *testing.T) {
	c := newCluster(t)
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	in := c.start(fixed("192.0.2.7", "lb.example"))
	c.waitAddresses(ing, "192.0.2.7,lb.example")

	out := envtest.Kubectl(t, "get", "ingress", "-n", c.namespace)
	if !strings.Contains(out, "192.0.2.7,lb.example") {
		t.Errorf("kubectl get ingress does not show the addresses:\n%s", out)
	}
	in.stop()
	if got := c.addresses(ing); got != "192.0.2.7,lb.example" {
		t.Errorf("after shutdown the Ingress shows %q", got)
	}
}

// Clear, run when the instance is gone, removes what it wrote and nothing else.
func TestClear(t *testing.T) {
	c := newCluster(t)
	ours := c.ingress("ours", rule("ours.example", prefix, "/", "one"))
	theirs := c.ingress("theirs", rule("theirs.example", prefix, "/", "one"))
	in := c.start(fixed("192.0.2.7"))
	c.waitAddresses(ours, "192.0.2.7")
	c.waitAddresses(theirs, "192.0.2.7")
	in.stop()
	c.writeStatus(theirs, "198.51.100.1")
	for _, want := range []int{1, 0} {
		n, err := status.Clear(t.Context(), c.Client, []string{c.controller}, []string{c.namespace})
		if err != nil || n != want {
			t.Errorf("cleared %d, %v; want %d", n, err, want)
		}
	}
	if c.addresses(ours) != "" || c.addresses(theirs) != "198.51.100.1" {
		t.Errorf("ours shows %q, theirs %q", c.addresses(ours), c.addresses(theirs))
	}
}

// The status of an Ingress that leaves our class is cleared, even if it left
// while nobody ran.
func TestStatusClearedOnLeaving(t *testing.T) {
	c := newCluster(t)
	other := c.newClass(c.namespace+"-other", "other.example/controller").Name
	leave := func(i *networkingv1.Ingress) { i.Spec.IngressClassName = &other }
	now := c.ingress("now", rule("now.example", prefix, "/", "one"))
	later := c.ingress("later", rule("later.example", prefix, "/", "one"))
	in := c.start(fixed("192.0.2.7"))
	c.waitAddresses(now, "192.0.2.7")
	c.waitAddresses(later, "192.0.2.7")

	update(c, now, leave)
	c.waitAddresses(now, "")
	in.stop()
	update(c, later, leave)
	c.start(fixed("192.0.2.8"))
	c.waitAddresses(later, "")
}

// What somebody else wrote is not cleared, even if it says the same as we
// would.
func TestStatusOfOthersStays(t *testing.T) {
	c := newCluster(t)
	other := c.newClass(c.namespace+"-other", "other.example/controller").Name
	taken := c.ingress("taken", rule("taken.example", prefix, "/", "one"))
	theirs := c.ingress("theirs", withClass(other), rule("theirs.example", prefix, "/", "one"))
	in := c.start(fixed("192.0.2.7"))
	c.waitAddresses(taken, "192.0.2.7")
	in.stop()

	c.writeStatus(taken, "198.51.100.1")
	c.writeStatus(theirs, "192.0.2.7")
	update(c, taken, func(i *networkingv1.Ingress) { i.Spec.IngressClassName = &other })
	c.start(fixed("192.0.2.7"))
	last := c.ingress("z-last", rule("last.example", prefix, "/", "one"))
	c.waitAddresses(last, "192.0.2.7")
	if got := c.addresses(taken); got != "198.51.100.1" {
		t.Errorf("the status that another controller took over became %q", got)
	}
	if got := c.addresses(theirs); got != "192.0.2.7" {
		t.Errorf("the status of another controller's Ingress became %q", got)
	}
}

// writeStatus is another controller.
func (c *cluster) writeStatus(ing *networkingv1.Ingress, ip string) {
	c.t.Helper()
	if !c.exists(ing) {
		c.t.Fatalf("no Ingress %s", ing.Name)
	}
	ing.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: ip}}
	if err := c.Status().Update(c.t.Context(), ing, client.FieldOwner("another-controller")); err != nil {
		c.t.Fatal(err)
	}
}

func TestStatusFromService(t *testing.T) {
	c := newCluster(t)
	elsewhere := c.newNamespace() // not among the watched namespaces
	front := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: elsewhere, Name: "front"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	c.start(func(s *settings) {
		s.status.Source = status.Source{Service: types.NamespacedName{Namespace: elsewhere, Name: "front"}}
	})
	c.create(front)
	front.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}, {Hostname: "lb.example"}}
	if err := c.Status().Update(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	c.waitAddresses(ing, "192.0.2.9,lb.example")
	update(c, front, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.1"} })
	c.waitAddresses(ing, "192.0.2.9,lb.example,203.0.113.1")
	update(c, front, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	c.waitAddresses(ing, "203.0.113.1")
	update(c, front, func(s *corev1.Service) { s.Spec.ExternalIPs = nil })
	c.waitAddresses(ing, front.Spec.ClusterIP)

	// A Service that is made anew blanks nothing.
	c.delete(front)
	second := c.ingress("second", rule("second.example", prefix, "/", "one"))
	c.waitAddresses(second, front.Spec.ClusterIP)
	if got := c.addresses(ing); got != front.Spec.ClusterIP {
		t.Errorf("without the Service the Ingress shows %q, want %q", got, front.Spec.ClusterIP)
	}
}

func TestStatusFromNodes(t *testing.T) {
	c := newCluster(t)
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	labels := map[string]string{"app": c.namespace}
	c.start(func(s *settings) {
		s.status.Source = status.Source{Nodes: true, Pods: status.Pods{Namespace: c.namespace, Labels: labels}}
	})
	c.node("n1", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.9.0.1"})
	c.node("n2", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.9.0.2"}, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.2"})
	c.node("n3", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.9.0.3"})
	c.pod("p1", "n1", labels)
	second := c.pod("p2", "n2", labels)
	c.pod("other", "n3", map[string]string{"app": "other"})
	c.waitAddresses(ing, "10.9.0.1,203.0.113.2")

	second.Status.Conditions = nil
	if err := c.Status().Update(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	c.waitAddresses(ing, "10.9.0.1")
}

func (c *cluster) node(name string, addresses ...corev1.NodeAddress) {
	c.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.namespace + "-" + name}}
	c.create(n)
	n.Status.Addresses = addresses
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := c.Status().Update(c.t.Context(), n); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) pod(name, node string, labels map[string]string) *corev1.Pod {
	c.t.Helper()
	return c.podIn(c.namespace, name, node, labels)
}

func (c *cluster) podIn(namespace, name, node string, labels map[string]string) *corev1.Pod {
	c.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
	c.createOnce(account) // there is no controller manager to make it
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: c.namespace + "-" + node, Containers: []corev1.Container{{Name: "portico", Image: "portico"}}},
	}
	c.create(p)
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if err := c.Status().Update(c.t.Context(), p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// A class that belongs to another controller is served on request, and gets a
// status only on a second request.
func TestStatusOfForeignNames(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	own := c.newClass(c.namespace+"-own", translate.DefaultControllerName).Name
	foreignName := "other.example/" + c.namespace
	foreign := c.newClass(c.namespace+"-foreign", foreignName).Name
	theirs := c.ingress("a-theirs", withClass(foreign), rule("theirs.example", prefix, "/", "one"))
	ours := c.ingress("z-ours", withClass(own), rule("ours.example", prefix, "/", "one"))
	both := func(s *settings) {
		s.controllers = []string{translate.DefaultControllerName, foreignName}
		s.status.Publish = status.OwnClasses
	}
	in := c.start(fixed("192.0.2.1"), both)
	in.wait("theirs.example", "/", "one")
	in.wait("ours.example", "/", "one")
	c.waitAddresses(ours, "192.0.2.1")
	if got := c.addresses(theirs); got != "" {
		t.Errorf("an Ingress of a foreign name shows %q", got)
	}
	in.stop()
	c.start(fixed("192.0.2.2"), both, func(s *settings) { s.status.Publish = status.Nothing })
	c.start(fixed("192.0.2.1"), both, func(s *settings) { s.status.Publish = status.AllClasses })
	c.waitAddresses(theirs, "192.0.2.1")
	if got := c.addresses(ours); got != "192.0.2.1" {
		t.Errorf("with --publish-status=false the status became %q", got)
	}
}

// Every replica serves; one writes, and another takes over without a gap in
// the status and without a second Event.
func TestLeaderChange(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"), rule("shop.example", prefix, "/gone", "missing"))
	first := c.start(fixed("192.0.2.1"), c.elect("first"))
	c.waitLeader("first")
	c.waitAddresses(ing, "192.0.2.1")
	c.waitEvents("web", 1)

	second := c.start(fixed("192.0.2.1"), c.elect("second"))
	second.wait("shop.example", "/", "one")
	if got := c.leader(); got != "first" {
		t.Errorf("beside the first, %q was elected", got)
	}
	version := ing.ResourceVersion
	first.stop()
	c.waitLeader("second")

	last := c.ingress("z-last", rule("last.example", prefix, "/", "missing"))
	c.waitAddresses(last, "192.0.2.1")
	c.waitEvents("z-last", 1)
	c.waitEvents("web", 1)
	if !c.exists(ing) || ing.ResourceVersion != version {
		t.Errorf("the new leader wrote an Ingress that was right: resourceVersion %s, was %s", ing.ResourceVersion, version)
	}
}

// A leader that loses the apiserver loses its office and goes on serving; when
// the apiserver is back it takes part again.
func TestLeaderLosesApiserver(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	l := new(line)
	first := c.start(fixed("192.0.2.1"), c.elect("first"), func(s *settings) { s.config.Dial = l.dial })
	c.waitLeader("first")
	c.waitAddresses(ing, "192.0.2.1")
	second := c.start(fixed("192.0.2.2"), c.elect("second"))

	l.set(true)
	c.waitLeader("second")
	c.waitAddresses(ing, "192.0.2.2")
	first.wait("shop.example", "/", "one")

	l.set(false)
	second.stop()
	c.waitLeader("first")
	c.waitAddresses(ing, "192.0.2.1")
	first.wait("shop.example", "/", "one")
}

func TestEvents(t *testing.T) {
	c := newCluster(t)
	ing := c.ingress("web", rule("shop.example", prefix, "/", "missing"))
	in := c.start()
	event := c.waitEvents("web", 1)[0]
	if event.Type != corev1.EventTypeWarning || event.Reason != string(translate.ReasonBackendMissing) ||
		event.InvolvedObject.UID != ing.UID || !strings.Contains(event.Message, c.namespace+"/missing does not exist") {
		t.Errorf("the Event is %+v", event)
	}
	out := envtest.Kubectl(t, "describe", "ingress", "-n", c.namespace, "web")
	if !strings.Contains(out, string(translate.ReasonBackendMissing)) {
		t.Errorf("kubectl describe does not show the Event:\n%s", out)
	}

	// A restart tells nothing twice.
	in.stop()
	c.start()
	c.ingress("z-last", rule("last.example", prefix, "/", "missing"))
	c.waitEvents("z-last", 1)
	c.waitEvents("web", 1)

	// A new generation with the same fault is told again.
	update(c, ing, func(i *networkingv1.Ingress) { i.Spec.Rules[0].Host = "mall.example" })
	c.waitEvents("web", 2)
}

// waitEvents waits until there are as many Events about an object, and returns
// them.
func (c *cluster) waitEvents(name string, n int) []corev1.Event {
	c.t.Helper()
	var about []corev1.Event
	eventually(c.t, func() error {
		if about = c.events(name); len(about) != n {
			return fmt.Errorf("%d Events about %s, want %d: %v", len(about), name, n, messages(about))
		}
		return nil
	})
	return about
}

func messages(events []corev1.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

// Two installations that serve one class do not overwrite each other for ever,
// and each says what to do.
func TestContestedStatus(t *testing.T) {
	c := newCluster(t)
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	c.start(fixed("192.0.2.7"))
	c.waitAddresses(ing, "192.0.2.7")
	c.start(fixed("192.0.2.8"))
	c.waitReason("web", string(status.ReasonContested))
	generation := func() string {
		if !c.exists(ing) {
			t.Fatal("no Ingress")
		}
		return ing.ResourceVersion
	}
	eventually(t, func() error { // both have lost too often
		before := generation()
		for range 20 {
			<-time.After(50 * time.Millisecond)
			if now := generation(); now != before {
				return fmt.Errorf("resource version %s became %s", before, now)
			}
		}
		return nil
	})
}
