//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/test/cluster"
)

// nodes is a cluster whose Services are forwarded by portico-node, as its chart
// installs it, or by kube-proxy, or by both.
type nodes struct {
	*edge
	program string // portico-node, as in the image
	address string // ClusterIP of the application
	port    int32  // its NodePort
	pods    []string
}

const daemonset = "daemonset/portico-node"

// TestNode begins with nodes that forward nothing, and goes from portico-node
// to kube-proxy and back while connections are made all the time.
func TestNode(t *testing.T) {
	program, archive := buildImage(t, tempDir(t), "portico-node")
	n := &nodes{edge: newEdge(t, cluster.Options{Proxy: cluster.ProxyNone, Images: []string{archive}}), program: program}
	if !t.Run("from an empty ruleset", n.bootstrap) {
		return
	}
	t.Run("look inside", n.lookInside)
	load := n.dialAllTheTime(t)
	t.Run("killed", n.killed)
	t.Run("upgrade", n.upgraded)
	t.Run("back to kube-proxy", n.back)
	t.Run("over from kube-proxy", n.over)
	if sent, lost := load(); lost > 0 || sent == 0 {
		t.Errorf("%d of %d connections were lost", lost, sent)
	} else {
		t.Logf("%d connections, none lost", sent)
	}
}

// webOfNodes is an application on both nodes.
const webOfNodes = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - {name: web, image: ` + cluster.TestImage + `, imagePullPolicy: Never, ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// bootstrap installs the chart where nothing reaches the Service kubernetes.
func (n *nodes) bootstrap(t *testing.T) {
	for _, node := range n.Nodes() {
		if out, err := node.Exec(t.Context(), "nft", "list", "tables"); err != nil || strings.Contains(out, "proxy") || strings.Contains(out, "portico") {
			t.Fatalf("%s is not empty: %s, %v", node.Name, out, err)
		}
	}
	n.install(t)
	n.kubectl(t, webOfNodes, "apply", "--validate=strict", "-f", "-")
	n.edge.rollout(t, "deployment/web")
	svc, err := n.client.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.address, n.port = svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort
	n.pods = strings.Fields(n.kubectl(t, "", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))
	n.served(t)
}

// install installs the chart, and returns when every node is programmed.
func (n *nodes) install(t *testing.T) {
	t.Helper()
	n.runHelm(t, "install", "portico-node", "../../charts/portico-node", "-n", "kube-system",
		"--set", "apiserver.host="+n.Control().Address.String(), "--set", "clusterCIDR={10.244.0.0/16}",
		"--set", "image.repository=portico.test/portico-node", "--set", "image.tag=e2e", "--set", "image.pullPolicy=Never")
	n.edge.rollout(t, "-n", "kube-system", daemonset)
}

// served asks for the application from everywhere: by name from its pods, by
// ClusterIP from the nodes, by NodePort from outside.
func (n *nodes) served(t *testing.T) {
	t.Helper()
	for _, pod := range n.pods {
		n.eventually(t, "the Service by its name in "+pod, func() error {
			_, err := n.Kubectl(t.Context(), "", "exec", pod, "--", "get", "http://web.default.svc.cluster.local/")
			return err
		})
	}
	for _, node := range n.Nodes() {
		n.eventually(t, "the ClusterIP from "+node.Name, func() error {
			return ask(t.Context(), node.DialContext, net.JoinHostPort(n.address, "80"))
		})
		n.eventually(t, "the NodePort of "+node.Name, func() error {
			return ask(t.Context(), new(net.Dialer).DialContext, n.nodePort(node))
		})
	}
}

func (n *nodes) nodePort(node *cluster.Machine) string {
	return net.JoinHostPort(node.Address.String(), fmt.Sprint(n.port))
}

// ask sends a request on a connection of its own.
func ask(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", answer.Status)
	}
	return nil
}

// dialAllTheTime makes connections to the NodePort of every node, one after
// another, until the function that it returns is called.
func (n *nodes) dialAllTheTime(t *testing.T) (end func() (sent, lost int64)) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var sent, lost atomic.Int64
	for _, node := range n.Nodes() {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := ask(ctx, new(net.Dialer).DialContext, n.nodePort(node)); ctx.Err() != nil {
					return // it was cut off by us
				} else if err != nil {
					lost.Add(1)
					t.Logf("%s: %v", node.Name, err)
				}
				sent.Add(1)
			}
		})
	}
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return func() (int64, int64) { stop(); return sent.Load(), lost.Load() }
}

