package translate_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// TestNodeGolden translates testdata/node/*.yaml as node1 sees it. A new case
// is a new file: write x.yaml, run with -update, read what it wrote.
func TestNodeGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/node/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(file, ".yaml")
		t.Run(filepath.Base(base), func(t *testing.T) {
			services, slices := readNode(t, file)
			o := translate.NodeOptions{NodeName: "node1"}
			if strings.Contains(file, "deny") {
				o.ExternalIPs.Only = []netip.Prefix{netip.MustParsePrefix("192.168.99.0/24")}
				o.LoadBalancerIPs.Deny = true
			}
			text, problems := renderNode(o, services, slices)
			compare(t, base+".services", text)
			compare(t, base+".problems", problems)
			for range 20 { // the order of slices leaves no trace in the pools
				rand.Shuffle(len(slices), func(i, j int) { slices[i], slices[j] = slices[j], slices[i] })
				if again, p := renderNode(o, services, slices); again != text || p != problems {
					t.Fatalf("another order gives another result:\n%s\n%s", again, p)
				}
			}
		})
	}
}

func readNode(t *testing.T, file string) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return services, slices
		}
		var kind metav1.TypeMeta
		if err == nil {
			err = yaml.Unmarshal(doc, &kind)
		}
		switch {
		case err != nil:
		case kind.Kind == "Service":
			services = append(services, new(corev1.Service))
			err = yaml.UnmarshalStrict(doc, services[len(services)-1])
		case kind.Kind == "EndpointSlice":
			slices = append(slices, new(discoveryv1.EndpointSlice))
			err = yaml.UnmarshalStrict(doc, slices[len(slices)-1])
		default:
			err = fmt.Errorf("kind %q", kind.Kind)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
	}
}

// renderNode shows what was read, and what the planner makes of it.
func renderNode(o translate.NodeOptions, services []*corev1.Service, all []*discoveryv1.EndpointSlice) (text, faults string) {
	var problems []diag.Problem
	bySlice := map[l4.Name][]*translate.NodeSlice{}
	for _, s := range all {
		parsed, p := translate.ParseSlice(o, s)
		problems = append(problems, p...)
		if parsed != nil {
			bySlice[parsed.Service] = append(bySlice[parsed.Service], parsed)
		}
	}
	planner := l4.NewPlanner(l4.Node{Name: o.NodeName, Zone: "a"})
	var b strings.Builder
	for _, s := range services {
		svc, p := translate.NodeService(o, s)
		problems = append(problems, p...)
		if svc == nil {
			fmt.Fprintf(&b, "%s/%s: not forwarded\n", s.Namespace, s.Name)
			continue
		}
		svc = translate.WithEndpoints(svc, bySlice[svc.Name])
		writeService(&b, svc)
		planner.Set(svc)
	}
	for _, f := range planner.Plan().Forwardings {
		fmt.Fprintf(&b, "%s\n  any %v\n  here %v\n", f.Key, f.Cluster, f.Local)
	}
	var p strings.Builder
	for _, problem := range diag.Sort(problems) {
		fmt.Fprintln(&p, problem)
	}
	return b.String(), p.String()
}

func writeService(b *strings.Builder, s *l4.Service) {
	fmt.Fprintf(b, "%s: ClusterIPs %v, external IPs %v, load balancer %v from %v\n", s.Name, s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs, s.SourceRanges)
	fmt.Fprintf(b, "  affinity %s, internal local %v, external local %v, health check port %d, ready here %d\n", s.Affinity, s.InternalLocal, s.ExternalLocal, s.HealthCheckNodePort, s.LocalReady(false)+s.LocalReady(true))
	for _, p := range s.Ports {
		fmt.Fprintf(b, "  port %q %d/%s, node port %d\n", p.Name, p.Port, p.Protocol, p.NodePort)
		var lines []string
		for _, g := range p.Groups {
			for _, e := range g.Endpoints {
				lines = append(lines, fmt.Sprintf("    %s ready %v serving %v terminating %v local %v nodes %v zones %v\n",
					e.Address, e.Ready, e.Serving, e.Terminating, e.Local, e.ForNodes, e.ForZones))
			}
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, ""))
	}
}

