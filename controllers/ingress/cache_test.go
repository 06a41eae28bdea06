package ingress

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/upstream"
)

func fullMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: "uid", ResourceVersion: "7", Generation: 3,
		CreationTimestamp: metav1.Unix(1000, 0),
		Labels:            map[string]string{discoveryv1.LabelServiceName: "web", "app": "web"},
		Annotations: map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": "{}",
			"portico.dev/ssl-redirect":                         "false",
			"nginx.ingress.kubernetes.io/rewrite-target":       "/$1",
			"kubernetes.io/ingress.class":                      "old",
			"ingressclass.kubernetes.io/is-default-class":      "true",
			"other.example/x":                                  "y",
		},
		OwnerReferences: []metav1.OwnerReference{{Name: "owner"}},
		Finalizers:      []string{"f"},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "us", Subresource: "status"}, {Manager: "us"}, {Manager: "them", Subresource: "status"}},
	}
}

// What is dropped must not be missed: translation says the same of the trimmed
// objects.
func TestTrimmingLosesNothingThatIsRead(t *testing.T) {
	port, name := int32(8080), "http"
	node, zone, hostname := "n1", "z1", "web-1"
	class := "portico"
	exact := networkingv1.PathTypeExact
	ing := &networkingv1.Ingress{ObjectMeta: fullMeta("web"), Spec: networkingv1.IngressSpec{
		IngressClassName: &class,
		Rules: []networkingv1.IngressRule{{Host: "shop.example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &exact, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Name: "http"}},
			}}},
		}}}},
		TLS: []networkingv1.IngressTLS{{Hosts: []string{"shop.example"}, SecretName: "tls"}},
	}}
	svc := &corev1.Service{ObjectMeta: fullMeta("web"), Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Name: "http", Port: 80}}, Selector: map[string]string{"app": "web"},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, ClusterIP: "10.0.0.1",
	}, Status: corev1.ServiceStatus{Conditions: []metav1.Condition{{Type: "x"}}}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: fullMeta("web-1"), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.1.0.1"}, NodeName: &node, Zone: &zone, Hostname: &hostname,
			TargetRef:          &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web-1", UID: "u", ResourceVersion: "9"},
			DeprecatedTopology: map[string]string{"a": "b"},
			Hints:              &discoveryv1.EndpointHints{},
		}}}
	key := upstream.Key{Namespace: "shop", Service: "web", Port: "http"}

	wantIngress, wantProblems := translate.Ingress(ing)
	wantState, _ := translate.Pool(translate.Options{}, key, svc, []*discoveryv1.EndpointSlice{slice})
	if len(wantState.Usable()) != 1 || len(wantIngress.TLS) != 1 {
		t.Fatalf("the objects do not say what the test needs: %+v, %+v", wantState, wantIngress)
	}
	transforms := CacheOptions([]string{"shop"}, "us", new(Watches)).ByObject
	for obj, by := range transforms {
		for _, full := range []client.Object{ing, svc, slice} {
			if reflect.TypeOf(obj) != reflect.TypeOf(full) {
				continue
			}
			if _, err := by.Transform(full); err != nil {
				t.Fatal(err)
			}
		}
	}
	gotIngress, gotProblems := translate.Ingress(ing)
	if !reflect.DeepEqual(gotIngress, wantIngress) || !reflect.DeepEqual(gotProblems, wantProblems) {
		t.Errorf("Ingress: got %+v %v, want %+v %v", gotIngress, gotProblems, wantIngress, wantProblems)
	}
	if gotState, _ := translate.Pool(translate.Options{}, key, svc, []*discoveryv1.EndpointSlice{slice}); !reflect.DeepEqual(gotState, wantState) {
		t.Errorf("pool: got %+v, want %+v", gotState, wantState)
	}
	if got := indexByService(slice); len(got) != 1 || got[0] != "web" {
		t.Errorf("the slice is indexed under %v", got)
	}
	if got := ing.ManagedFields; len(got) != 1 || got[0].Manager != "us" || got[0].Subresource != "status" {
		t.Errorf("managed fields kept: %v", got)
	}
	for _, obj := range []client.Object{ing, svc, slice} {
		_, applied := obj.GetAnnotations()["kubectl.kubernetes.io/last-applied-configuration"]
		if applied || len(obj.GetAnnotations()) != 4 || obj.GetOwnerReferences() != nil || obj.GetFinalizers() != nil {
			t.Errorf("%T keeps what nobody reads: %+v", obj, obj)
		}
	}
	if svc.Spec.Selector != nil || svc.Spec.ClusterIP != "" || svc.Status.Conditions != nil || slice.Endpoints[0].Hostname != nil {
		t.Error("fields that nobody reads are kept")
	}
}
