package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// NodeOptions are what translation for a node needs to know.
type NodeOptions struct {
	// NodeName tells which endpoints are local.
	NodeName string
	// ProxyName is the label service.kubernetes.io/service-proxy-name of the
	// Services that are forwarded; empty: those without it.
	ProxyName string
	// ExternalIPs and LoadBalancerIPs say which such addresses of Services
	// are answered.
	ExternalIPs, LoadBalancerIPs AddressRule
}

// AddressRule says which addresses that the author of a Service asks for are
// granted (CVE-2020-8554: whoever may write a Service can take over any
// address). The zero rule grants all, as Kubernetes does.
type AddressRule struct {
	Deny bool
	Only []netip.Prefix // unless empty: these, and no others
}

// Allows reports whether an address is granted.
func (r AddressRule) Allows(a netip.Addr) bool {
	if r.Deny {
		return false
	}
	return len(r.Only) == 0 || slices.ContainsFunc(r.Only, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Reasons of the problems that translation for a node finds.
const (
	ReasonAddressIgnored diag.Reason = "AddressIgnored"
	ReasonPortIgnored    diag.Reason = "PortIgnored"
)

// LabelServiceProxyName hands a Service to another proxy (KEP-2447).
const LabelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// defaultAffinity is Kubernetes' timeout of the affinity ClientIP.
const defaultAffinity = 3 * time.Hour

// forwarded reports whether a node forwards connections to a Service: it has a
// ClusterIP, and nobody else was asked to.
func (o NodeOptions) forwarded(s *corev1.Service) bool {
	proxy, named := s.Labels[LabelServiceProxyName]
	ours := proxy == o.ProxyName && named == (o.ProxyName != "")
	return ours && s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// NodeService translates a Service for a node, without its endpoints; nil if
// it is not forwarded. WithEndpoints adds them.
func NodeService(o NodeOptions, s *corev1.Service) (*l4.Service, []diag.Problem) {
	if !o.forwarded(s) {
		return nil, nil
	}
	t := nodeTranslator{ref: diag.Ref{Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}, generation: s.Generation}
	out := &l4.Service{
		Name: l4.Name{Namespace: s.Namespace, Name: s.Name}, Created: s.CreationTimestamp.Time,
		ClusterIPs:    t.clusterIPs(s),
		InternalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Affinity:      affinity(s),
	}
	for i, text := range s.Spec.ExternalIPs {
		field := fmt.Sprintf("spec.externalIPs[%d]", i)
		if a, ok := t.address(field, text); ok && t.allowed(field, a, o.ExternalIPs, "--external-ips") {
			out.ExternalIPs = append(out.ExternalIPs, a)
		}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP == "" || in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		field := fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i)
		if a, ok := t.address(field, in.IP); ok && t.allowed(field, a, o.LoadBalancerIPs, "--lb-ips") {
			out.LoadBalancerIPs = append(out.LoadBalancerIPs, a)
		}
	}
	for i, text := range s.Spec.LoadBalancerSourceRanges {
		out.SourceRanges = append(out.SourceRanges, t.sourceRange(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), text)...)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && out.ExternalLocal {
		out.HealthCheckNodePort = portNumber(s.Spec.HealthCheckNodePort)
	}
	for i := range s.Spec.Ports {
		t.port(out, &s.Spec.Ports[i], fmt.Sprintf("spec.ports[%d]", i))
	}
	return out, diag.Sort(t.problems)
}

func affinity(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return defaultAffinity
}

// portNumber returns a port, 0 for what is none.
func portNumber(n int32) uint16 {
	if n < 0 || n > 65535 {
		return 0
	}
	return uint16(n)
}

// nodeTranslator collects the problems of one object.
type nodeTranslator struct {
	ref        diag.Ref
	generation int64
	problems   []diag.Problem
}

func (t *nodeTranslator) report(field string, reason diag.Reason, message, remedy string) {
	t.problems = append(t.problems, diag.Problem{Object: t.ref, Generation: t.generation, Field: field, Reason: reason, Message: message, Remedy: remedy})
}

// clusterIPs returns the first ClusterIP of each family. Objects from before
// dual stack have clusterIP only.
func (t *nodeTranslator) clusterIPs(s *corev1.Service) []netip.Addr {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.Spec.ClusterIP}
	}
	var out []netip.Addr
	for i, text := range texts {
		a, ok := t.address(fmt.Sprintf("spec.clusterIPs[%d]", i), text)
		if ok && !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is6() == a.Is6() }) {
			out = append(out, a)
		}
	}
	return out
}

