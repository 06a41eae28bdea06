package manifest

import (
	"fmt"
	"net"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateIngress holds an Ingress to what an apiserver would accept.
func validateIngress(o *object, ing *networkingv1.Ingress) {
	spec := &ing.Spec
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		o.invalid("spec", "has neither rules nor defaultBackend", "add at least one of them")
	}
	if spec.IngressClassName != nil {
		o.check("spec.ingressClassName", *spec.IngressClassName, validation.IsDNS1123Subdomain)
	}
	if spec.DefaultBackend != nil {
		validateBackend(o, "spec.defaultBackend", spec.DefaultBackend)
	}
	for i, t := range spec.TLS {
		at := fmt.Sprintf("spec.tls[%d]", i)
		for j, host := range t.Hosts {
			validateHost(o, fmt.Sprintf("%s.hosts[%d]", at, j), host)
		}
		if t.SecretName != "" {
			o.check(at+".secretName", t.SecretName, validation.IsDNS1123Subdomain)
		}
	}
	for i, r := range spec.Rules {
		validateRule(o, fmt.Sprintf("spec.rules[%d]", i), r)
	}
}

func validateRule(o *object, at string, r networkingv1.IngressRule) {
	if r.Host != "" {
		validateHost(o, at+".host", r.Host)
	}
	if r.HTTP == nil {
		return
	}
	if len(r.HTTP.Paths) == 0 {
		o.invalid(at+".http.paths", "is empty", "add a path, or remove http")
	}
	for i := range r.HTTP.Paths {
		p := &r.HTTP.Paths[i]
		path := fmt.Sprintf("%s.http.paths[%d]", at, i)
		validatePath(o, path, p)
		validateBackend(o, path+".backend", &p.Backend)
	}
}

func validateHost(o *object, at, host string) {
	switch {
	case net.ParseIP(host) != nil:
		o.invalid(at, fmt.Sprintf("%q is an IP address", host), "write a DNS name; a rule without host takes requests by address")
	case strings.Contains(host, "*"):
		if len(validation.IsWildcardDNS1123Subdomain(host)) > 0 {
			o.invalid(at, fmt.Sprintf("%q is not a wildcard host", host), `a wildcard stands for the whole first label, as in "*.example.com"`)
		}
	case len(validation.IsDNS1123Subdomain(host)) > 0:
		o.invalid(at, fmt.Sprintf("%q is not a DNS name", host), "write lower-case letters, digits, - and . only: no scheme, port or path")
	}
}

func validatePath(o *object, at string, p *networkingv1.HTTPIngressPath) {
	if p.PathType == nil {
		o.invalid(at+".pathType", "is missing", "write Exact, Prefix or ImplementationSpecific")
		return
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		validateExactPath(o, at+".path", p.Path)
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && p.Path[0] != '/' {
			o.invalid(at+".path", fmt.Sprintf("%q does not start with /", p.Path), fmt.Sprintf("write %q", "/"+p.Path))
		}
	default:
		o.invalid(at+".pathType", fmt.Sprintf("%q is not a path type", *p.PathType), "write Exact, Prefix or ImplementationSpecific")
	}
}

func validateExactPath(o *object, at, path string) {
	if !strings.HasPrefix(path, "/") {
		o.invalid(at, fmt.Sprintf("%q does not start with /", path), fmt.Sprintf("write %q", "/"+path))
		return
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(path, part) {
			o.invalid(at, fmt.Sprintf("%q contains %q", path, part), "write the path in its plain form")
		}
	}
	if strings.HasSuffix(path, "/..") || strings.HasSuffix(path, "/.") {
		o.invalid(at, fmt.Sprintf("%q ends in a dot segment", path), "write the path in its plain form")
	}
}

// validateBackend leaves resource backends to whoever serves the Ingress.
func validateBackend(o *object, at string, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		o.invalid(at, "has both service and resource", "keep one of them")
		return
	case b.Resource != nil:
		return
	case b.Service == nil:
		o.invalid(at, "names no Service", "add service.name and service.port.number")
		return
	}
	if b.Service.Name == "" {
		o.invalid(at+".service.name", "is missing", "name the Service that takes these requests")
	} else {
		o.check(at+".service.name", b.Service.Name, validation.IsDNS1123Label)
	}
	validateBackendPort(o, at+".service.port", b.Service.Port)
}

func validateBackendPort(o *object, at string, port networkingv1.ServiceBackendPort) {
	switch {
	case port.Name != "" && port.Number != 0:
		o.invalid(at, "has both name and number", "keep one of them")
	case port.Name != "" && strings.Trim(port.Name, "0123456789") == "":
		o.invalid(at+".name", fmt.Sprintf("%q is a number in quotes", port.Name), "write the number without quotes, in number (in old manifests: servicePort)")
	case port.Name != "":
		o.check(at+".name", port.Name, validation.IsValidPortName)
	case port.Number == 0:
		o.invalid(at, "has neither name nor number", "add one of them")
	default:
		o.checkPort(at+".number", port.Number)
	}
}

// validateIngressClass holds an IngressClass to what an apiserver would accept.
func validateIngressClass(o *object, class *networkingv1.IngressClass) {
	if class.Spec.Controller == "" {
		o.invalid("spec.controller", "is missing", "name the controller, such as portico.dev/ingress-controller")
		return
	}
	if len(class.Spec.Controller) > 250 ||
		len(validation.IsDomainPrefixedPath(field.NewPath("spec", "controller"), class.Spec.Controller)) > 0 {
		o.invalid("spec.controller", fmt.Sprintf("%q is not a domain and a path", class.Spec.Controller),
			"write it like portico.dev/ingress-controller")
	}
}

// check reports what a validation of apimachinery finds wrong with a value.
func (o *object) check(at, value string, valid func(string) []string) {
	for _, msg := range valid(value) {
		msg, _, _ = strings.Cut(msg, " (") // examples and a regular expression
		o.invalid(at, fmt.Sprintf("%q is not valid: %s", value, msg), "")
	}
}

func (o *object) checkPort(at string, port int32) {
	if port < 1 || port > 65535 {
		o.invalid(at, fmt.Sprintf("%d is not a port", port), "write a number from 1 to 65535")
	}
}
