package status

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestServiceAddresses(t *testing.T) {
	balancer := corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
		{IP: "192.0.2.1"}, {Hostname: "lb.example"}, {IP: "192.0.2.1"}, {},
	}}}
	for _, tc := range []struct {
		name string
		svc  corev1.Service
		want string
	}{
		{"load balancer", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1"}}, Status: balancer}, "192.0.2.1 lb.example"},
		{"load balancer and external IPs", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalIPs: []string{"203.0.113.1", "192.0.2.1"}}, Status: balancer}, "192.0.2.1 lb.example 203.0.113.1"},
		{"load balancer without address", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1"}}}, ""},
		{"node port", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIPs: []string{"10.0.0.1", "fd00::1"}}}, "10.0.0.1 fd00::1"},
		{"node port and external IP", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIPs: []string{"10.0.0.1"}, ExternalIPs: []string{"203.0.113.1"}}}, "203.0.113.1"},
		{"cluster IP", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{"10.0.0.1"}}}, "10.0.0.1"},
		{"headless", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{"None"}}}, ""},
		{"external name", corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "edge.example"}}, "edge.example"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := strings.Join(text(serviceAddresses(&tc.svc)), " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestSourceValidate(t *testing.T) {
	front := types.NamespacedName{Namespace: "edge", Name: "front"}
	for _, tc := range []struct {
		name   string
		source Source
		want   []string // parts of the error; none: valid
	}{
		{"none", Source{}, nil},
		{"service", Source{Service: front}, nil},
		{"addresses", Source{Addresses: []string{"192.0.2.1", "2001:db8::1", "lb.example"}}, nil},
		{"nodes", Source{Nodes: true}, nil},
		{"half a name", Source{Service: types.NamespacedName{Name: "front"}}, []string{"NAMESPACE/NAME"}},
		{"every fault at once", Source{Service: front, Nodes: true, Addresses: []string{"not an address", "fe80::1%eth0"}},
			[]string{"only one of the three", `"not an address"`, `"fe80::1%eth0"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.source.Validate()
			if len(tc.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, part := range tc.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v lacks %q", err, part)
				}
			}
		})
	}
}

func TestNodeIPs(t *testing.T) {
	node := func(addresses ...corev1.NodeAddress) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Addresses: addresses}}
	}
	internal := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}
	external := corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}
	name := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "n1"}
	for _, tc := range []struct {
		node *corev1.Node
		want []string
	}{
		{node(name, internal, external), []string{"203.0.113.1"}},
		{node(name, internal), []string{"10.0.0.1"}},
		{node(name), nil},
	} {
		if got := nodeIPs(tc.node); !slices.Equal(got, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.node.Status.Addresses, got, tc.want)
		}
	}
}

func TestFieldManager(t *testing.T) {
	long := "portico.dev/" + strings.Repeat("x", 200)
	for _, tc := range []struct {
		names []string
		want  string
	}{
		{nil, "portico.dev/ingress-controller"},
		{[]string{"portico.dev/internal", "k8s.io/ingress-nginx"}, "portico.dev/internal"},
		{[]string{long}, long[:128]},
	} {
		if got := FieldManager(tc.names); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.names, got, tc.want)
		}
	}
}
