package envtest_test

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/controllers/status"
)

func withClass(name string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) { ing.Spec.IngressClassName = &name }
}

func withoutClass(ing *networkingv1.Ingress) { ing.Spec.IngressClassName = nil }

func withClassAnnotation(name string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		ing.Spec.IngressClassName = nil
		ing.Annotations = map[string]string{"kubernetes.io/ingress.class": name}
	}
}

func fixed(addresses ...string) func(*settings) {
	return func(s *settings) { s.status.Source = status.Source{Addresses: addresses} }
}

// A foreign Ingress is not served, gets no status, and no Event although its
// backend does not exist.
func TestForeignClass(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	other := c.newClass(c.namespace+"-other", "other.example/controller").Name
	foreign := c.ingress("a-foreign", withClass(other), rule("foreign.example", prefix, "/", "missing"))
	c.ingress("b-annotated", withClassAnnotation(other), rule("annotated.example", prefix, "/", "one"))
	unknown := c.ingress("c-unknown", withClass("no-such-class"), rule("unknown.example", prefix, "/", "one"))
	in := c.start(fixed("192.0.2.1"))

	// Ours comes last: what is seen of it tells that the others had their turn.
	ours := c.ingress("z-ours", rule("ours.example", prefix, "/", "one"), rule("ours.example", prefix, "/gone", "missing"))
	in.wait("ours.example", "/", "one")
	c.waitAddresses(ours, "192.0.2.1")
	c.waitEvents("z-ours", 1)
	for _, host := range []string{"foreign.example", "annotated.example", "unknown.example"} {
		if got := in.served(host, "/"); got != "404" {
			t.Errorf("%s is answered by %s, want 404", host, got)
		}
	}
	for _, name := range []string{"a-foreign", "b-annotated", "c-unknown"} {
		if events := c.events(name); len(events) > 0 {
			t.Errorf("Ingress %s of another class has Events: %v", name, events)
		}
	}
	for _, ing := range []*networkingv1.Ingress{foreign, unknown} {
		if got := c.addresses(ing); got != "" {
			t.Errorf("Ingress %s of another class shows %q", ing.Name, got)
		}
	}
}

func TestClassComesAndGoes(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	in := c.start()
	late := c.namespace + "-late"
	c.ingress("late", withClass(late), rule("late.example", prefix, "/", "one"))
	c.ingress("ours", rule("ours.example", prefix, "/", "one"))
	in.wait("ours.example", "/", "one")
	if got := in.served("late.example", "/"); got != "404" {
		t.Errorf("an Ingress of a class that does not exist is answered by %s", got)
	}
	foreign := c.start(func(s *settings) { s.controllers = []string{c.controller + "-late"} })
	eventually(t, func() error {
		ready, detail := foreign.check("ingressclasses")
		if !ready || !strings.Contains(detail, "no IngressClass has the controller "+c.controller+"-late") || !strings.Contains(detail, c.class+" ("+c.controller+")") {
			return errNotYet(detail)
		}
		return nil
	})
	c.newClass(late+"-foreign", c.controller+"-late")
	eventually(t, func() error {
		if ready, detail := foreign.check("ingressclasses"); !ready || detail != "" {
			return errNotYet(detail)
		}
		return nil
	})
	class := c.newClass(late, c.controller)
	in.wait("late.example", "/", "one")
	c.delete(class)
	in.wait("late.example", "/", "404")
}

func TestClassAnnotation(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.ingress("old", withClassAnnotation(c.class), rule("old.example", prefix, "/", "one"))
	c.start().wait("old.example", "/", "one")
}

func TestWithoutClass(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	none := c.ingress("none", withoutClass, rule("none.example", prefix, "/", "one"))
	strict := c.start()
	c.ingress("ours", rule("ours.example", prefix, "/", "one"))
	strict.wait("ours.example", "/", "one")
	if got := strict.served("none.example", "/"); got != "404" {
		t.Errorf("an Ingress without class is answered by %s", got)
	}
	c.start(func(s *settings) { s.translate.WatchWithoutClass = true }).wait("none.example", "/", "one")

	// The apiserver's admission writes the default class into new Ingresses.
	byDefault := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: c.class}}
	update(c, byDefault, func(class *networkingv1.IngressClass) {
		class.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	})
	c.delete(none)
	eventually(t, func() error { // admission looks at a cache of its own
		c.ingress("again", withoutClass, rule("again.example", prefix, "/", "one"))
		again := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "again"}}
		if c.exists(again) && again.Spec.IngressClassName != nil {
			return nil
		}
		c.delete(again)
		return errNotYet("the default class is not filled in")
	})
	strict.wait("again.example", "/", "one")
}

type errNotYet string

func (e errNotYet) Error() string { return string(e) }
