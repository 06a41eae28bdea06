//go:build linux && root

package main

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/kubeproxy"
	"github.com/portico-ingress/portico/test/netns"
	"github.com/portico-ingress/portico/test/nodeapi"
)

// TestMetricsAreKubeProxys: what we have of kube-proxy's metrics has its type and
// its labels, for each family; what it has and we do not, and the other way
// round, is listed here.
func TestMetricsAreKubeProxys(t *testing.T) {
	ours, theirs := scrape(t, true), scrape(t, false)
	for name, want := range theirs {
		switch got, ok := ours[name]; {
		case !ok && !slices.Contains(notOurs, name):
			t.Errorf("%s of kube-proxy is missing", name)
		case ok && got != want:
			t.Errorf("%s is %q, and kube-proxy's is %q", name, got, want)
		}
	}
	for name := range ours {
		if _, ok := theirs[name]; !ok && !slices.Contains(onceCounted, name) {
			t.Errorf("kube-proxy has no %s", name)
		}
	}
}

// notOurs are metrics of a helper for NodePorts at loopback addresses, which
// answer none here.
var notOurs = []string{
	"kubeproxy_nftables_localhost_nodeport_listeners", "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total",
	"kubeproxy_nftables_localhost_nodeport_rejected_packets_total",
}

// onceCounted are not on kube-proxy's page before the first failure.
var onceCounted = []string{
	"kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
}

// scrape starts one of the two on a node, asks for its health, and returns the
// type and labels of each metric.
func scrape(t *testing.T, ours bool) map[string]string {
	t.Helper()
	n := netns.New(t)
	node := l4.Node{Name: "node1", IPs: bothFamilies("192.168.0.2"), NodePorts: l4.NodePorts{All: true}}
	for _, a := range node.IPs {
		n.IP(t, "addr add "+a.String()+" dev lo")
	}
	var endpoints []netip.AddrPort
	for _, a := range bothFamilies("10.180.0.1") {
		endpoints = append(endpoints, netip.AddrPortFrom(a, 8080))
	}
	var services []*l4.Service
	for i, vip := range bothFamilies("172.30.0.1") {
		services = append(services, dns([]string{"first", "second"}[i], vip, endpoints[i]))
	}
	api := nodeapi.Serve(t, n, kubeproxy.Objects(node, services))
	if ours {
		start(t, n, nil, arguments(t, node, api)...).until(t, "everything is programmed")
	} else {
		kubeproxy.StartAt(t, n, node, api)
	}
	get(t, n, "127.0.0.1:10256/healthz")
	get(t, n, "127.0.0.1:10256/livez")
	// What is counted per change is there after one.
	last := byte(1)
	change := func() {
		last++
		for i, a := range bothFamilies("10.180.0." + strconv.Itoa(int(last))) {
			services[i].Ports[0].Groups[0].Endpoints[0].Address = netip.AddrPortFrom(a, 8080)
		}
		o := kubeproxy.Objects(node, services)
		for _, slice := range o["endpointslices"] {
			slice.(object)["metadata"].(object)["annotations"] = object{"endpoints.kubernetes.io/last-change-trigger-time": "2999-01-01T00:00:00Z"}
		}
		api.Update(t, o)
	}
	change()
	var page string
	both := func(metric string) bool {
		return len(regexp.MustCompile(`(?m)^kubeproxy_`+metric+`_count\{ip_family="IPv[46]"\} [1-9]`).FindAllString(page, -1)) == 2
	}
	eventually(t, "both changes are in the metrics", func() bool {
		page = get(t, n, "127.0.0.1:10249/metrics")
		if !both("network_programming_duration_seconds") {
			return false
		}
		// A change may have come in time for the first, whole sync.
		if !both("sync_partial_proxy_rules_duration_seconds") {
			change()
			return false
		}
		return true
	})
	return shapes(page)
}

// shapes reads the type and labels of the metrics on a page.
func shapes(page string) map[string]string {
	types, labels := map[string]string{}, map[string]map[string]bool{}
	label := regexp.MustCompile(`([a-z_]+)="`)
	for line := range strings.Lines(page) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "kubeproxy_") {
			types[f[2]], labels[f[2]] = f[3], map[string]bool{}
		}
		name := line[:strings.IndexAny(line+" ", "{ ")]
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if of, known := labels[strings.TrimSuffix(name, suffix)]; known && strings.HasSuffix(name, suffix) {
				for _, l := range label.FindAllStringSubmatch(line, -1) {
					if l[1] != "le" {
						of[l[1]] = true
					}
				}
			}
		}
		if strings.HasPrefix(line, "kubeproxy_") && strings.Contains(line, `ip_family="IPv6"`) {
			for _, suffix := range []string{"", "_count"} {
				if of, known := labels[strings.TrimSuffix(name, suffix)]; known {
					of["(also of IPv6)"] = true
				}
			}
		}
	}
	out := map[string]string{}
	for name, kind := range types {
		out[name] = kind + " " + strings.Join(slices.Sorted(maps.Keys(labels[name])), " ")
	}
	return out
}
