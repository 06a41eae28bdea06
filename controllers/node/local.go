package node

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/l4"
)

// Local says how connections of this node's pods are recognised. Others to a
// ClusterIP are masqueraded; with a policy Local, pods reach every endpoint.
type Local struct {
	Mode LocalMode
	// ClusterCIDRs are the ranges of all pods' addresses, for LocalClusterCIDR.
	ClusterCIDRs []netip.Prefix
	// Interface is a name for LocalBridge, and the beginning of names for
	// LocalPrefix.
	Interface string
}

// LocalMode is a way to recognise pods, named as kube-proxy's
// --detect-local-mode has them.
type LocalMode string

// The modes.
const (
	// LocalClusterCIDR takes sources in ClusterCIDRs for pods; without any,
	// nothing is taken for one.
	LocalClusterCIDR LocalMode = "ClusterCIDR"
	// LocalNodeCIDR does so with the podCIDRs of the Node object.
	LocalNodeCIDR LocalMode = "NodeCIDR"
	// LocalBridge takes what comes in by one interface for pods'.
	LocalBridge LocalMode = "BridgeInterface"
	// LocalPrefix takes what comes in by interfaces whose names begin so.
	LocalPrefix LocalMode = "InterfaceNamePrefix"
)

// Validate reports settings that contradict each other.
func (l Local) Validate() error {
	switch l.Mode {
	case LocalClusterCIDR, LocalNodeCIDR:
		return nil
	case LocalBridge, LocalPrefix:
		if l.Interface == "" {
			return fmt.Errorf("the mode %s needs the name of an interface", l.Mode)
		}
		return nil
	}
	return fmt.Errorf("%q is not %s, %s, %s or %s", l.Mode, LocalClusterCIDR, LocalNodeCIDR, LocalBridge, LocalPrefix)
}

func (l Local) detector(n *corev1.Node) l4.Detector {
	switch l.Mode {
	case LocalClusterCIDR:
		return l4.Detector{CIDRs: l.ClusterCIDRs}
	case LocalBridge, LocalPrefix:
		return l4.Detector{Interface: l.Interface, InterfacePrefix: l.Mode == LocalPrefix}
	}
	var d l4.Detector
	if n == nil {
		return d
	}
	for _, text := range podCIDRs(n) {
		if p, err := netip.ParsePrefix(text); err == nil {
			d.CIDRs = append(d.CIDRs, p.Masked())
		}
	}
	return d
}

// NodePorts says at which addresses of the node NodePorts answer. The zero
// value is all of them but the loopback ones.
type NodePorts struct {
	// Primary are the primary addresses of the Node object.
	Primary bool
	// Within are addresses in these ranges; empty: see Primary. Of a family
	// without a range all addresses answer, as in kube-proxy: who names IPv4
	// ranges does not mean to close IPv6.
	Within []netip.Prefix
}

func (n NodePorts) validate() error {
	if n.Primary && len(n.Within) > 0 {
		return errors.New("NodePorts answer either at primary addresses, or within ranges")
	}
	return nil
}

func (n NodePorts) all() bool {
	return !n.Primary && n.allOf(false) && n.allOf(true)
}

// allOf reports whether all addresses of a family answer.
func (n NodePorts) allOf(ipv6 bool) bool {
	named := false
	for _, p := range n.Within {
		if p.Addr().Is6() != ipv6 {
			continue
		}
		if p.Bits() == 0 {
			return true
		}
		named = true
	}
	return !named
}

func (n NodePorts) model(primary, own []netip.Addr) l4.NodePorts {
	if n.all() {
		return l4.NodePorts{All: true}
	}
	var out l4.NodePorts
	candidates := own
	if n.Primary {
		candidates = primary
	}
	for _, a := range candidates {
		within := n.Primary || n.allOf(a.Is6()) || slices.ContainsFunc(n.Within, func(p netip.Prefix) bool { return p.Contains(a) })
		if within && !a.IsLoopback() {
			out.Addresses = append(out.Addresses, a)
		}
	}
	slices.SortFunc(out.Addresses, netip.Addr.Compare)
	out.Addresses = slices.Compact(out.Addresses)
	return out
}

// nodeModel describes the node to the planner.
func (o *Options) nodeModel(p *picture, own []netip.Addr) l4.Node {
	object := p.node.last
	n := l4.Node{
		Name: o.Translate.NodeName, IPs: primaryAddresses(object), Pods: o.Local.detector(object),
		MasqueradeAll: o.MasqueradeAll,
	}
	if object != nil {
		n.Zone = object.Labels[corev1.LabelTopologyZone]
	}
	n.NodePorts = o.NodePorts.model(n.IPs, own)
	var cidrs []*networkingv1.ServiceCIDR
	for _, c := range p.cidrs {
		cidrs = append(cidrs, c)
	}
	n.ServiceCIDRs = translate.ServiceCIDRs(cidrs)
	return n
}

// primaryAddresses returns the first address of each family, internal ones
// before external ones.
func primaryAddresses(n *corev1.Node) []netip.Addr {
	if n == nil {
		return nil
	}
	var out []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, in := range n.Status.Addresses {
			a, err := netip.ParseAddr(in.Address)
			a = a.Unmap()
			if err != nil || in.Type != kind || slices.ContainsFunc(out, func(b netip.Addr) bool { return a.Is6() == b.Is6() }) {
				continue
			}
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) })
	return out
}

func equalNodes(a, b l4.Node) bool {
	return a.Name == b.Name && a.Zone == b.Zone && slices.Equal(a.IPs, b.IPs) && a.MasqueradeAll == b.MasqueradeAll &&
		a.NodePorts.All == b.NodePorts.All && slices.Equal(a.NodePorts.Addresses, b.NodePorts.Addresses) &&
		slices.Equal(a.ServiceCIDRs, b.ServiceCIDRs) && slices.Equal(a.Pods.CIDRs, b.Pods.CIDRs) &&
		a.Pods.Interface == b.Pods.Interface && a.Pods.InterfacePrefix == b.Pods.InterfacePrefix
}

// InterfaceAddresses returns the addresses of all interfaces of the network
// namespace that the process is in.
func InterfaceAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of the interfaces: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// podCIDRs returns the node's ranges. Objects from before dual stack have
// podCIDR only.
func podCIDRs(n *corev1.Node) []string {
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		return []string{n.Spec.PodCIDR}
	}
	return n.Spec.PodCIDRs
}