// lookInside asks the pods what their node offers, what is programmed, and what
// becomes of a packet.
func (n *nodes) lookInside(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"check"}, "the kernel takes what is programmed"},
		{[]string{"show", "web"}, "ClusterIP " + n.address + ":80"},
		{[]string{"trace", "10.244.1.200", n.address + ":80"}, "→ 10.244."},
	} {
		out := n.kubectl(t, "", append([]string{"exec", "-n", "kube-system", daemonset, "--", "/portico-node"}, tc.args...)...)
		if !strings.Contains(out, tc.want) {
			t.Errorf("portico-node %s: no %q in\n%s", tc.args[0], tc.want, out)
		}
	}
	// What it may not: read a Secret.
	out, err := n.Kubectl(t.Context(), "", "auth", "can-i", "list", "secrets", "-A", "--as=system:serviceaccount:kube-system:portico-node")
	if err == nil || !strings.HasPrefix(out, "no") {
		t.Errorf("it may list Secrets: %s", out)
	}
}

// killed ends the process of a node without a word; kubelet starts it again.
func (n *nodes) killed(t *testing.T) {
	node := n.Nodes()[0]
	if _, err := node.Exec(t.Context(), "sh", "-c", "kill -9 $(pidof portico-node)"); err != nil {
		t.Fatal(err)
	}
	n.eventually(t, "the container's restart", func() error {
		out, err := n.Kubectl(t.Context(), "", "get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=portico-node",
			"-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
		if err == nil && !slices.Contains(strings.Fields(out), "1") {
			return fmt.Errorf("restarts: %s", out)
		}
		return err
	})
	n.edge.rollout(t, "-n", "kube-system", daemonset)
	n.served(t)
}

// upgraded replaces every pod.
func (n *nodes) upgraded(t *testing.T) {
	n.kubectl(t, "", "rollout", "restart", "-n", "kube-system", daemonset)
	n.edge.rollout(t, "-n", "kube-system", daemonset)
	n.served(t)
}

// back starts kube-proxy beside portico-node, which goes then, with all that it
// programmed.
func (n *nodes) back(t *testing.T) {
	for _, node := range n.Nodes() {
		if err := n.StartProxy(t.Context(), node, cluster.ProxyNFTables); err != nil {
			t.Fatal(err)
		}
		n.eventually(t, "kube-proxy's rules on "+node.Name, func() error {
			out, err := node.Exec(t.Context(), "nft", "list", "table", "ip", "kube-proxy")
			if err == nil && !strings.Contains(out, n.address) {
				return fmt.Errorf("the Service is not there")
			}
			return err
		})
		if out, err := node.Exec(t.Context(), n.program, "--cleanup"); err == nil {
			t.Errorf("--cleanup under a running portico-node: %s", out)
		}
	}
	n.served(t)
	n.runHelm(t, "uninstall", "portico-node", "-n", "kube-system", "--wait", "--cascade=foreground")
	for _, node := range n.Nodes() {
		n.eventually(t, "the cleanup of "+node.Name, func() error {
			_, err := node.Exec(t.Context(), n.program, "--cleanup")
			return err
		})
		if out, err := node.Exec(t.Context(), "nft", "list", "tables"); err != nil || strings.Contains(out, "portico") || !strings.Contains(out, "ip kube-proxy") {
			t.Errorf("tables of %s: %s, %v", node.Name, out, err)
		}
	}
	n.served(t)
}

// over installs portico-node beside kube-proxy, which goes then, with what it
// left.
func (n *nodes) over(t *testing.T) {
	n.install(t)
	n.served(t)
	for _, node := range n.Nodes() {
		if err := node.Stop(t.Context(), "kube-proxy"); err != nil {
			t.Fatal(err)
		}
		for _, family := range []string{"ip", "ip6"} {
			if _, err := node.Exec(t.Context(), "nft", "delete", "table", family, "kube-proxy"); err != nil {
				t.Error(err)
			}
		}
		// The addresses that kube-proxy had.
		n.eventually(t, "the health page of "+node.Name, func() error { return health(t.Context(), node) })
	}
	n.served(t)
}

func health(ctx context.Context, node *cluster.Machine) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(node.Address.String(), "10256"))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	out, err := io.ReadAll(c)
	if err == nil && !strings.Contains(string(out), "200 OK") {
		err = fmt.Errorf("%s", out)
	}
	return err
}
