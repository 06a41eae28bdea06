package node

import (
	"maps"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router/l4"
)

// TestHealthCheckPlaces: each family is asked for itself, at the addresses that
// answer NodePorts, and nowhere if there are none.
func TestHealthCheckPlaces(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	endpoint := func(a string) l4.Endpoint {
		return l4.Endpoint{Address: netip.AddrPortFrom(netip.MustParseAddr(a), 80), Ready: true, Serving: true, Local: true}
	}
	service := &l4.Service{
		Name: l4.Name{Namespace: "shop", Name: "web"}, HealthCheckNodePort: 30100,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
		Ports: []l4.Port{{Port: 80, Groups: []*l4.Group{
			{Endpoints: []l4.Endpoint{endpoint("10.0.0.1"), endpoint("10.0.0.2")}}, {IPv6: true, Endpoints: []l4.Endpoint{endpoint("fd00::2")}},
		}}},
	}
	single := *service
	single.ClusterIPs = service.ClusterIPs[:1]
	for name, tc := range map[string]struct {
		nodePorts l4.NodePorts
		service   *l4.Service
		want      map[string]string // the weight that is answered, by address
	}{
		"all":             {l4.NodePorts{All: true}, service, map[string]string{"0.0.0.0:30100": "2", "[::]:30100": "1"}},
		"some":            {l4.NodePorts{Addresses: []netip.Addr{v4, v6}}, service, map[string]string{"192.0.2.1:30100": "2", "[2001:db8::1]:30100": "1"}},
		"of one family":   {l4.NodePorts{Addresses: []netip.Addr{v6}}, service, map[string]string{"[2001:db8::1]:30100": "1"}},
		"none":            {l4.NodePorts{}, service, map[string]string{}},
		"a single family": {l4.NodePorts{All: true}, &single, map[string]string{"0.0.0.0:30100": "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHealthChecks(func() bool { return true }, nil, logr.Discard())
			h.set(service.Name, service)
			h.set(service.Name, tc.service)
			h.listenOn(tc.nodePorts)
			got := map[string]string{}
			for at, c := range h.places() {
				w := httptest.NewRecorder()
				h.page(c).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				got[at.String()] = w.Header().Get("X-Load-Balancing-Endpoint-Weight")
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			h.set(service.Name, nil)
			if left := h.places(); len(left) > 0 {
				t.Errorf("after the Service is gone, %v is left", slices.Collect(maps.Keys(left)))
			}
		})
	}
}

// TestNodePortAddresses: of a family that no range is of, all addresses answer,
// as in kube-proxy.
func TestNodePortAddresses(t *testing.T) {
	addresses := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	own := addresses("127.0.0.1", "192.0.2.1", "198.51.100.1", "::1", "2001:db8::1", "2001:db8:1::1")
	for name, tc := range map[string]struct {
		n    NodePorts
		want l4.NodePorts
	}{
		"none":                   {NodePorts{}, l4.NodePorts{All: true}},
		"everything":             {NodePorts{Within: prefixes("0.0.0.0/0", "::/0")}, l4.NodePorts{All: true}},
		"everything of one":      {NodePorts{Within: prefixes("0.0.0.0/0")}, l4.NodePorts{All: true}},
		"IPv4":                   {NodePorts{Within: prefixes("192.0.2.0/24")}, l4.NodePorts{Addresses: addresses("192.0.2.1", "2001:db8::1", "2001:db8:1::1")}},
		"IPv6":                   {NodePorts{Within: prefixes("2001:db8::/48")}, l4.NodePorts{Addresses: addresses("192.0.2.1", "198.51.100.1", "2001:db8::1")}},
		"both":                   {NodePorts{Within: prefixes("192.0.2.0/24", "2001:db8::/48")}, l4.NodePorts{Addresses: addresses("192.0.2.1", "2001:db8::1")}},
		"all of one, some":       {NodePorts{Within: prefixes("0.0.0.0/0", "2001:db8::/48")}, l4.NodePorts{Addresses: addresses("192.0.2.1", "198.51.100.1", "2001:db8::1")}},
		"ranges without a match": {NodePorts{Within: prefixes("203.0.113.0/24", "2001:db8:9::/48")}, l4.NodePorts{}},
		"primary":                {NodePorts{Primary: true}, l4.NodePorts{Addresses: addresses("192.0.2.1")}},
	} {
		got := tc.n.model(addresses("192.0.2.1"), own)
		if got.All != tc.want.All || !slices.Equal(got.Addresses, tc.want.Addresses) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
