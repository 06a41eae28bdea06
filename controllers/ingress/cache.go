package ingress

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/translate"
)

// CacheOptions returns the options of the cache of a manager that New is
// called with: which namespaces it watches (all, if none is given; IngressClass
// is cluster-scoped and always watched), and which fields it drops. Objects
// read from such a cache are shared and must not be written.
//
// statusManager is the field manager whose ownership of an Ingress's status is
// kept visible in metadata.managedFields (see controllers/status); all other
// managed fields are dropped. May be empty.
//
// watches are told of failures; the same go to Options.
func CacheOptions(namespaces []string, statusManager string, watches *Watches) cache.Options {
	shared := true
	opts := cache.Options{
		// An informer that nobody planned would watch with fields and
		// namespaces that nobody restricted.
		ReaderFailOnMissingInformer:  true,
		DefaultUnsafeDisableDeepCopy: &shared,
		DefaultWatchErrorHandler:     watches.failed,
		ByObject: map[client.Object]cache.ByObject{
			&networkingv1.Ingress{}:      {Transform: trim(trimIngress(statusManager))},
			&networkingv1.IngressClass{}: {Transform: trim(trimClass)},
			&corev1.Service{}:            {Transform: trim(trimService)},
			&discoveryv1.EndpointSlice{}: {Transform: trim(trimSlice)},
		},
	}
	for _, ns := range namespaces {
		if opts.DefaultNamespaces == nil {
			opts.DefaultNamespaces = make(map[string]cache.Config)
		}
		opts.DefaultNamespaces[ns] = cache.Config{}
	}
	return opts
}

// trim makes a cache transform of a function that drops fields of one type.
// Transforms see an object before anything else does, so they may write it.
func trim[T client.Object](drop func(T)) func(any) (any, error) {
	return func(in any) (any, error) {
		if obj, ok := in.(T); ok {
			drop(obj)
		}
		return in, nil
	}
}

// trimMeta keeps identity, age, versions and the annotations that keep says.
func trimMeta(m *metav1.ObjectMeta, keep func(key string) bool) {
	kept := metav1.ObjectMeta{
		Namespace:         m.Namespace,
		Name:              m.Name,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		Generation:        m.Generation,
		CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp,
	}
	for k, v := range m.Annotations {
		if !keep(k) {
			continue
		}
		if kept.Annotations == nil {
			kept.Annotations = make(map[string]string)
		}
		kept.Annotations[k] = v
	}
	*m = kept
}

// meaningful reports whether an annotation may be read or warned about.
func meaningful(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return domain == "portico.dev" || domain == "nginx.ingress.kubernetes.io" ||
		key == networkingv1.AnnotationIsDefaultIngressClass || key == "kubernetes.io/ingress.class" ||
		key == translate.TLSACMEAnnotation || translate.IsCertManager(key)
}

func trimIngress(statusManager string) func(*networkingv1.Ingress) {
	return func(ing *networkingv1.Ingress) {
		written := ownEntries(ing.ManagedFields, statusManager)
		trimMeta(&ing.ObjectMeta, meaningful)
		ing.ManagedFields = written
	}
}

func ownEntries(all []metav1.ManagedFieldsEntry, manager string) []metav1.ManagedFieldsEntry {
	var own []metav1.ManagedFieldsEntry
	for _, e := range all {
		if e.Manager == manager && e.Subresource == "status" {
			own = append(own, e)
		}
	}
	return own
}

func trimClass(c *networkingv1.IngressClass) { trimMeta(&c.ObjectMeta, meaningful) }

func trimService(s *corev1.Service) {
	trimMeta(&s.ObjectMeta, meaningful)
	s.Spec = corev1.ServiceSpec{
		Type:         s.Spec.Type,
		Ports:        s.Spec.Ports,
		IPFamilies:   s.Spec.IPFamilies,
		ExternalName: s.Spec.ExternalName,
	}
	s.Status = corev1.ServiceStatus{}
}

func trimSlice(s *discoveryv1.EndpointSlice) {
	service, labelled := s.Labels[discoveryv1.LabelServiceName]
	trimMeta(&s.ObjectMeta, meaningful)
	if labelled {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	}
	for i := range s.Endpoints {
		ep := &s.Endpoints[i]
		ep.Hostname, ep.DeprecatedTopology, ep.Hints = nil, nil, nil
		if ref := ep.TargetRef; ref != nil {
			ep.TargetRef = &corev1.ObjectReference{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
		}
	}
}
