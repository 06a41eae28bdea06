package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type address = networkingv1.IngressLoadBalancerIngress

// Source says where the published addresses come from. At most one of Service,
// Addresses and Nodes is set.
type Source struct {
	// Service is the Service in front of Portico: its load balancer's
	// addresses and external IPs; without a load balancer its external IPs,
	// else its cluster IPs.
	Service types.NamespacedName
	// Addresses are IP addresses and DNS names, published in this order.
	Addresses []string
	// Nodes publishes the nodes' external IPs, or internal IPs of nodes that
	// have none.
	Nodes bool
	// Pods restricts Nodes to those that run one of our ready pods. Zero:
	// every ready node.
	Pods Pods
}

// Pods selects pods by labels in a namespace.
type Pods struct {
	Namespace string
	Labels    map[string]string
}

// Validate reports every fault at once.
func (s Source) Validate() error {
	var errs []error
	given := 0
	for _, set := range []bool{s.Service != (types.NamespacedName{}), len(s.Addresses) > 0, s.Nodes} {
		if set {
			given++
		}
	}
	if given > 1 {
		errs = append(errs, errors.New("addresses can be published from a Service, from a list, or from nodes: give only one of the three"))
	}
	if s.Service != (types.NamespacedName{}) && (s.Service.Namespace == "" || s.Service.Name == "") {
		errs = append(errs, fmt.Errorf("the Service to publish is %q: write it as NAMESPACE/NAME", s.Service))
	}
	for _, a := range s.Addresses {
		if _, err := parseAddress(a); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func parseAddress(s string) (address, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		return address{IP: ip.Unmap().String()}, nil
	}
	if faults := validation.IsDNS1123Subdomain(s); len(faults) > 0 {
		return address{}, fmt.Errorf("the address to publish %q is neither an IP address nor a DNS name: %s", s, strings.Join(faults, "; "))
	}
	return address{Hostname: s}, nil
}

// addresses holds what is to be published now.
type addresses struct {
	source Source        // const
	reader client.Reader // of the objects the source is made of; nil with fixed addresses
	log    logr.Logger

	mu sync.Mutex // protects the following
	// now is never written, only replaced.
	now   []address
	known bool // false: every status stays as it is
}

// get returns the addresses to publish; known is false while the source has
// not said. Callers must not write the slice.
func (a *addresses) get() (now []address, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now, a.known
}

// refresh reads the source and reports whether the addresses changed. A source
// that cannot be read or does not exist changes nothing: a Service that is
// made anew must not blank every status meanwhile.
func (a *addresses) refresh(ctx context.Context) bool {
	fresh, err := a.source.read(ctx, a.reader)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.log.Info("published addresses stay as they are", "reason", err.Error())
		return false
	}
	if a.known && slices.EqualFunc(a.now, fresh, same) {
		return false
	}
	a.now, a.known = fresh, true
	a.log.Info("addresses to publish", "addresses", text(fresh))
	return true
}

func (s Source) read(ctx context.Context, r client.Reader) ([]address, error) {
	switch {
	case s.Nodes:
		return s.readNodes(ctx, r)
	case s.Service != (types.NamespacedName{}):
		var svc corev1.Service
		if err := r.Get(ctx, s.Service, &svc); apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("the Service to publish, %s, does not exist", s.Service)
		} else if err != nil {
			return nil, err
		}
		return serviceAddresses(&svc), nil
	}
	var fixed []address
	for _, text := range s.Addresses {
		a, err := parseAddress(text)
		if err != nil {
			return nil, err
		}
		fixed = appendNew(fixed, a)
	}
	return fixed, nil
}

// serviceAddresses are where a Service can be reached, as users of
// ingress-nginx know it.
func serviceAddresses(svc *corev1.Service) []address {
	var out []address
	switch svc.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return []address{{Hostname: svc.Spec.ExternalName}}
	case corev1.ServiceTypeLoadBalancer:
		for _, in := range svc.Status.LoadBalancer.Ingress {
			out = appendNew(out, address{IP: in.IP, Hostname: in.Hostname})
		}
		return appendIPs(out, svc.Spec.ExternalIPs)
	}
	if len(svc.Spec.ExternalIPs) > 0 {
		return appendIPs(nil, svc.Spec.ExternalIPs)
	}
	return appendIPs(nil, slices.DeleteFunc(slices.Clone(svc.Spec.ClusterIPs), func(ip string) bool {
		return ip == corev1.ClusterIPNone
	}))
}

// readNodes returns the addresses of the nodes, sorted.
func (s Source) readNodes(ctx context.Context, r client.Reader) ([]address, error) {
	var nodes corev1.NodeList
	if err := r.List(ctx, &nodes); err != nil {
		return nil, err
	}
	runs, err := s.podNodes(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []address
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if runs != nil && !runs[n.Name] || runs == nil && !nodeReady(n) {
			continue
		}
		out = appendIPs(out, nodeIPs(n))
	}
	if len(out) == 0 {
		return nil, errors.New("no node that serves has an address")
	}
	slices.SortFunc(out, func(x, y address) int { return cmp.Compare(x.IP, y.IP) })
	return out, nil
}

// podNodes returns the names of the nodes that run our ready pods, nil if all
// nodes count.
func (s Source) podNodes(ctx context.Context, r client.Reader) (map[string]bool, error) {
	if len(s.Pods.Labels) == 0 {
		return nil, nil
	}
	var pods corev1.PodList
	if err := r.List(ctx, &pods, client.InNamespace(s.Pods.Namespace), client.MatchingLabels(s.Pods.Labels)); err != nil {
		return nil, err
	}
	nodes := make(map[string]bool)
	for i := range pods.Items {
		p := &pods.Items[i]
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if ready && p.DeletionTimestamp == nil {
			nodes[p.Spec.NodeName] = true
		}
	}
	return nodes, nil
}

func nodeReady(n *corev1.Node) bool {
	return n.DeletionTimestamp == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func nodeIPs(n *corev1.Node) []string {
	var external, internal []string
	for _, a := range n.Status.Addresses {
		switch a.Type {
		case corev1.NodeExternalIP:
			external = append(external, a.Address)
		case corev1.NodeInternalIP:
			internal = append(internal, a.Address)
		}
	}
	if len(external) > 0 {
		return external
	}
	return internal
}

func appendIPs(to []address, ips []string) []address {
	for _, ip := range ips {
		to = appendNew(to, address{IP: ip})
	}
	return to
}

func appendNew(to []address, a address) []address {
	if a.IP == "" && a.Hostname == "" || slices.ContainsFunc(to, func(b address) bool { return same(a, b) }) {
		return to
	}
	return append(to, a)
}

func same(a, b address) bool { return a.IP == b.IP && a.Hostname == b.Hostname }

func text(all []address) []string {
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = cmp.Or(a.Hostname, a.IP)
	}
	return out
}
