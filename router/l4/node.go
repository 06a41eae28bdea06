package l4

import (
	"net/netip"
	"slices"
	"strings"
)

// Node is what this node is and how it was configured.
type Node struct {
	Name string
	Zone string // label topology.kubernetes.io/zone; may be empty
	// IPs are the node's primary addresses, at most one of each family. A
	// load balancer's source ranges that hold one also let the load balancer's
	// own addresses in: a connection of the node to such an address comes
	// from there.
	IPs []netip.Addr
	// NodePorts are the addresses that answer NodePorts.
	NodePorts NodePorts
	// ServiceCIDRs are the ranges of ClusterIPs: an address in them that no
	// Service has is dropped.
	ServiceCIDRs []netip.Prefix
	// Pods tells which connections come from this node's pods.
	Pods Detector
	// MasqueradeAll replaces the source of every connection to a ClusterIP.
	MasqueradeAll bool
}

// NodePorts says which addresses answer NodePorts.
type NodePorts struct {
	// All stands for every address of the node but the loopback ones, also
	// those that it gets later. Addresses is nil then.
	All bool
	// Addresses are sorted, without loopback addresses.
	Addresses []netip.Addr
}

// Detector recognises connections of this node's pods: by source address, or
// by the interface that they come in by. The zero Detector recognises none.
type Detector struct {
	// CIDRs are ranges of pod addresses; of each family only those of that
	// family count.
	CIDRs []netip.Prefix
	// Interface is the name of a bridge, or with InterfacePrefix the
	// beginning of names. Only used if there are no CIDRs.
	Interface       string
	InterfacePrefix bool
}

// Enabled reports whether the detector recognises anything in a family.
func (d Detector) Enabled(ipv6 bool) bool {
	if d.Interface != "" && len(d.CIDRs) == 0 {
		return true
	}
	for _, c := range d.CIDRs {
		if c.Addr().Is6() == ipv6 {
			return true
		}
	}
	return false
}

// Matches reports whether a packet with this source that came in by this
// interface (empty: it was made on the node) is a pod's.
func (d Detector) Matches(source netip.Addr, iface string) bool {
	for _, c := range d.CIDRs {
		if c.Contains(source) {
			return true
		}
	}
	if len(d.CIDRs) > 0 || d.Interface == "" || iface == "" {
		return false
	}
	return iface == d.Interface || d.InterfacePrefix && strings.HasPrefix(iface, d.Interface)
}

// Globals are what forwarding needs beside the Forwardings. They are of both
// families; a renderer takes those of its own.
type Globals struct {
	ServiceCIDRs []netip.Prefix // sorted
	NodePorts    NodePorts
	Pods         Detector
}

func (g *Globals) equal(o *Globals) bool {
	return slices.Equal(g.ServiceCIDRs, o.ServiceCIDRs) &&
		g.NodePorts.All == o.NodePorts.All && slices.Equal(g.NodePorts.Addresses, o.NodePorts.Addresses) &&
		slices.Equal(g.Pods.CIDRs, o.Pods.CIDRs) && g.Pods.Interface == o.Pods.Interface && g.Pods.InterfacePrefix == o.Pods.InterfacePrefix
}
