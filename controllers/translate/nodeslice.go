package translate

import (
	"fmt"
	"net/netip"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// labelHeadless marks the EndpointSlices of headless Services, which nobody
// forwards to.
const labelHeadless = "service.kubernetes.io/headless"

// SelectServices is the label selector of Services that concern a node: those
// of another proxy need not be sent. A Service may have the label of headless
// ones and still have a ClusterIP, which must be answered.
func (o NodeOptions) SelectServices() string {
	if o.ProxyName != "" {
		return LabelServiceProxyName + "=" + o.ProxyName
	}
	return "!" + LabelServiceProxyName
}

// SelectSlices is that of EndpointSlices. The proxy's name is not asked for:
// slices get the labels of their Service late, and those that are written by hand
// not at all.
func (o NodeOptions) SelectSlices() string { return "!" + labelHeadless }

// NodeSlice is an EndpointSlice as a node sees it.
type NodeSlice struct {
	Service l4.Name
	IPv6    bool // the family of its endpoints
	// Changed is when the change of a pod or Service that the slice shows
	// happened; zero if nobody says.
	Changed time.Time
	groups  []portGroup
}

// portGroup are the endpoints of one port.
type portGroup struct {
	name     string
	protocol l4.Protocol
	group    *l4.Group
}

// ParseSlice translates an EndpointSlice for a node; nil if it has nothing for
// it: it belongs to no Service, or is of the type FQDN.
func ParseSlice(o NodeOptions, s *discoveryv1.EndpointSlice) (*NodeSlice, []diag.Problem) {
	service := s.Labels[discoveryv1.LabelServiceName]
	_, headless := s.Labels[labelHeadless]
	if service == "" || headless || s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	t := nodeTranslator{ref: diag.Ref{Kind: "EndpointSlice", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}, generation: s.Generation}
	ipv6 := s.AddressType == discoveryv1.AddressTypeIPv6
	out := &NodeSlice{Service: l4.Name{Namespace: s.Namespace, Name: service}, IPv6: ipv6}
	if at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		out.Changed = at
	}
	endpoints := t.endpoints(o, s, ipv6)
	for i, p := range s.Ports {
		protocol, known := l4.ParseProtocol(string(deref(p.Protocol, "")))
		number := portNumber(deref(p.Port, 0))
		if !known || number == 0 {
			t.report(fmt.Sprintf("ports[%d]", i), ReasonPortIgnored, "the port has no number or a protocol that is not forwarded", "Give a port from 1 to 65535 of TCP, UDP or SCTP")
			continue
		}
		g := &l4.Group{IPv6: ipv6, Endpoints: append([]l4.Endpoint(nil), endpoints...)}
		for i := range g.Endpoints {
			g.Endpoints[i].Address = netip.AddrPortFrom(endpoints[i].Address.Addr(), number)
		}
		out.groups = append(out.groups, portGroup{deref(p.Name, ""), protocol, g})
	}
	return out, diag.Sort(t.problems)
}

// endpoints translates the endpoints, without port. The addresses of one are
// interchangeable: the first is used, as kube-proxy does.
func (t *nodeTranslator) endpoints(o NodeOptions, s *discoveryv1.EndpointSlice, ipv6 bool) []l4.Endpoint {
	out := make([]l4.Endpoint, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		field := fmt.Sprintf("endpoints[%d].addresses[0]", i)
		a, ok := t.address(field, e.Addresses[0])
		if !ok {
			continue
		}
		if a.Is6() != ipv6 {
			t.report(field, ReasonAddressIgnored, fmt.Sprintf("%s is not of the slice's addressType %s", a, s.AddressType), "Put it into a slice of its own family")
			continue
		}
		out = append(out, endpoint(o, e, a))
	}
	return out
}

func endpoint(o NodeOptions, e *discoveryv1.Endpoint, a netip.Addr) l4.Endpoint {
	out := l4.Endpoint{
		Address: netip.AddrPortFrom(a, 0), Node: intern(deref(e.NodeName, "")),
		Ready: deref(e.Conditions.Ready, true), Serving: deref(e.Conditions.Serving, true), Terminating: deref(e.Conditions.Terminating, false),
	}
	out.Local = out.Node != "" && out.Node == o.NodeName
	if h := e.Hints; h != nil {
		for _, n := range h.ForNodes {
			out.ForNodes = append(out.ForNodes, intern(n.Name))
		}
		for _, z := range h.ForZones {
			out.ForZones = append(out.ForZones, intern(z.Name))
		}
	}
	return out
}

// intern lets half a million endpoints share the names of their nodes.
func intern(s string) string { return unique.Make(s).Value() }

// WithEndpoints returns the Service with the endpoints of its slices. Slices
// that are passed again give the same groups, which l4 knows by identity.
func WithEndpoints(s *l4.Service, slices []*NodeSlice) *l4.Service {
	out := *s
	out.Ports = append([]l4.Port(nil), s.Ports...)
	for i := range out.Ports {
		p := &out.Ports[i]
		p.Groups = make([]*l4.Group, 0, len(slices))
		for _, slice := range slices {
			if g := slice.group(p); g != nil {
				p.Groups = append(p.Groups, g)
			}
		}
	}
	return &out
}

// group returns the endpoints of a Service port. Names are compared, never
// numbers: named target ports differ from pod to pod.
func (s *NodeSlice) group(p *l4.Port) *l4.Group {
	for i := range s.groups {
		if g := &s.groups[i]; g.name == p.Name && g.protocol == p.Protocol {
			return g.group
		}
	}
	return nil
}
