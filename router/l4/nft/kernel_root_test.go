//go:build linux && root

package nft_test

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/router/l4/nft"
	"github.com/portico-ingress/portico/test/netns"
)

var update = flag.Bool("update", false, "write the golden files")

// kernel is a Kernel in a namespace.
type kernel struct {
	*nft.Kernel
	ns *netns.Namespace
}

func open(t testing.TB, ns *netns.Namespace) *kernel {
	t.Helper()
	k := &kernel{ns: ns}
	var err error
	ns.Do(func() { k.Kernel, err = nft.Open(nft.Options{}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func (k *kernel) replace(t testing.TB, p *l4.Plan) {
	t.Helper()
	var err error
	k.ns.Do(func() { err = k.Replace(context.Background(), p) })
	if err != nil {
		t.Fatal(err)
	}
}

// apply does not go to the thread of the namespace, where it would take ten times
// as long: what it needs is connected.
func (k *kernel) apply(t testing.TB, c *l4.Change) {
	t.Helper()
	if err := k.Apply(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// ruleset is what nft(8) prints.
func ruleset(t testing.TB, ns *netns.Namespace) string {
	t.Helper()
	return ns.Run(t, "nft", "list", "ruleset")
}

// sample uses every kind of front, rule and pool.
func sample(ipv6 bool) (*l4.Planner, *l4.Service) {
	addr := func(s string) netip.Addr {
		a := netip.MustParseAddr(s)
		if !ipv6 {
			return a
		}
		b := netip.MustParseAddr("fd00::").As16()
		v4 := a.As4()
		copy(b[12:], v4[:])
		return netip.AddrFrom16(b)
	}
	group := func(port uint16, local ...string) []*l4.Group {
		g := &l4.Group{IPv6: ipv6}
		for i, a := range local {
			g.Endpoints = append(g.Endpoints, l4.Endpoint{Address: netip.AddrPortFrom(addr(a), port), Ready: true, Serving: true, Local: i == 0})
		}
		return []*l4.Group{g}
	}
	p := l4.NewPlanner(l4.Node{
		Name: "node1", IPs: []netip.Addr{addr("192.168.0.2")}, NodePorts: l4.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.PrefixFrom(addr("172.30.0.0"), addr("172.30.0.0").BitLen()-16)},
		Pods:         l4.Detector{CIDRs: []netip.Prefix{netip.PrefixFrom(addr("10.180.0.0"), addr("10.180.0.0").BitLen()-16)}},
	})
	p.Set(&l4.Service{
		Name: l4.Name{Namespace: "kube-system", Name: "dns"}, ClusterIPs: []netip.Addr{addr("172.30.0.10")},
		Ports: []l4.Port{
			{Name: "dns", Protocol: l4.UDP, Port: 53, Groups: group(53, "10.180.0.5", "10.180.1.5")},
			{Name: "dns-tcp", Protocol: l4.TCP, Port: 53, Groups: group(53, "10.180.0.5", "10.180.1.5")},
		},
	})
	p.Set(&l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "local"}, ClusterIPs: []netip.Addr{addr("172.30.0.11")}, ExternalLocal: true,
		LoadBalancerIPs: []netip.Addr{addr("198.51.100.1")}, ExternalIPs: []netip.Addr{addr("192.168.99.1")},
		SourceRanges: []netip.Prefix{netip.PrefixFrom(addr("203.0.113.0"), addr("203.0.113.0").BitLen()-4)},
		Ports:        []l4.Port{{Name: "http", Protocol: l4.TCP, Port: 80, NodePort: 30080, Groups: group(8080, "10.180.0.6", "10.180.1.6")}},
	})
	p.Set(&l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "empty"}, ClusterIPs: []netip.Addr{addr("172.30.0.12")},
		Ports: []l4.Port{{Protocol: l4.SCTP, Port: 3868}},
	})
	p.Set(&l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "phone"}, ClusterIPs: []netip.Addr{addr("172.30.0.13")}, InternalLocal: true,
		Ports: []l4.Port{{Protocol: l4.SCTP, Port: 3868, NodePort: 30386, Groups: group(3868, "10.180.0.7", "10.180.1.7")}},
	})
	sticky := &l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "sticky"}, ClusterIPs: []netip.Addr{addr("172.30.0.14")}, Affinity: time.Hour,
		Ports: []l4.Port{{Protocol: l4.TCP, Port: 80, NodePort: 30081, Groups: group(8080, "10.180.0.8", "10.180.1.8", "10.180.2.8")}},
	}
	p.Set(sticky)
	return p, sticky
}

// TestRuleset: what we program is what nft prints, so that people can read it,
// and that its oldest version that we know prints it at all: there are rules
// that the kernel takes and that make it abort.
func TestRuleset(t *testing.T) {
	for _, test := range []struct {
		name string
		ipv6 bool
	}{{"ipv4", false}, {"ipv6", true}} {
		t.Run(test.name, func(t *testing.T) {
			k := open(t, netns.New(t))
			p, _ := sample(test.ipv6)
			k.replace(t, p.Plan())
			family := map[bool]string{false: "ip", true: "ip6"}[test.ipv6]
			got := k.ns.Run(t, "nft", "list", "table", family, "portico-node")
			ruleset(t, k.ns)
			golden(t, "testdata/"+test.name+".nft", got)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and look at the difference\n%s", file, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "want " + w[i] + "\n got " + g[i]
		}
	}
	return "one is longer"
}