// TestWithEndpointsKeepsGroups: the planner knows an unchanged slice by the
// identity of its groups.
func TestWithEndpointsKeepsGroups(t *testing.T) {
	services, slices := readNode(t, "testdata/node/dns.yaml")
	o := translate.NodeOptions{NodeName: "node1"}
	svc, _ := translate.NodeService(o, services[0])
	parsed, _ := translate.ParseSlice(o, slices[0])
	a := translate.WithEndpoints(svc, []*translate.NodeSlice{parsed})
	b := translate.WithEndpoints(svc, []*translate.NodeSlice{parsed})
	for i := range a.Ports {
		if len(a.Ports[i].Groups) != 1 || a.Ports[i].Groups[0] != b.Ports[i].Groups[0] {
			t.Errorf("port %s has other groups than before", a.Ports[i].Name)
		}
	}
	if len(svc.Ports[0].Groups) != 0 {
		t.Error("WithEndpoints wrote to its argument")
	}
}

func TestServiceCIDRs(t *testing.T) {
	cidr := func(texts ...string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: texts}}
	}
	got := translate.ServiceCIDRs([]*networkingv1.ServiceCIDR{cidr("fd00:30::/112", "172.30.0.0/16"), cidr("172.30.0.0/16", "10.0.0.0/8", "junk")})
	if want := "[10.0.0.0/8 172.30.0.0/16 fd00:30::/112]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// FuzzNodeService: whatever the fields hold, addresses are sane, what is left
// out is reported, and a list of ranges never becomes an empty one.
func FuzzNodeService(f *testing.F) {
	for _, s := range []string{"203.0.113.1", "010.000.0.1", "fd00::1", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0", "203.0.113.0/24", " 10.0.0.0/08 ", "::/0", "x", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, address, cidr string) {
		svc, problems := translate.NodeService(translate.NodeOptions{}, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"},
			Spec:       corev1.ServiceSpec{ClusterIP: "172.30.0.1", ExternalIPs: []string{address}, LoadBalancerSourceRanges: []string{cidr}},
		})
		if len(svc.SourceRanges) == 0 {
			t.Errorf("the range %q lets everybody in", cidr)
		}
		if len(svc.ExternalIPs) == 0 && len(problems) == 0 {
			t.Errorf("%q is left out without a word", address)
		}
		for _, a := range svc.ExternalIPs {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsLoopback() || a.IsUnspecified() {
				t.Errorf("%q is read as %s", address, a)
			}
		}
	})
}

// TestProxyName: a Service goes to the proxy that its label names, and to
// nobody else.
func TestProxyName(t *testing.T) {
	const label = translate.LabelServiceProxyName
	for _, tc := range []struct {
		ours   string
		labels map[string]string
		want   bool
	}{
		{"", nil, true},
		{"", map[string]string{label: "other"}, false},
		{"", map[string]string{label: ""}, false},
		{"portico", map[string]string{label: "portico"}, true},
		{"portico", map[string]string{label: "other"}, false},
		{"portico", nil, false},
	} {
		o := translate.NodeOptions{NodeName: "node1", ProxyName: tc.ours}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: tc.labels}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7"}}
		if got, _ := translate.NodeService(o, svc); (got != nil) != tc.want {
			t.Errorf("--service-proxy-name %q, labels %v: forwarded %t", tc.ours, tc.labels, got != nil)
		}
		selector, err := labels.Parse(o.SelectServices())
		if err != nil || selector.Matches(labels.Set(tc.labels)) != tc.want {
			t.Errorf("--service-proxy-name %q, labels %v: the selector %q says otherwise, %v", tc.ours, tc.labels, selector, err)
		}
		// A slice that was written by hand has no label.
		if selector, err := labels.Parse(o.SelectSlices()); err != nil || !selector.Matches(labels.Set{}) {
			t.Errorf("--service-proxy-name %q: a slice without labels is not followed, %v", tc.ours, err)
		}
	}
}
