package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
)

// Pool translates what is known of one pool: its Service, nil if there is none,
// and the Service's EndpointSlices. The result is never nil.
func Pool(opts Options, key upstream.Key, svc *corev1.Service, all []*discoveryv1.EndpointSlice) (*upstream.State, []diag.Problem) {
	switch {
	case key.Service == "" || key.Port == "":
		return misconfigured("The backend names no Service port", "Name a Service and one of its ports"), nil
	case svc == nil:
		return misconfigured(fmt.Sprintf("Service %s/%s does not exist", key.Namespace, key.Service), "Create it, or name another in the Ingress"), nil
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		s := externalName(opts, key, svc)
		port, _ := findPort(svc, key.Port)
		var problems []diag.Problem
		s.Protocol, problems = protocol(svc, port)
		return s, problems
	}
	port, why := findPort(svc, key.Port)
	if port == nil {
		return misconfigured(why, "Name one of the Service's ports in the Ingress"), nil
	}
	p := &poolTranslator{opts: opts, svc: svc, port: port, seen: map[netip.AddrPort]int{}}
	for _, s := range all {
		p.slice(s)
	}
	s := p.state()
	spoken, problems := protocol(svc, port)
	s.Protocol, s.Names = spoken, serviceNames(opts, svc)
	return s, diag.Sort(append(p.problems, problems...))
}

// protocol reads the appProtocol of a Service port; nil: there is no port.
func protocol(svc *corev1.Service, port *corev1.ServicePort) (policy.Protocol, []diag.Problem) {
	if port == nil || port.AppProtocol == nil {
		return policy.ProtocolDefault, nil
	}
	p, ok := policy.ParseAppProtocol(*port.AppProtocol)
	if ok {
		return p, nil
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == port.Port && o.Name == port.Name })
	return policy.HTTP, []diag.Problem{{
		Object:     diag.Ref{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: string(svc.UID)},
		Generation: svc.Generation, Field: fmt.Sprintf("spec.ports[%d].appProtocol", i), Reason: ReasonAppProtocol,
		Message: fmt.Sprintf("appProtocol %q is not known; HTTP/1.1 is spoken to the endpoints", *port.AppProtocol),
		Remedy:  "Use " + policy.AppProtocols,
	}}
}

// serviceNames are the names that a Service's certificate is made out to: the
// short one first, which works in every cluster.
func serviceNames(opts Options, svc *corev1.Service) []string {
	name := svc.Name + "." + svc.Namespace + ".svc"
	return []string{name, name + "." + opts.clusterDomain()}
}

func misconfigured(reason, remedy string) *upstream.State {
	return &upstream.State{Reason: reason, Remedy: remedy, Misconfigured: true}
}

// findPort returns the Service port of that number or name.
func findPort(svc *corev1.Service, port string) (*corev1.ServicePort, string) {
	var known []string
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		text := strconv.Itoa(int(p.Port))
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if p.Name == port && port != "" || text == port {
			return p, ""
		}
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		known = append(known, text)
	}
	return nil, fmt.Sprintf("Service %s/%s has no TCP port %s, but %s", svc.Namespace, svc.Name, port, cmp.Or(strings.Join(known, ", "), "none at all"))
}

// externalName translates a Service that stands for a DNS name. A name in the
// cluster's own domain leads past namespaces, so only the Service's own
// namespace is allowed (CVE-2021-32783 and its like).
func externalName(opts Options, key upstream.Key, svc *corev1.Service) *upstream.State {
	who := fmt.Sprintf("Service %s/%s of type ExternalName", svc.Namespace, svc.Name)
	if !opts.ExternalNames {
		return misconfigured(who+" is not used", "Start with --allow-external-names (allowExternalNames of the chart) to allow such backends")
	}
	host, err := view.CanonicalHost(svc.Spec.ExternalName)
	if err != nil || host == "" || strings.ContainsAny(svc.Spec.ExternalName, ":[") || isIPv4(host) {
		return misconfigured(fmt.Sprintf("%s names %q, which is not a DNS name", who, svc.Spec.ExternalName), "Write a DNS name into spec.externalName")
	}
	if inDomain(host, opts.clusterDomain()) && !strings.HasSuffix(host, "."+svc.Namespace+".svc."+opts.clusterDomain()) {
		return misconfigured(fmt.Sprintf("%s names %s, which is in the cluster's domain but not in namespace %s", who, host, svc.Namespace),
			"Put Ingress and Service into the namespace of the backend")
	}
	port, err := strconv.ParseUint(key.Port, 10, 16)
	if p, _ := findPort(svc, key.Port); p != nil {
		port, err = uint64(p.Port), nil
	}
	if err != nil || port == 0 {
		return misconfigured(fmt.Sprintf("%s has no port %s", who, key.Port), "Give a port number in the Ingress, or list the port in the Service")
	}
	return &upstream.State{
		Endpoints: []upstream.Endpoint{{Host: host, Port: uint16(port), Ready: true, Serving: true, Target: "DNS name " + host}},
		Names:     []string{host},
	}
}

