package envtest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/test/envtest"
)

// patience bounds every wait for a condition. It is no measure of anything.
const patience = time.Minute

// A cluster is the part of the apiserver that one test has for itself: a
// namespace and an IngressClass, whose controller name no other test serves.
type cluster struct {
	t testing.TB
	client.Client
	namespace  string
	class      string
	controller string
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	admin, err := client.New(envtest.Config(), client.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, Client: admin}
	c.namespace = c.newNamespace()
	c.class = c.namespace
	c.controller = "portico.dev/" + c.namespace
	c.newClass(c.class, c.controller)
	return c
}

func (c *cluster) newNamespace() string {
	c.t.Helper()
	name, _, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(c.t.Name(), "Test"), "Benchmark")), "/")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}
	c.create(ns)
	return ns.Name
}

func (c *cluster) newClass(name, controller string) *networkingv1.IngressClass {
	c.t.Helper()
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       networkingv1.IngressClassSpec{Controller: controller},
	}
	c.create(class)
	c.t.Cleanup(func() {
		if err := c.Delete(context.Background(), class); client.IgnoreNotFound(err) != nil {
			c.t.Error(err)
		}
	})
	return class
}

func (c *cluster) create(obj client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), obj); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) delete(obj client.Object) {
	c.t.Helper()
	if err := c.Delete(c.t.Context(), obj); err != nil {
		c.t.Fatal(err)
	}
}

// createOnce makes an object with a fixed name, unless an earlier run of the
// test did.
func (c *cluster) createOnce(obj client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
		c.t.Fatal(err)
	}
}

// update changes an object as it is now at the apiserver.
func update[T client.Object](c *cluster, obj T, change func(T)) {
	c.t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := c.Get(c.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		change(obj)
		return c.Update(c.t.Context(), obj)
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// ingress makes an Ingress of the test's class.
func (c *cluster) ingress(name string, change ...func(*networkingv1.Ingress)) *networkingv1.Ingress {
	c.t.Helper()
	return c.ingressIn(c.namespace, name, change...)
}

func (c *cluster) ingressIn(namespace, name string, change ...func(*networkingv1.Ingress)) *networkingv1.Ingress {
	c.t.Helper()
	ing := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       networkingv1.IngressSpec{IngressClassName: &c.class},
	}
	for _, f := range change {
		f(ing)
	}
	c.create(ing)
	return ing
}

// rule adds a path of a host to an Ingress.
func rule(host string, kind networkingv1.PathType, path, service string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		p := networkingv1.HTTPIngressPath{Path: path, PathType: &kind, Backend: backendOf(service)}
		for i := range ing.Spec.Rules {
			if r := &ing.Spec.Rules[i]; r.Host == host {
				r.HTTP.Paths = append(r.HTTP.Paths, p)
				return
			}
		}
		ing.Spec.Rules = append(ing.Spec.Rules, networkingv1.IngressRule{
			Host:             host,
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{p}}},
		})
	}
}

func defaultBackend(service string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		b := backendOf(service)
		ing.Spec.DefaultBackend = &b
	}
}

func tlsFor(secret string, hosts ...string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		ing.Spec.TLS = append(ing.Spec.TLS, networkingv1.IngressTLS{Hosts: hosts, SecretName: secret})
	}
}

func backendOf(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
		Name: service, Port: networkingv1.ServiceBackendPort{Number: 80},
	}}
}

// service makes a Service and an EndpointSlice with the given endpoints.
func (c *cluster) service(name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	c.t.Helper()
	c.create(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	})
	return c.slice(name, name+"-1", endpoints...)
}

// endpointPort is the port of every endpoint; addresses tell them apart.
const endpointPort = 8080

func (c *cluster) slice(service, name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	c.t.Helper()
	port, unnamed := int32(endpointPort), ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.namespace, Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   endpoints,
		Ports:       []discoveryv1.EndpointPort{{Name: &unnamed, Port: &port}},
	}
	c.create(s)
	return s
}

// endpoint is one with the given conditions; ready ones also serve.
func endpoint(address string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses:  []string{address},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
	}
}

func ready(address string) discoveryv1.Endpoint { return endpoint(address, true, true, false) }

// eventually waits until the condition returns nil.
func eventually(t testing.TB, condition func() error) {
	t.Helper()
	envtest.Eventually(t, patience, condition)
}

// exists reports whether the apiserver has the object.
func (c *cluster) exists(obj client.Object) bool {
	err := c.Get(c.t.Context(), client.ObjectKeyFromObject(obj), obj)
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	return err == nil
}

// addresses returns what status.loadBalancer says.
func (c *cluster) addresses(ing *networkingv1.Ingress) string {
	c.t.Helper()
	if !c.exists(ing) {
		return "no such Ingress"
	}
	var all []string
	for _, a := range ing.Status.LoadBalancer.Ingress {
		all = append(all, a.IP+a.Hostname)
	}
	return strings.Join(all, ",")
}

func (c *cluster) waitAddresses(ing *networkingv1.Ingress, want string) {
	c.t.Helper()
	eventually(c.t, func() error {
		if got := c.addresses(ing); got != want {
			return fmt.Errorf("Ingress %s shows %q, want %q", ing.Name, got, want)
		}
		return nil
	})
}

// events returns the Events about an object.
func (c *cluster) events(name string) []corev1.Event {
	c.t.Helper()
	var list corev1.EventList
	if err := c.List(c.t.Context(), &list, client.InNamespace(c.namespace)); err != nil {
		c.t.Fatal(err)
	}
	var about []corev1.Event
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			about = append(about, e)
		}
	}
	return about
}

type conditionsOf = discoveryv1.EndpointConditions

// waitNextSecond waits until new objects are younger than obj: the apiserver
// counts age in seconds. It asks the apiserver's clock, by making objects.
func (c *cluster) waitNextSecond(obj client.Object) {
	c.t.Helper()
	eventually(c.t, func() error {
		probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, GenerateName: "clock-"}}
		c.create(probe)
		born := obj.GetCreationTimestamp()
		if !born.Before(&probe.CreationTimestamp) {
			return errNotYet("the second is not over")
		}
		return nil
	})
}
