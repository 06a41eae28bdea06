//go:build linux

package kubeproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/nodeapi"
)

type (
	object = nodeapi.Object
	list   = []any
)

// Objects are what a cluster has that shows itself to a node so.
func Objects(node l4.Node, services []*l4.Service) nodeapi.Objects {
	addresses := list{}
	for _, ip := range node.IPs {
		addresses = append(addresses, object{"type": "InternalIP", "address": ip.String()})
	}
	a := nodeapi.Objects{"nodes": {object{
		"metadata": object{"name": node.Name, "resourceVersion": "1", "labels": object{"topology.kubernetes.io/zone": node.Zone}},
		"spec":     object{}, "status": object{"addresses": addresses},
	}}}
	if len(node.ServiceCIDRs) > 0 {
		a["servicecidrs"] = list{object{"metadata": object{"name": "kubernetes", "resourceVersion": "1"}, "spec": object{"cidrs": texts(node.ServiceCIDRs)}}}
	}
	for _, s := range services {
		a["services"] = append(a["services"], service(s))
		for i, p := range s.Ports {
			for j, g := range p.Groups {
				if len(g.Endpoints) > 0 {
					a["endpointslices"] = append(a["endpointslices"], EndpointSlice(node, s, i, j))
				}
			}
		}
	}
	return a
}

func meta(namespace, name string) object {
	return object{"namespace": namespace, "name": name, "uid": namespace + "." + name, "resourceVersion": "1"}
}

func service(s *l4.Service) object {
	ports := list{}
	for _, p := range s.Ports {
		ports = append(ports, object{"name": p.Name, "protocol": p.Protocol.String(), "port": p.Port, "nodePort": p.NodePort})
	}
	families := list{}
	for _, a := range s.ClusterIPs {
		families = append(families, family(a.Is6()))
	}
	policy := map[bool]string{true: "Local", false: "Cluster"}
	spec := object{
		"type": kind(s), "clusterIP": s.ClusterIPs[0].String(), "clusterIPs": texts(s.ClusterIPs), "ipFamilies": families,
		"externalIPs": texts(s.ExternalIPs), "ports": ports, "loadBalancerSourceRanges": texts(s.SourceRanges),
		"internalTrafficPolicy": policy[s.InternalLocal], "externalTrafficPolicy": policy[s.ExternalLocal], "sessionAffinity": "None",
	}
	if s.Affinity > 0 {
		spec["sessionAffinity"] = "ClientIP"
		spec["sessionAffinityConfig"] = object{"clientIP": object{"timeoutSeconds": int(s.Affinity / time.Second)}}
	}
	ingress := list{}
	for _, a := range s.LoadBalancerIPs {
		ingress = append(ingress, object{"ip": a.String(), "ipMode": "VIP"})
	}
	m := meta(s.Name.Namespace, s.Name.Name)
	m["creationTimestamp"] = s.Created.UTC().Format(time.RFC3339)
	return object{"metadata": m, "spec": spec, "status": object{"loadBalancer": object{"ingress": ingress}}}
}

// kind is the least that has what a Service has.
func kind(s *l4.Service) string {
	switch {
	case len(s.LoadBalancerIPs) > 0:
		return "LoadBalancer"
	case slices.ContainsFunc(s.Ports, func(p l4.Port) bool { return p.NodePort != 0 }):
		return "NodePort"
	}
	return "ClusterIP"
}

// EndpointSlice is that of a group of a port of a Service, both by their index.
func EndpointSlice(node l4.Node, s *l4.Service, port, group int) nodeapi.Object {
	p, g := s.Ports[port], s.Ports[port].Groups[group]
	endpoints := list{}
	for _, e := range g.Endpoints {
		endpoint := object{
			"addresses":  list{e.Address.Addr().String()},
			"conditions": object{"ready": e.Ready, "serving": e.Serving, "terminating": e.Terminating},
			"hints":      object{"forZones": hints(e.ForZones), "forNodes": hints(e.ForNodes)},
		}
		endpoint["nodeName"] = cmp.Or(e.Node, map[bool]string{true: node.Name, false: "elsewhere"}[e.Local])
		endpoints = append(endpoints, endpoint)
	}
	// The family of an EndpointSlice never changes.
	m := meta(s.Name.Namespace, fmt.Sprintf("%s-%d-%s-%d", s.Name.Name, port, strings.ToLower(family(g.IPv6)), group))
	m["labels"] = object{"kubernetes.io/service-name": s.Name.Name}
	return object{
		"metadata": m, "addressType": family(g.IPv6), "endpoints": endpoints,
		"ports": list{object{"name": p.Name, "protocol": p.Protocol.String(), "port": g.Endpoints[0].Address.Port()}},
	}
}

func family(ipv6 bool) string { return map[bool]string{true: "IPv6", false: "IPv4"}[ipv6] }

func hints(names []string) list {
	out := list{}
	for _, n := range names {
		out = append(out, object{"name": n})
	}
	return out
}

func texts[T netip.Addr | netip.Prefix](all []T) []string {
	out := []string{}
	for _, a := range all {
		out = append(out, fmt.Sprint(a))
	}
	slices.Sort(out)
	return out
}
