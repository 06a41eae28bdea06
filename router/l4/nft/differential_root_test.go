//go:build linux && root

package nft_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/kubeproxy"
)

// differ are the destinations in the tables at which we mean to do something
// else than kube-proxy.
var differ = []struct{ to, why string }{
	{"127.0.0.1:", "packets for 127/8 from elsewhere are dropped, whatever listens there"},
	{"192.168.99.7:", "two Services ask for the address: the older one has it, not the one that was seen last"},
	{"172.30.2.7:", "the same"},
}

// TestKubeProxyAgrees sends the same packets as TestPackets past the real
// kube-proxy: what the tables say is what it does.
func TestKubeProxyAgrees(t *testing.T) {
	eachTable(t, func(t *testing.T, r *rig, c flows.Case) {
		r.furnish(t, &c)
		kubeproxy.Start(t, r.node, c.Node, c.Services)
		for _, f := range c.Flows {
			if slices.ContainsFunc(differ, func(d struct{ to, why string }) bool { return strings.Contains(f.Name, " to "+d.to) }) {
				continue
			}
			if err := r.try(f); err != nil {
				t.Errorf("%s: %v", f.Name, err)
			}
		}
	})
}
