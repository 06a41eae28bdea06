package manifest

import (
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/portico-ingress/portico/router/diag"
)

// oldForms remembers the Ingresses that are in a version which clusters no
// longer serve, for one notice.
type oldForms struct {
	first *object
	form  *networkingv1.Ingress // of first
	count int
}

func (f *oldForms) add(o *object, ing *networkingv1.Ingress) {
	if f.count++; f.first == nil {
		f.first, f.form = o, ing
	}
}

// tell adds the notice, which shows the first Ingress in its current form.
func (f *oldForms) tell(s *Set) {
	if f.count == 0 {
		return
	}
	form, err := s.CurrentForm(f.form)
	if err != nil {
		return // cannot happen: the value came from YAML
	}
	others := ""
	if f.count > 1 {
		others = fmt.Sprintf(" (and %d more are old too; portico convert prints them all)", f.count-1)
	}
	s.Notices = append(s.Notices, Notice{
		File: f.first.name, Line: f.first.place.line("apiVersion"), Object: f.first.ref,
		Text: fmt.Sprintf("is written as %s%s, which clusters since Kubernetes 1.22 refuse. It is converted here. The current form is:\n%s",
			f.first.typ.apiVersion, others, form),
	})
}

// CurrentForm writes an Ingress of the set as networking.k8s.io/v1 YAML,
// without what an apiserver would add. Where the manifest names no namespace
// this names none either: kubectl chooses it.
func (s *Set) CurrentForm(ing *networkingv1.Ingress) ([]byte, error) {
	return s.current("Ingress", &ing.ObjectMeta, ing.Spec)
}

// CurrentClass is CurrentForm for an IngressClass.
func (s *Set) CurrentClass(class *networkingv1.IngressClass) ([]byte, error) {
	return s.current("IngressClass", &class.ObjectMeta, class.Spec)
}

func (s *Set) current(kind string, m *metav1.ObjectMeta, spec any) ([]byte, error) {
	meta := map[string]any{"name": m.Name}
	written := s.places[diag.Ref{Kind: kind, Namespace: m.Namespace, Name: m.Name}].node
	if child(child(written, "metadata"), "namespace") != nil {
		meta["namespace"] = m.Namespace
	}
	annotations := maps.Clone(m.Annotations)
	delete(annotations, corev1.LastAppliedConfigAnnotation) // kubectl's copy of the old form
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	if len(m.Labels) > 0 {
		meta["labels"] = m.Labels
	}
	return yaml.Marshal(map[string]any{"apiVersion": kinds[kind].apiVersion, "kind": kind, "metadata": meta, "spec": spec})
}

// fromExtensionsV1beta1 goes by way of networking/v1beta1, whose JSON is the
// same.
func fromExtensionsV1beta1(old *extensionsv1beta1.Ingress) *networkingv1.Ingress {
	var moved networkingv1beta1.Ingress
	text, err := json.Marshal(old)
	if err == nil {
		err = json.Unmarshal(text, &moved)
	}
	if err != nil {
		panic(err) // the two types differ: extensions/v1beta1 is frozen, so it was never so
	}
	return fromNetworkingV1beta1(&moved)
}

func fromNetworkingV1beta1(old *networkingv1beta1.Ingress) *networkingv1.Ingress {
	spec := networkingv1.IngressSpec{IngressClassName: old.Spec.IngressClassName}
	if b := old.Spec.Backend; b != nil {
		spec.DefaultBackend = new(currentBackend(b.ServiceName, b.ServicePort, b.Resource))
	}
	for _, t := range old.Spec.TLS {
		spec.TLS = append(spec.TLS, networkingv1.IngressTLS{Hosts: t.Hosts, SecretName: t.SecretName})
	}
	for _, r := range old.Spec.Rules {
		rule := networkingv1.IngressRule{Host: r.Host}
		if r.HTTP != nil {
			rule.HTTP = &networkingv1.HTTPIngressRuleValue{}
			for _, p := range r.HTTP.Paths {
				rule.HTTP.Paths = append(rule.HTTP.Paths, networkingv1.HTTPIngressPath{
					Path: p.Path, PathType: currentPathType((*string)(p.PathType)),
					Backend: currentBackend(p.Backend.ServiceName, p.Backend.ServicePort, p.Backend.Resource),
				})
			}
		}
		spec.Rules = append(spec.Rules, rule)
	}
	return &networkingv1.Ingress{ObjectMeta: old.ObjectMeta, Spec: spec}
}

// currentPathType: the old versions had no required path type.
func currentPathType(old *string) *networkingv1.PathType {
	if old == nil {
		return new(networkingv1.PathTypeImplementationSpecific)
	}
	return (*networkingv1.PathType)(old)
}

func currentBackend(service string, port intstr.IntOrString, resource *corev1.TypedLocalObjectReference) networkingv1.IngressBackend {
	b := networkingv1.IngressBackend{Resource: resource}
	if service == "" && port == (intstr.IntOrString{}) {
		return b
	}
	b.Service = &networkingv1.IngressServiceBackend{Name: service}
	if port.Type == intstr.Int {
		b.Service.Port.Number = port.IntVal
	} else {
		b.Service.Port.Name = port.StrVal
	}
	return b
}
