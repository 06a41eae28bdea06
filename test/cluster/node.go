//go:build linux

package cluster

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// nodeSysctls make a machine forward between pods, and show netfilter what
// passes between two pods of one bridge: the answer of a Service's pod must
// take the way back through the address translation.
func (c *Cluster) nodeSysctls() map[string]string {
	sysctls := map[string]string{
		"net/ipv4/ip_forward":                "1",
		"net/bridge/bridge-nf-call-iptables": "1",
	}
	if c.options.DualStack {
		sysctls["net/ipv6/conf/all/forwarding"] = "1"
		sysctls["net/bridge/bridge-nf-call-ip6tables"] = "1"
	}
	return sysctls
}

//go:embed templates
var templates embed.FS

// values are what the templates may use.
type values struct {
	Dir       string // of the node
	PKI       pki
	Programs  programs
	Name      string
	Pods      []string // ranges of the node
	PodRange  string   // or ranges, with a comma
	DNS       string
	API       string // address of kube-apiserver
	Cgroup    string
	PauseName string
	DNSImage  string
}

func (c *Cluster) values(k int) values {
	node := c.nodes[k]
	return values{
		Dir: node.dir, PKI: c.pki, Programs: c.programs, Name: node.Name, Pods: c.pods(k), PodRange: c.podRanges(),
		DNS: dnsAddress, API: c.net.control().String(), Cgroup: c.net.cgroup(k + 1), PauseName: pauseImage, DNSImage: dnsImage,
	}
}

// pods are the ranges of the node's pods.
func (c *Cluster) pods(k int) []string { return c.families(c.net.pods(k+1), c.net.pods6(k+1)) }

// podRanges are those of all pods, in the form that flags take.
func (c *Cluster) podRanges() string { return strings.Join(c.families(podRange, podRange6), ",") }

func render(name string, v values) ([]byte, error) {
	t, err := template.ParseFS(templates, "templates/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Option("missingkey=error").Execute(&out, v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// nodeFiles are what a node is configured with: template → path below the
// node's folder.
var nodeFiles = map[string]string{
	"containerd.toml":    "containerd.toml",
	"10-bridge.conflist": "cni/10-bridge.conflist",
	"kubelet.yaml":       "kubelet.yaml",
	"kube-proxy.yaml":    "kube-proxy.yaml",
	"pod-resolv.conf":    "pod-resolv.conf",
}

// configureNode writes a node's files and makes its cgroups.
func (c *Cluster) configureNode(k int) error {
	for name, file := range nodeFiles {
		content, err := render(name, c.values(k))
		if err != nil {
			return err
		}
		path := filepath.Join(c.nodes[k].dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return makeCgroup(c.net.cgroup(k + 1))
}

// startRuntime configures a node and starts its containerd.
func (c *Cluster) startRuntime(ctx context.Context, k int) error {
	node := c.nodes[k]
	if err := c.configureNode(k); err != nil {
		return fmt.Errorf("configuring %s: %w", node.Name, err)
	}
	err := node.Start(ctx, Process{Name: "containerd", Args: []string{c.programs.Containerd, "--config", filepath.Join(node.dir, "containerd.toml")}})
	if err != nil {
		return err
	}
	return node.await(ctx, "containerd", func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", filepath.Join(node.dir, "containerd.sock"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// startNode starts kubelet and, unless left out, what forwards for Services.
func (c *Cluster) startNode(ctx context.Context, k int) error {
	node := c.nodes[k]
	err := node.Start(ctx, Process{Name: "kubelet", Args: []string{
		c.programs.kube("kubelet"),
		"--config", filepath.Join(node.dir, "kubelet.yaml"),
		"--kubeconfig", c.pki.Kubeconfig(node.Name),
		"--root-dir", filepath.Join(node.dir, "kubelet"),
		"--cert-dir", filepath.Join(node.dir, "kubelet-certs"),
		"--node-ip", strings.Join(c.families(node.Address.String(), c.net.address6(11+k).String()), ","),
	}})
	if err != nil || c.options.Proxy == ProxyNone {
		return err
	}
	return c.StartProxy(ctx, node, c.options.Proxy)
}

// proxies are the names of the processes that forward packets for Services.
var proxies = map[string]string{ProxyNFTables: "kube-proxy", ProxyOurs: "portico-node"}

// StartProxy starts what forwards packets for Services on a node, also beside
// another. The name of the process is kube-proxy or portico-node; the latter's
// program is there in a cluster that was made with ProxyOurs.
func (c *Cluster) StartProxy(ctx context.Context, node *Machine, proxy string) error {
	args := []string{c.programs.kube("kube-proxy"), "--config", filepath.Join(node.dir, "kube-proxy.yaml")}
	if proxy == ProxyOurs {
		// It has kube-proxy's rights; the address of the apiserver is the one of
		// the kubeconfig, which no Service is needed to reach.
		args = []string{c.ours(), "run", "--kubeconfig", c.pki.Kubeconfig("kube-proxy"), "--node-name", node.Name, "--cluster-cidr", c.podRanges()}
	}
	return node.Start(ctx, Process{Name: proxies[proxy], Args: args})
}

// ours is the program that ProxyOurs runs.
func (c *Cluster) ours() string { return filepath.Join(c.state, "images", "portico-node") }

// awaitNode returns when the node is Ready, and tells it its range of pods, as
// kubeadm's controller manager would have done.
func (c *Cluster) awaitNode(ctx context.Context, client kubernetes.Interface, k int) error {
	node := c.nodes[k]
	err := node.await(ctx, "kubelet", func(ctx context.Context) error {
		object, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return nodeReady(object)
	})
	if err != nil {
		return err
	}
	pods := c.pods(k)
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": pods[0], "podCIDRs": pods}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	if c.options.Proxy == ProxyNone {
		return nil
	}
	return node.ended(ctx, proxies[c.options.Proxy])
}

func nodeReady(node *corev1.Node) error {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return fmt.Errorf("node %s is not ready: %s", node.Name, condition.Message)
		}
		if condition.Type == corev1.NodeReady {
			return nil
		}
	}
	return fmt.Errorf("node %s has not reported yet", node.Name)
}
