package flows

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// table is a file. Addresses are IPv4 throughout.
type table struct {
	Nodes    []node
	Services []service
	Flows    []flow
}

type node struct {
	Name          string // of this variant
	Hostname      string
	Zone          string
	IP            netip.Addr
	Addresses     []netip.Addr
	PodCIDRs      []netip.Prefix `yaml:"podCIDRs"`
	PodInterface  string         `yaml:"podInterface"` // "name" or "prefix*"
	ServiceCIDRs  []netip.Prefix `yaml:"serviceCIDRs"`
	NodePorts     []netip.Addr   `yaml:"nodePorts"` // none: all
	MasqueradeAll bool           `yaml:"masqueradeAll"`
}

func (n node) model(m mapper) l4.Node {
	prefix, isPrefix := strings.CutSuffix(n.PodInterface, "*")
	return l4.Node{
		Name: n.Hostname, Zone: n.Zone, IPs: []netip.Addr{m.addr(n.IP)},
		NodePorts:     l4.NodePorts{All: n.NodePorts == nil, Addresses: m.addrs(n.NodePorts)},
		ServiceCIDRs:  m.prefixes(n.ServiceCIDRs),
		Pods:          l4.Detector{CIDRs: m.prefixes(n.PodCIDRs), Interface: prefix, InterfacePrefix: isPrefix},
		MasqueradeAll: n.MasqueradeAll,
	}
}

type service struct {
	Name            string         // namespace/name
	ClusterIP       netip.Addr     `yaml:"clusterIP"`
	ExternalIPs     []netip.Addr   `yaml:"externalIPs"`
	LoadBalancerIPs []netip.Addr   `yaml:"loadBalancerIPs"`
	SourceRanges    []netip.Prefix `yaml:"sourceRanges"`
	InternalLocal   bool           `yaml:"internalLocal"`
	ExternalLocal   bool           `yaml:"externalLocal"`
	Affinity        time.Duration
	Created         time.Time
	Ports           []port
	Endpoints       []endpoint
}

type port struct {
	Name     string
	Protocol string
	Port     uint16
	NodePort uint16 `yaml:"nodePort"`
	Target   uint16 // default: Port
}

type endpoint struct {
	IP   netip.Addr `yaml:"ip"`
	Node string
	// State is "ready" (the default), "terminating" (and serving), "failing"
	// (not ready, not serving) or "dying" (terminating and not serving).
	State    string
	ForNodes []string `yaml:"forNodes"`
	ForZones []string `yaml:"forZones"`
}

func (s service) model(m mapper, hostname string) (*l4.Service, error) {
	namespace, name, ok := strings.Cut(s.Name, "/")
	if !ok {
		return nil, fmt.Errorf("its name is not of the form namespace/name")
	}
	out := &l4.Service{
		Name: l4.Name{Namespace: namespace, Name: name}, Created: s.Created,
		ClusterIPs: []netip.Addr{m.addr(s.ClusterIP)}, ExternalIPs: m.addrs(s.ExternalIPs), LoadBalancerIPs: m.addrs(s.LoadBalancerIPs),
		SourceRanges: m.prefixes(s.SourceRanges), Affinity: s.Affinity, InternalLocal: s.InternalLocal, ExternalLocal: s.ExternalLocal,
	}
	for _, p := range s.Ports {
		protocol, ok := l4.ParseProtocol(p.Protocol)
		if !ok {
			return nil, fmt.Errorf("protocol %q", p.Protocol)
		}
		g := &l4.Group{IPv6: m.ipv6}
		for _, e := range s.Endpoints {
			ep, err := e.model(m, hostname, cmp.Or(p.Target, p.Port))
			if err != nil {
				return nil, err
			}
			g.Endpoints = append(g.Endpoints, ep)
		}
		out.Ports = append(out.Ports, l4.Port{Name: p.Name, Protocol: protocol, Port: p.Port, NodePort: p.NodePort, Groups: []*l4.Group{g}})
	}
	return out, nil
}

func (e endpoint) model(m mapper, hostname string, port uint16) (l4.Endpoint, error) {
	out := l4.Endpoint{
		Address: netip.AddrPortFrom(m.addr(e.IP), port), Node: e.Node, Local: e.Node == hostname,
		ForNodes: e.ForNodes, ForZones: e.ForZones,
	}
	switch e.State {
	case "", "ready":
		out.Ready, out.Serving = true, true
	case "terminating":
		out.Serving, out.Terminating = true, true
	case "failing":
	case "dying":
		out.Terminating = true
	default:
		return out, fmt.Errorf("endpoint %s: state %q", e.IP, e.State)
	}
	return out, nil
}

type flow struct {
	Name     string
	From     string // "pod", "node" or "outside", and an address
	To       netip.AddrPort
	Protocol string
	// Result is "pass", "reject", "drop" or the endpoints, separated by
	// spaces; Masquerade is "no" (the default), "yes" or "hairpin": only by
	// the endpoint that is the source itself.
	Result     string
	Masquerade string
	// On says what is different for nodes of that name.
	On map[string]struct{ Result, Masquerade string }
}

// The interfaces that packets come in by.
const (
	PodInterface     = "veth1"
	OutsideInterface = "eth0"
)

func (f flow) model(n node, m mapper, local []netip.Addr) (Flow, error) {
	protocol, ok := l4.ParseProtocol(f.Protocol)
	if !ok {
		return Flow{}, fmt.Errorf("protocol %q", f.Protocol)
	}
	kind, address, _ := strings.Cut(f.From, " ")
	source, err := netip.ParseAddr(address)
	if err != nil {
		return Flow{}, err
	}
	out := Flow{Packet: l4.Packet{Protocol: protocol, Source: m.addr(source), Destination: m.addrPort(f.To)}}
	switch kind {
	case "pod":
		out.From, out.Packet.Interface = l4.Pod, PodInterface
	case "node":
		out.From, out.Packet.SourceLocal = l4.Host, true
	case "outside":
		out.From, out.Packet.Interface = l4.Outside, OutsideInterface
	default:
		return Flow{}, fmt.Errorf("%q does not come from a pod, node or outside", f.From)
	}
	out.Packet.DestinationLocal = slices.Contains(local, out.Packet.Destination.Addr())
	result, masquerade := f.Result, f.Masquerade
	if o, ok := f.On[n.Name]; ok {
		result, masquerade = cmp.Or(o.Result, result), cmp.Or(o.Masquerade, masquerade)
	}
	if out.Action, out.Endpoints, err = want(result, masquerade, out.Packet.Source, m); err != nil {
		return Flow{}, err
	}
	o := l4.Outcome{Action: out.Action, Endpoints: out.Endpoints}
	out.Want = o.String()
	out.Name = cmp.Or(f.Name, f.From+" to "+f.To.String()+"/"+protocol.String())
	return out, nil
}
