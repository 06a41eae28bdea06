package envtest_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

const (
	prefix = networkingv1.PathTypePrefix
	exact  = networkingv1.PathTypeExact
)

func TestIngressLifecycle(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.echoService("two")
	ing := c.ingress("web", rule("shop.example", prefix, "/", "one"))
	in := c.start()
	in.wait("shop.example", "/", "one")

	update(c, ing, func(i *networkingv1.Ingress) {
		i.Spec.Rules[0].HTTP.Paths[0].Backend = backendOf("two")
	})
	in.wait("shop.example", "/", "two")

	c.ingress("later", rule("later.example", prefix, "/", "one"))
	in.wait("later.example", "/", "one")

	c.delete(ing)
	in.wait("shop.example", "/", "404")
	in.wait("later.example", "/", "one")
}
