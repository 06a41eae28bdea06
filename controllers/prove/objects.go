package prove

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	replicas    = 2
	backendPort = 8080
	mergePatch  = types.MergePatchType
)

func (p *proof) key() client.ObjectKey {
	return client.ObjectKey{Namespace: p.Namespace, Name: p.Name}
}

func (p *proof) labels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": p.Name, "app.kubernetes.io/part-of": "portico-prove"}
}

func (p *proof) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.labels()}
}

// objects are all that is made, in order.
func (p *proof) objects() []client.Object {
	return []client.Object{p.deployment(), p.service(), p.ingress()}
}

// deployment is an application that a rolling update can take away without
// loss: there is always a full number of ready pods, and a pod serves on for a
// while after it was told to end.
func (p *proof) deployment() *appsv1.Deployment {
	n, none := int32(replicas), intstr.FromInt32(0)
	var grace int64 = 30
	return &appsv1.Deployment{ObjectMeta: p.meta(), Spec: appsv1.DeploymentSpec{
		Replicas: &n,
		Selector: &metav1.LabelSelector{MatchLabels: p.labels()},
		Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: p.labels()},
			Spec: corev1.PodSpec{
				Containers:                    []corev1.Container{p.container()},
				ImagePullSecrets:              p.pullSecrets(),
				AutomountServiceAccountToken:  new(bool),
				TerminationGracePeriodSeconds: &grace,
				SecurityContext: &corev1.PodSecurityContext{
					RunAsNonRoot: yes(), RunAsUser: id(), RunAsGroup: id(),
					SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
			},
		},
	}}
}

func (p *proof) container() corev1.Container {
	return corev1.Container{
		Name: "backend", Image: p.Image,
		Args:  []string{"prove", "backend"},
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: backendPort}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")},
		}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: yes(),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

func yes() *bool { b := true; return &b }

// id is the user of the image.
func id() *int64 { n := int64(65532); return &n }

func (p *proof) pullSecrets() (refs []corev1.LocalObjectReference) {
	for _, name := range p.PullSecrets {
		refs = append(refs, corev1.LocalObjectReference{Name: name})
	}
	return refs
}

func (p *proof) service() *corev1.Service {
	return &corev1.Service{ObjectMeta: p.meta(), Spec: corev1.ServiceSpec{
		Selector: p.labels(),
		Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
	}}
}

func (p *proof) ingress() *networkingv1.Ingress {
	prefix := networkingv1.PathTypePrefix
	return &networkingv1.Ingress{ObjectMeta: p.meta(), Spec: networkingv1.IngressSpec{
		IngressClassName: &p.IngressClass,
		Rules: []networkingv1.IngressRule{{Host: p.host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: p.Name, Port: networkingv1.ServiceBackendPort{Name: "http"}},
			}}},
		}}}},
	}}
}
