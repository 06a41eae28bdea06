package ingress

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// NewRESTMapper knows the kinds that Portico's controllers read and write. As
// the MapperProvider of a manager it takes the place of discovery, which needs
// an apiserver that answers before a manager can even be made: with it, a
// process that starts first waits, not ready, and goes on trying.
func NewRESTMapper(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	m := meta.NewDefaultRESTMapper(nil)
	add := func(gv schema.GroupVersion, scope meta.RESTScope, kinds ...string) {
		for _, kind := range kinds {
			m.Add(gv.WithKind(kind), scope)
			m.Add(gv.WithKind(kind+"List"), scope) // discovery has them too
		}
	}
	add(networkingv1.SchemeGroupVersion, meta.RESTScopeNamespace, "Ingress")
	add(networkingv1.SchemeGroupVersion, meta.RESTScopeRoot, "IngressClass")
	add(discoveryv1.SchemeGroupVersion, meta.RESTScopeNamespace, "EndpointSlice")
	add(corev1.SchemeGroupVersion, meta.RESTScopeNamespace, "Service", "Secret", "Pod", "Event")
	add(corev1.SchemeGroupVersion, meta.RESTScopeRoot, "Node")
	return m, nil
}
