//go:build linux

// Package kubeproxy runs the real kube-proxy in a network namespace, with an
// apiserver that has what it is told and nothing else. It is the oracle of our
// node component, which must do the same, and its peer in benchmarks.
package kubeproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/netns"
	"github.com/portico-ingress/portico/test/nodeapi"
)

// Assets names the folder with kube-proxy, as the tests with an apiserver have
// it.
const Assets = "KUBEBUILDER_ASSETS"

// patience bounds the wait for its first rules; it is no measure.
const patience = 10 * time.Minute

// Start runs kube-proxy in its nftables mode on a node with these Services, and
// returns when it has programmed them. It ends with the test, or with stop.
func Start(t testing.TB, n *netns.Namespace, node l4.Node, services []*l4.Service) (stop func()) {
	t.Helper()
	return StartAt(t, n, node, nodeapi.Serve(t, n, Objects(node, services)))
}

// StartAt is Start with an apiserver in the same namespace.
func StartAt(t testing.TB, n *netns.Namespace, node l4.Node, api *nodeapi.Server) (stop func()) {
	t.Helper()
	if os.Getenv(Assets) == "" {
		t.Fatal(Assets + " is not set: run `make test-root`, which builds kube-proxy, or set it to $(test/tools/assets.sh kube)")
	}
	dir := t.TempDir()
	write := func(name string, content any) string {
		text, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	kubeconfig := write("kubeconfig", kubeconfig(api.URL))
	p := &process{cmd: exec.Command(filepath.Join(os.Getenv(Assets), "kube-proxy"), "--config", write("config", config(node, kubeconfig)), "--v=2")}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	var err error
	n.Do(func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.await(t, n, node)
	return p.kill
}

// process is a kube-proxy and what it said. Safe for concurrent use.
type process struct {
	cmd *exec.Cmd

	mu   sync.Mutex // protects the following
	said bytes.Buffer
}

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(text)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// synced is the metric that has a time once the rules of a family are there.
var synced = regexp.MustCompile(`(?m)^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="(IPv[46])"\} [1-9]`)

// await returns when the rules of the node's families are there.
func (p *process) await(t testing.TB, n *netns.Namespace, node l4.Node) {
	t.Helper()
	want := map[string]bool{}
	for _, ip := range node.IPs {
		want[map[bool]string{true: "IPv6", false: "IPv4"}[ip.Is6()]] = true
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		page, err := fetch(n, netip.MustParseAddrPort(metricsAddress), "/metrics")
		for _, found := range synced.FindAllStringSubmatch(page, -1) {
			delete(want, found[1])
		}
		if len(want) == 0 {
			return
		}
		if time.Now().After(deadline) {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Fatalf("kube-proxy has not programmed %v: %v\n%s", want, err, p.said.String())
		}
	}
}

const metricsAddress = "127.0.0.1:10249"

func kubeconfig(server string) any {
	return object{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": list{object{"name": "c", "cluster": object{"server": server}}},
		"contexts": list{object{"name": "c", "context": object{"cluster": "c", "user": "u"}}},
		"users":    list{object{"name": "u", "user": object{}}},
	}
}

func config(node l4.Node, kubeconfig string) any {
	out := object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
		"clientConnection": object{"kubeconfig": kubeconfig}, "hostnameOverride": node.Name,
		"nftables":           object{"masqueradeAll": node.MasqueradeAll, "minSyncPeriod": "10ms", "syncPeriod": "30s"},
		"healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": metricsAddress,
		// These sysctls are the host's: 0 leaves them alone.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
	switch {
	case len(node.Pods.CIDRs) > 0:
		out["detectLocalMode"], out["clusterCIDR"] = "ClusterCIDR", join(node.Pods.CIDRs)
	case node.Pods.Interface != "" && node.Pods.InterfacePrefix:
		out["detectLocalMode"], out["detectLocal"] = "InterfaceNamePrefix", object{"interfaceNamePrefix": node.Pods.Interface}
	case node.Pods.Interface != "":
		out["detectLocalMode"], out["detectLocal"] = "BridgeInterface", object{"bridgeInterface": node.Pods.Interface}
	}
	// Unset, they would be the primary addresses.
	ranges := list{"0.0.0.0/0", "::/0"}
	if !node.NodePorts.All {
		ranges = list{}
		for _, a := range node.NodePorts.Addresses {
			ranges = append(ranges, fmt.Sprintf("%s/%d", a, a.BitLen()))
		}
	}
	out["nodePortAddresses"] = ranges
	return out
}

func join(prefixes []netip.Prefix) string {
	var out bytes.Buffer
	for i, p := range prefixes {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(p.String())
	}
	return out.String()
}