func (t *nodeTranslator) port(out *l4.Service, p *corev1.ServicePort, field string) {
	protocol, known := l4.ParseProtocol(string(p.Protocol))
	number := portNumber(p.Port)
	if !known || number == 0 {
		t.report(field, ReasonPortIgnored, fmt.Sprintf("port %d/%s is not forwarded", p.Port, p.Protocol), "Use a port from 1 to 65535 of TCP, UDP or SCTP")
		return
	}
	if slices.ContainsFunc(out.Ports, func(o l4.Port) bool { return o.Name == p.Name && o.Protocol == protocol }) {
		t.report(field, ReasonPortIgnored, fmt.Sprintf("there is another port %q of %s", p.Name, protocol), "Give every port a name of its own")
		return
	}
	out.Ports = append(out.Ports, l4.Port{Name: p.Name, Protocol: protocol, Port: number, NodePort: portNumber(p.NodePort)})
}

// address reads an address that connections may go to.
func (t *nodeTranslator) address(field, text string) (netip.Addr, bool) {
	a, padded, err := parseAddr(text)
	switch {
	case err != nil:
		t.report(field, ReasonAddressIgnored, fmt.Sprintf("%q is not an address", text), "Write an IPv4 or IPv6 address")
		return a, false
	case a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		t.report(field, ReasonAddressIgnored, fmt.Sprintf("%s is an address of no host in particular", a), "Loopback, link-local, multicast and unspecified addresses are not used")
		return a, false
	case padded:
		t.report(field, ReasonAddressIgnored, fmt.Sprintf("the leading zeros in %q are ignored: it is read as %s", text, a), "Write "+a.String())
	}
	return a, true
}

func (t *nodeTranslator) allowed(field string, a netip.Addr, rule AddressRule, flag string) bool {
	if rule.Allows(a) {
		return true
	}
	t.report(field, ReasonAddressIgnored, fmt.Sprintf("%s is not answered: %s does not allow it", a, flag), "Ask whoever runs the cluster to allow the address")
	return false
}

// nobody are ranges that no client is in, of both families.
var nobody = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32), netip.PrefixFrom(netip.IPv6Unspecified(), 128)}

// sourceRange reads one range. One that cannot be read lets nobody in: left
// out, it might leave an empty list, which lets everybody in.
func (t *nodeTranslator) sourceRange(field, text string) []netip.Prefix {
	p, err := parsePrefix(strings.TrimSpace(text)) // the apiserver lets blanks through
	if err != nil {
		t.report(field, ReasonAddressIgnored, fmt.Sprintf("%q is not a CIDR: it lets nobody in", text), "Write a range like 203.0.113.0/24")
		return nobody
	}
	return []netip.Prefix{p}
}

// parsePrefix reads a CIDR with the leniency of parseAddr.
func parsePrefix(text string) (netip.Prefix, error) {
	address, bits, _ := strings.Cut(text, "/")
	a, _, err := parseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	if zeros := strings.TrimLeft(bits, "0"); bits != "" {
		bits = cmp.Or(zeros, "0")
	}
	p, err := netip.ParsePrefix(a.String() + "/" + bits)
	return p.Masked(), err
}

// parseAddr reads an address as Kubernetes does: leading zeros, which old
// objects may have, are without meaning; elsewhere they make octal numbers.
func parseAddr(text string) (a netip.Addr, padded bool, err error) {
	a, err = netip.ParseAddr(text)
	if octets := strings.Split(text, "."); err != nil && len(octets) == 4 {
		for i, o := range octets {
			octets[i] = cmp.Or(strings.TrimLeft(o, "0"), o[:min(len(o), 1)])
		}
		a, err = netip.ParseAddr(strings.Join(octets, "."))
		padded = err == nil
	}
	if err == nil && a.Zone() != "" {
		err = fmt.Errorf("%q has a zone", text)
	}
	return a.Unmap(), padded, err
}

// ServiceCIDRs lists the ranges of ClusterIPs, sorted.
func ServiceCIDRs(all []*networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range all {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Masked())
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}