func inDomain(host, domain string) bool {
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// poolTranslator collects the endpoints of one Service port from its slices.
type poolTranslator struct {
	opts      Options
	svc       *corev1.Service
	port      *corev1.ServicePort
	endpoints []upstream.Endpoint
	seen      map[netip.AddrPort]int // index in endpoints
	problems  []diag.Problem
	unnamed   int // slices that have no port of the Service port's name
}

func (p *poolTranslator) slice(s *discoveryv1.EndpointSlice) {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		p.report(s, "addressType", ReasonSliceIgnored, "EndpointSlices of addressType FQDN are not used", "Use IPv4 or IPv6, or a Service of type ExternalName")
		return
	}
	port, ok := slicePort(s, p.port.Name)
	if !ok {
		p.unnamed++
		return
	}
	for i := range s.Endpoints {
		p.endpoint(s, &s.Endpoints[i], port, fmt.Sprintf("endpoints[%d]", i))
	}
}

// slicePort returns the number behind a port name. Names are compared, never
// numbers: named target ports differ from pod to pod.
func slicePort(s *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for _, p := range s.Ports {
		tcp := p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
		if tcp && p.Port != nil && *p.Port > 0 && *p.Port <= 65535 && deref(p.Name, "") == name {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// endpoint adds one endpoint. Its addresses are interchangeable; the first is
// used, as kube-proxy does.
func (p *poolTranslator) endpoint(s *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, port uint16, field string) {
	if len(e.Addresses) == 0 {
		return
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		p.report(s, field+".addresses[0]", ReasonAddressRefused, fmt.Sprintf("%q is not an address", e.Addresses[0]), "Write an IPv4 or IPv6 address")
		return
	}
	to := netip.AddrPortFrom(addr.Unmap(), port)
	if p.opts.CheckAddr != nil {
		if err := p.opts.CheckAddr(to); err != nil {
			p.report(s, field+".addresses[0]", ReasonAddressRefused, fmt.Sprintf("address %s is not used: %v", to, err), "Endpoints must be addresses of pods or of hosts outside the cluster")
			return
		}
	}
	ready := deref(e.Conditions.Ready, true)
	out := upstream.Endpoint{
		Addr: to, Ready: ready, Serving: deref(e.Conditions.Serving, ready), Terminating: deref(e.Conditions.Terminating, false),
		Node: deref(e.NodeName, ""), Zone: deref(e.Zone, ""),
	}
	if r := e.TargetRef; r != nil {
		out.Target = r.Kind + " " + r.Namespace + "/" + r.Name
	}
	p.add(out)
}

// add merges endpoints that stand in two slices, as they may while they move
// from one to the other: the better condition counts.
func (p *poolTranslator) add(e upstream.Endpoint) {
	i, ok := p.seen[e.Addr]
	if !ok {
		p.seen[e.Addr] = len(p.endpoints)
		p.endpoints = append(p.endpoints, e)
		return
	}
	old := &p.endpoints[i]
	if rank(e) > rank(*old) || rank(e) == rank(*old) && e.Target < old.Target {
		*old = e
	}
}

func rank(e upstream.Endpoint) int {
	switch {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

func (p *poolTranslator) report(s *discoveryv1.EndpointSlice, field string, reason diag.Reason, message, remedy string) {
	p.problems = append(p.problems, diag.Problem{
		Object:     diag.Ref{Kind: "EndpointSlice", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)},
		Generation: s.Generation, Field: field, Reason: reason, Message: message, Remedy: remedy,
	})
}

func (p *poolTranslator) state() *upstream.State {
	p.primaryFamily()
	slices.SortFunc(p.endpoints, func(a, b upstream.Endpoint) int { return a.Addr.Compare(b.Addr) })
	s := &upstream.State{Endpoints: p.endpoints}
	if len(s.Usable()) > 0 {
		return s
	}
	who := fmt.Sprintf("Service %s/%s", p.svc.Namespace, p.svc.Name)
	switch {
	case len(p.endpoints) > 0:
		s.Reason = fmt.Sprintf("%s has no ready endpoint (%d not ready)", who, len(p.endpoints))
	case p.unnamed > 0:
		s.Reason = fmt.Sprintf("no EndpointSlice of %s has a port named %q", who, p.port.Name)
	case len(p.problems) > 0:
		s.Reason = who + " has no endpoint that may be used"
	default:
		s.Reason = who + " has no endpoints"
		if p.opts.Folder { // where nobody but the user writes them
			s.Misconfigured, s.Remedy = true, "Write an EndpointSlice (or Endpoints) that says where it is"
		}
	}
	return s
}

// primaryFamily drops the addresses of the second family of a dual-stack
// Service where the first has usable ones: they are the same pods again.
func (p *poolTranslator) primaryFamily() {
	if len(p.svc.Spec.IPFamilies) < 2 {
		return
	}
	v6 := p.svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	inFamily := func(e upstream.Endpoint) bool { return e.Addr.Addr().Is6() == v6 }
	if slices.ContainsFunc(p.endpoints, func(e upstream.Endpoint) bool { return inFamily(e) && rank(e) > 0 }) {
		p.endpoints = slices.DeleteFunc(p.endpoints, func(e upstream.Endpoint) bool { return !inFamily(e) })
	}
}

func deref[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
