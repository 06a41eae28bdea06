//go:build linux && root

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/netns"
	"github.com/portico-ingress/portico/test/nodeapi"
)

type object = nodeapi.Object

// nodeName is that of the node on which the programs run.
const nodeName = "n1"

// cluster is a Service with an endpoint on a node.
func cluster() nodeapi.Objects {
	named := func(name string, labels object) object {
		return object{"name": name, "namespace": "default", "labels": labels, "resourceVersion": "1"}
	}
	port := []any{object{"name": "http", "port": 80, "protocol": "TCP"}}
	return nodeapi.Objects{
		"services": {object{"metadata": named("web", nil), "spec": object{"type": "ClusterIP", "clusterIP": "10.96.7.7", "clusterIPs": []any{"10.96.7.7"}, "ports": port}}},
		"endpointslices": {object{"metadata": named("web-1", object{"kubernetes.io/service-name": "web"}), "addressType": "IPv4", "ports": []any{object{"name": "http", "port": 8080, "protocol": "TCP"}},
			"endpoints": []any{object{"addresses": []any{"10.244.1.9"}, "conditions": object{"ready": true}}}}},
		"servicecidrs": {object{"metadata": object{"name": "kubernetes"}, "spec": object{"cidrs": []any{"10.96.0.0/16"}}}},
		"nodes":        {object{"metadata": object{"name": nodeName}, "spec": object{"podCIDRs": []any{"10.244.1.0/24"}}}},
	}
}

// process is a portico-node that runs in a namespace.
type process struct {
	cmd *exec.Cmd
	log *output
}

// output keeps what is written. Safe for concurrent use.
type output struct {
	mu   sync.Mutex // protects the following
	text bytes.Buffer
}

func (l *output) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *output) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t testing.TB, n *netns.Namespace, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], append([]string{"run", "--node-name=" + nodeName}, args...)...), log: &output{}}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	var err error
	n.Do(func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill ends it as kill -9 does.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// until waits for a text in the log.
func (p *process) until(t testing.TB, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(p.log.String(), want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in the log:\n%s", want, p.log)
		}
	}
}

// in runs a command of portico-node in a namespace.
func in(n *netns.Namespace, args ...string) (code int, out string) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var text []byte
	n.Do(func() { text, _ = cmd.CombinedOutput() })
	return cmd.ProcessState.ExitCode(), string(text)
}

