package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultService fills in what an apiserver would.
func defaultService(svc *corev1.Service) {
	if svc.Spec.Type == "" {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

// validateService holds a Service to what an apiserver would accept, as far as
// traffic depends on it.
func validateService(o *object, svc *corev1.Service) {
	switch svc.Spec.Type {
	case corev1.ServiceTypeExternalName:
		if len(validation.IsDNS1123Subdomain(svc.Spec.ExternalName)) > 0 {
			o.invalid("spec.externalName", fmt.Sprintf("%q is not a DNS name", svc.Spec.ExternalName), "write the name that the Service stands for")
		}
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if len(svc.Spec.Ports) == 0 && svc.Spec.ClusterIP != corev1.ClusterIPNone {
			o.invalid("spec.ports", "is empty", "add a port")
		}
	default:
		o.invalid("spec.type", fmt.Sprintf("%q is not a type of Service", svc.Spec.Type), "write ClusterIP, NodePort, LoadBalancer or ExternalName")
	}
	names := make(map[string]bool)
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		at := fmt.Sprintf("spec.ports[%d]", i)
		o.checkPortName(at+".name", p.Name, len(svc.Spec.Ports) > 1, names, validation.IsDNS1123Label)
		o.checkPort(at+".port", p.Port)
		o.checkProtocol(at+".protocol", p.Protocol)
		if p.TargetPort.Type == intstr.String {
			o.check(at+".targetPort", p.TargetPort.StrVal, validation.IsValidPortName)
		} else if p.TargetPort.IntVal != p.Port {
			o.checkPort(at+".targetPort", p.TargetPort.IntVal)
		}
	}
}

// checkPortName holds the names of a list of ports to be given, where there
// are several, and to differ. It adds the name to names.
func (o *object) checkPortName(at, name string, required bool, names map[string]bool, valid func(string) []string) {
	switch {
	case name == "" && required:
		o.invalid(at, "is missing", "name every port where there are several")
	case names[name]:
		o.invalid(at, fmt.Sprintf("%q is the name of another port as well", name), "give every port its own name")
	case name != "":
		o.check(at, name, valid)
	}
	names[name] = true
}

func (o *object) checkProtocol(at string, p corev1.Protocol) {
	switch p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		o.invalid(at, fmt.Sprintf("%q is not a protocol", p), "write TCP, UDP or SCTP")
	}
}
