package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxEndpoints is how many endpoints an apiserver takes in one slice.
const maxEndpoints = 1000

// defaultEndpointSlice fills in what an apiserver would.
func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// validateEndpointSlice holds an EndpointSlice to what an apiserver would
// accept. It does allow loopback addresses, which in a folder are what a
// developer has.
func validateEndpointSlice(o *object, s *discoveryv1.EndpointSlice) {
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		o.invalid("addressType", "is missing", "write IPv4 or IPv6")
	default:
		o.invalid("addressType", fmt.Sprintf("%q is not an address type", s.AddressType), "write IPv4 or IPv6")
	}
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		o.invalid("metadata.labels", "the slice belongs to no Service", "add the label "+discoveryv1.LabelServiceName+": NAME")
	}
	if len(s.Endpoints) > maxEndpoints {
		o.invalid("endpoints", fmt.Sprintf("has more than %d entries", maxEndpoints), "split the slice")
	}
	for i, e := range s.Endpoints {
		at := fmt.Sprintf("endpoints[%d].addresses", i)
		if len(e.Addresses) == 0 {
			o.invalid(at, "is empty", "add an address")
		}
		for j, a := range e.Addresses {
			o.checkAddress(fmt.Sprintf("%s[%d]", at, j), a, s.AddressType)
		}
	}
	names := make(map[string]bool)
	for i, p := range s.Ports {
		at := fmt.Sprintf("ports[%d]", i)
		o.checkPortName(at+".name", *p.Name, false, names, validation.IsDNS1123Label)
		o.checkProtocol(at+".protocol", *p.Protocol)
		if p.Port != nil {
			o.checkPort(at+".port", *p.Port)
		}
	}
}

func (o *object) checkAddress(at, address string, family discoveryv1.AddressType) {
	ip, err := netip.ParseAddr(address)
	switch {
	case family == discoveryv1.AddressTypeIPv4 && (err != nil || !ip.Is4()):
		o.invalid(at, fmt.Sprintf("%q is not an IPv4 address", address), "")
	case family == discoveryv1.AddressTypeIPv6 && (err != nil || !ip.Is6() || ip.Zone() != ""):
		o.invalid(at, fmt.Sprintf("%q is not an IPv6 address", address), "")
	case family == discoveryv1.AddressTypeFQDN:
		o.check(at, address, validation.IsDNS1123Subdomain)
	}
}

// defaultEndpoints fills in what an apiserver would.
//
//lint:ignore SA1019 people still write Endpoints by hand
func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

// validateEndpoints holds an Endpoints object to what an apiserver would
// accept, loopback addresses apart.
//
//lint:ignore SA1019 as above
func validateEndpoints(o *object, e *corev1.Endpoints) {
	for i, s := range e.Subsets {
		at := fmt.Sprintf("subsets[%d]", i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			o.invalid(at, "has no address", "add addresses, or remove the subset")
		}
		o.checkIPs(at+".addresses", s.Addresses)
		o.checkIPs(at+".notReadyAddresses", s.NotReadyAddresses)
		names := make(map[string]bool)
		for j, p := range s.Ports {
			port := fmt.Sprintf("%s.ports[%d]", at, j)
			o.checkPortName(port+".name", p.Name, len(s.Ports) > 1, names, validation.IsDNS1123Label)
			o.checkPort(port+".port", p.Port)
			o.checkProtocol(port+".protocol", p.Protocol)
		}
	}
}

func (o *object) checkIPs(at string, list []corev1.EndpointAddress) {
	for i, a := range list {
		if ip, err := netip.ParseAddr(a.IP); err != nil || ip.Zone() != "" {
			o.invalid(fmt.Sprintf("%s[%d].ip", at, i), fmt.Sprintf("%q is not an IP address", a.IP), "")
		}
	}
}
