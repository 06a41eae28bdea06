//go:build linux && root

package main

import (
	"bytes"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/kubeproxy"
	"github.com/portico-ingress/portico/test/nodeapi"
	"github.com/portico-ingress/portico/test/rig"
)

// beside is a node with two proxies that know the same Service with different
// endpoints, so that an answer tells whose rules were followed.
type beside struct {
	*testing.T
	rig          *rig.Rig
	node         l4.Node
	vips         []netip.Addr
	ours, theirs []netip.AddrPort // the endpoints
	last         uint32
}

func newBeside(t *testing.T) *beside {
	b := &beside{T: t, rig: rig.New(t), vips: bothFamilies("172.30.0.1"), node: l4.Node{
		Name: "node1", IPs: bothFamilies("192.168.0.2"), NodePorts: l4.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16"), netip.MustParsePrefix("fd00::172.30.0.0/112")},
	}}
	for _, a := range b.node.IPs {
		b.rig.Own(t, b.rig.Node, a)
	}
	b.ours, b.theirs = b.endpoint("10.180.0.1"), b.endpoint("10.180.0.2")
	r := freshPod.from
	b.rig.OwnAll(t, b.rig.Pods, r)
	b.rig.OwnAll(t, b.rig.Pods, netip.PrefixFrom(rig.V6(r.Addr()), r.Bits()+96))
	return b
}

func (b *beside) endpoint(ipv4 string) (out []netip.AddrPort) {
	for _, a := range bothFamilies(ipv4) {
		at := netip.AddrPortFrom(a, 8080)
		b.rig.Own(b, b.rig.Pods, a)
		for _, p := range []l4.Protocol{l4.TCP, l4.UDP} {
			b.rig.Serve(b, b.rig.Pods, p, at)
		}
		out = append(out, at)
	}
	return out
}

// api is an apiserver on the node whose Service has these endpoints.
func (b *beside) api(endpoints []netip.AddrPort) *nodeapi.Server {
	s := &l4.Service{Name: l4.Name{Namespace: "shop", Name: "web"}, ClusterIPs: b.vips}
	for name, p := range map[string]l4.Protocol{"tcp": l4.TCP, "udp": l4.UDP} {
		port := l4.Port{Name: name, Protocol: p, Port: 80, NodePort: 30080}
		for _, e := range endpoints {
			port.Groups = append(port.Groups, &l4.Group{IPv6: e.Addr().Is6(), Endpoints: []l4.Endpoint{{Address: e, Ready: true, Serving: true}}})
		}
		s.Ports = append(s.Ports, port)
	}
	slices.SortFunc(s.Ports, func(a, b l4.Port) int { return strings.Compare(a.Name, b.Name) })
	return nodeapi.Serve(b, b.rig.Node, kubeproxy.Objects(b.node, []*l4.Service{s}))
}

// start and startTheirs start a proxy and wait until it has programmed. Of the
// addresses of its pages, the other's metrics tell when that is.
func (b *beside) start() *process {
	b.Helper()
	args := append(arguments(b.T, b.node, b.api(b.ours)), "--metrics-addr=127.0.0.1:20249", "--health-addr=127.0.0.1:20256")
	p := start(b, b.rig.Node, nil, args...)
	p.until(b, "everything is programmed")
	return p
}

func (b *beside) startTheirs() (stop func()) {
	b.Helper()
	return kubeproxy.StartAt(b, b.rig.Node, b.node, b.api(b.theirs))
}

// lead fails unless connections and datagrams from everywhere, to each front, all
// end at an endpoint of these.
func (b *beside) lead(when string, endpoints []netip.AddrPort) {
	b.Helper()
	for i, vip := range b.vips {
		for _, to := range []netip.AddrPort{netip.AddrPortFrom(vip, 80), netip.AddrPortFrom(b.node.IPs[i], 30080)} {
			for _, p := range []l4.Protocol{l4.TCP, l4.UDP} {
				for range 4 {
					b.last++
					got, err := b.rig.Send(l4.Pod, rig.Probe{Protocol: p, Source: freshPod.at(b.last, vip.Is6()), Destination: to})
					if err != nil {
						b.Fatal(err)
					}
					if !strings.HasPrefix(got[0]+" ", endpoints[i].String()+" ") {
						b.Errorf("%s: to %s/%s there is %q, want %s", when, to, p, got[0], endpoints[i])
					}
				}
			}
		}
	}
}

// removeTheirs is what portico-node check says to do once kube-proxy is gone.
func (b *beside) removeTheirs() {
	b.Helper()
	commands := regexp.MustCompile(`nft delete table ip6? kube-proxy`)
	_, out := in(b.rig.Node, "check")
	found := commands.FindAllString(out, -1)
	if len(found) != 2 {
		b.Fatalf("check names %q for the tables of kube-proxy:\n%s", found, out)
	}
	for _, c := range found {
		words := strings.Fields(c)
		b.rig.Node.Run(b, words[0], words[1:]...)
	}
}

// tables are those of one program, as nft prints them without counters.
func (b *beside) tables(name string) string {
	b.Helper()
	var out bytes.Buffer
	for _, family := range []string{"ip", "ip6"} {
		out.WriteString(b.rig.Node.Run(b, "nft", "--stateless", "list", "table", family, name))
	}
	return out.String()
}

// TestBesideKubeProxy: beside a running kube-proxy, portico-node's rules decide,
// whichever came first; when either goes, the other's do. Neither touches the
// tables of the other.
func TestBesideKubeProxy(t *testing.T) {
	orders := map[string]func(b *beside) (ours *process, stop func()){
		"portico-node comes": func(b *beside) (*process, func()) {
			stop := b.startTheirs()
			b.lead("kube-proxy alone", b.theirs)
			before := b.tables("kube-proxy")
			ours := b.start()
			if after := b.tables("kube-proxy"); after != before {
				b.Errorf("the tables of kube-proxy were\n%s\nand are\n%s", before, after)
			}
			return ours, stop
		},
		"kube-proxy comes": func(b *beside) (*process, func()) {
			ours := b.start()
			b.lead("portico-node alone", b.ours)
			before := b.tables("portico-node")
			stop := b.startTheirs()
			if after := b.tables("portico-node"); after != before {
				b.Errorf("the tables of portico-node were\n%s\nand are\n%s", before, after)
			}
			return ours, stop
		},
	}
	removals := map[string]func(b *beside, ours *process, stop func()){
		"kube-proxy goes": func(b *beside, _ *process, stop func()) {
			stop()
			b.lead("kube-proxy has ended", b.ours)
			b.removeTheirs()
			b.lead("kube-proxy's tables are gone", b.ours)
		},
		"portico-node goes": func(b *beside, ours *process, _ func()) {
			ours.kill()
			b.lead("portico-node has ended", b.ours)
			before := b.tables("kube-proxy")
			answers(b.T, b.rig.Node, 0, []string{"Removed."}, "--cleanup")
			b.lead("portico-node's tables are gone", b.theirs)
			if after := b.tables("kube-proxy"); after != before {
				b.Errorf("the tables of kube-proxy were\n%s\nand are\n%s", before, after)
			}
		},
	}
	for _, order := range slices.Sorted(maps.Keys(orders)) {
		for _, removal := range slices.Sorted(maps.Keys(removals)) {
			t.Run(order+", "+removal, func(t *testing.T) {
				t.Parallel()
				b := newBeside(t)
				ours, stop := orders[order](b)
				b.lead("both", b.ours)
				removals[removal](b, ours, stop)
			})
		}
	}
}
