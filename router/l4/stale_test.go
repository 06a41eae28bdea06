package l4_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
)

// TestStale: which UDP flows are forgotten when a Service changes.
func TestStale(t *testing.T) {
	const (
		ready = iota
		terminating
		failing
	)
	group := func(states ...int) []*l4.Group {
		g := &l4.Group{}
		for i, s := range states {
			g.Endpoints = append(g.Endpoints, l4.Endpoint{
				Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, 0, byte(i + 1)}), 53),
				Ready:   s == ready, Serving: s != failing, Terminating: s == terminating,
			})
		}
		return []*l4.Group{g}
	}
	dns := func(groups []*l4.Group, external string) *l4.Service {
		s := &l4.Service{
			Name: l4.Name{Namespace: "kube-system", Name: "dns"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("172.30.0.10")},
			Ports: []l4.Port{
				{Name: "dns", Protocol: l4.UDP, Port: 53, NodePort: 30053, Groups: groups},
				{Name: "dns-tcp", Protocol: l4.TCP, Port: 53, Groups: groups},
			},
		}
		if external != "" {
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr(external)}
		}
		return s
	}
	for _, test := range []struct {
		name          string
		before, after *l4.Service
		want          []string
	}{
		{"new", nil, dns(group(ready), ""), []string{"to [172.30.0.10:53] or 30053, from [] or untranslated, but [10.180.0.1:53]"}},
		{"gone", dns(group(ready), ""), nil, []string{"to [172.30.0.10:53] or 30053, from [10.180.0.1:53], but []"}},
		{"one endpoint fails", dns(group(ready, ready), ""), dns(group(ready, failing), ""), []string{"to [172.30.0.10:53] or 30053, from [10.180.0.2:53], but [10.180.0.1:53]"}},
		{"one endpoint terminates", dns(group(ready, ready), ""), dns(group(ready, terminating), ""), nil},
		{"the last endpoint is gone", dns(group(ready), ""), dns(nil, ""), []string{"to [172.30.0.10:53] or 30053, from [10.180.0.1:53], but []"}},
		{"the first endpoint", dns(nil, ""), dns(group(ready), ""), []string{"to [172.30.0.10:53] or 30053, from [] or untranslated, but [10.180.0.1:53]"}},
		{"an endpoint more", dns(group(ready), ""), dns(group(ready, ready), ""), nil},
		{"an address more", dns(group(ready), ""), dns(group(ready), "192.168.99.1"), []string{"to [192.168.99.1:53] or 0, from [] or untranslated, but [10.180.0.1:53]"}},
		{"an address less", dns(group(ready), "192.168.99.1"), dns(group(ready), ""), []string{"to [192.168.99.1:53] or 0, from [10.180.0.1:53], but []"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := l4.NewPlanner(l4.Node{})
			if test.before != nil {
				p.Set(test.before)
				p.Plan()
			}
			if test.after == nil {
				p.Delete(test.before.Name)
			} else {
				p.Set(test.after)
			}
			var got []string
			for _, s := range p.Take().Stale {
				from := fmt.Sprint(s.Gone)
				if s.Untranslated {
					from += " or untranslated"
				}
				got = append(got, fmt.Sprintf("to %v or %d, from %s, but %v", s.Destinations, s.NodePort, from, s.Serving))
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
		})
	}
}