// answers is a command of portico-node that must end so, and print that.
func answers(t *testing.T, n *netns.Namespace, code int, want []string, args ...string) {
	t.Helper()
	got, out := in(n, args...)
	if got != code {
		t.Errorf("portico-node %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("portico-node %s: no %q in\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// TestLife: it programs, says what it programmed, leaves it when it is killed,
// finds it again, and takes it away when it is asked to and nothing else.
func TestLife(t *testing.T) {
	n := netns.New(t)
	n.Run(t, "nft", "add", "table", "ip", "somebody")
	api := "--apiserver=" + nodeapi.Serve(t, n, cluster()).URL
	kube := "--kubeconfig=" + kubeconfig(t, "https://192.0.2.1:6443")
	answers(t, n, 0, []string{"has programmed nothing here"}, "--cleanup")

	p := start(t, n, nil, kube, api)
	p.until(t, "everything is programmed")
	programmed := func() bool {
		out, err := n.Output("nft", "list", "ruleset")
		if err != nil || !strings.Contains(out, "table ip somebody") {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Contains(out, "10.96.7.7 . tcp . 80")
	}
	if !programmed() {
		t.Error("the Service is not in the kernel")
	}
	answers(t, n, 0, []string{"ClusterIP 10.96.7.7:80", "10.244.1.9:8080"}, "show", "web")
	answers(t, n, 0, []string{"nothing is programmed for Service default/other"}, "show", "other")
	answers(t, n, 0, []string{"→ 10.244.1.9:8080"}, "trace", "10.244.1.5", "10.96.7.7:80")
	answers(t, n, 2, []string{"is not an address"}, "trace", "nonsense", "10.96.7.7:80")
	answers(t, n, 1, []string{"a portico-node runs here"}, "--cleanup")
	for page, want := range map[string]string{
		"127.0.0.1:10256/healthz": "nodeEligible", "127.0.0.1:10249/metrics": "kubeproxy_sync_proxy_rules_duration_seconds",
		"127.0.0.1:10249/proxyMode": "nftables", "127.0.0.1:10247/readyz": "ok",
	} {
		if body := get(t, n, page); !strings.Contains(body, want) {
			t.Errorf("%s: no %q in\n%s", page, want, body)
		}
	}
	p.kill()
	if !programmed() {
		t.Error("what was programmed went with the process")
	}
	answers(t, n, 1, []string{"no portico-node answers"}, "show")
	answers(t, n, 0, []string{"This breaks", "Nothing was removed"}, "--cleanup", "--dry-run")
	if !programmed() {
		t.Error("--dry-run removed what was programmed")
	}
	p = start(t, n, nil, kube, api)
	p.until(t, "everything is programmed")
	p.kill()
	answers(t, n, 0, []string{"This breaks", "Removed."}, "--cleanup")
	if programmed() {
		t.Error("--cleanup left something")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// get fetches a page of the namespace.
func get(t testing.TB, n *netns.Namespace, page string) string {
	t.Helper()
	address, path, _ := strings.Cut(page, "/")
	var c net.Conn
	var err error
	n.Do(func() { c, err = net.Dial("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /"+path+" HTTP/1.0\r\n\r\n")
	body, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestHint: who sends a node to the Service kubernetes is told why nothing
// happens, and which value to set.
func TestHint(t *testing.T) {
	n := netns.New(t)
	p := start(t, n, []string{"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"}, "--kubeconfig="+kubeconfig(t, "https://10.96.0.1:443"))
	p.until(t, "apiserver.host")
	answers(t, n, 1, []string{"the first list of services has not been delivered"}, "show")
}

// TestCheck: a fresh namespace forwards nothing, which is a fault; once it does,
// there is none.
func TestCheck(t *testing.T) {
	n := netns.New(t)
	n.Set(t, "ipv4/ip_forward", "0")
	answers(t, n, 1, []string{"FAULT  sysctl net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1", "ok     nftables, IPv4", "ok     nftables, IPv6", "no rules of other proxies"}, "check")
	n.Set(t, "ipv4/ip_forward", "1")
	n.Run(t, "nft", "add", "table", "ip", "kube-proxy")
	api := "--apiserver=" + nodeapi.Serve(t, n, cluster()).URL
	answers(t, n, 0, []string{"nft delete table ip kube-proxy", "answers, version v1.37.2"}, "check", "--kubeconfig="+kubeconfig(t, "https://192.0.2.1:6443"), api)
	if out := n.Run(t, "nft", "list", "ruleset"); strings.Contains(out, "portico") {
		t.Errorf("check left something:\n%s", out)
	}
}

// TestAlone: a second process on a node programs nothing before the first has
// ended.
func TestAlone(t *testing.T) {
	n := netns.New(t)
	args := []string{"--kubeconfig=" + kubeconfig(t, nodeapi.Serve(t, n, cluster()).URL)}
	first := start(t, n, nil, args...)
	first.until(t, "everything is programmed")
	second := start(t, n, nil, append(args, "--service-proxy-name=other")...)
	second.until(t, "another portico-node runs on this node")
	if !strings.Contains(n.Run(t, "nft", "list", "ruleset"), "10.96.7.7 . tcp . 80") {
		t.Error("the second has taken away what the first programmed")
	}
	if text := second.log.String(); strings.Contains(text, "everything is programmed") {
		t.Errorf("two program a node:\n%s", text)
	}
	first.kill()
	second.until(t, "everything is programmed")
}

// TestNoSuchNode: with a name that no Node has nothing is programmed, and that is
// said, until there is one.
func TestNoSuchNode(t *testing.T) {
	n := netns.New(t)
	objects := cluster()
	node := objects["nodes"][0].(object)
	objects["nodes"] = []any{}
	api := nodeapi.Serve(t, n, objects)
	p := start(t, n, nil, "--kubeconfig="+kubeconfig(t, api.URL))
	p.until(t, "there is no Node "+nodeName)
	if rules := n.Run(t, "nft", "list", "ruleset"); strings.Contains(rules, "10.96.7.7") {
		t.Errorf("programmed is\n%s", rules)
	}
	api.Modify(t, "nodes", node)
	p.until(t, "everything is programmed")
}

// TestTakenAddresses: beside a kube-proxy, which has the same addresses, it
// programs; when they are free, it serves there.
func TestTakenAddresses(t *testing.T) {
	n := netns.New(t)
	var taken net.Listener
	var err error
	n.Do(func() { taken, err = net.Listen("tcp", ":10256") })
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, n, nil, "--kubeconfig="+kubeconfig(t, nodeapi.Serve(t, n, cluster()).URL))
	p.until(t, "everything is programmed")
	p.until(t, "the address is not free")
	_ = taken.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var c net.Conn
		n.Do(func() { c, err = net.Dial("tcp", "127.0.0.1:10256") })
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the free address is not served")
		}
	}
}
