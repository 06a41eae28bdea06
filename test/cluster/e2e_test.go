//go:build e2e && linux

package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portico-ingress/portico/test/cluster"
)

// patience bounds every wait for a condition. It is no measure of anything.
const patience = 2 * time.Minute

func eventually(t *testing.T, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-ticker.C:
		}
	}
}

// up starts a cluster in a folder of its own, and ends it with the test.
func up(t *testing.T, options cluster.Options) *cluster.Cluster {
	t.Helper()
	if options.State == "" {
		options.State = stateDir(t)
	}
	options.Progress = t.Output()
	t.Cleanup(func() { down(t, options.State) })
	c, err := cluster.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func down(t *testing.T, state string) {
	t.Helper()
	// The test's own context is done when it cleans up.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cluster.Down(ctx, state); err != nil {
		t.Error(err)
	}
}

// statePrefix is what the folders of these tests' clusters begin with.
func statePrefix() string { return filepath.Join(os.TempDir(), "portico-cluster-test-") }

// stateDir is short, unlike t.TempDir: sockets are in it.
func stateDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp("", filepath.Base(statePrefix()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	return filepath.Join(parent, "cluster")
}

// TestCluster is one cluster from its start to its end, and what a user of it
// relies on.
func TestCluster(t *testing.T) {
	before := takeStock(t)
	c := up(t, cluster.Options{})
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{c, client}
	t.Run("nodes", s.nodes)
	t.Run("deployment", s.deployment)
	t.Run("services", s.services)
	t.Run("dns", s.dns)
	t.Run("exec and logs", s.execAndLogs)
	t.Run("readiness", s.readiness)
	t.Run("host port", s.hostPort)
	t.Run("apiserver outage", s.outage)
	t.Run("second cluster without proxy", s.second)
	t.Run("up twice", s.twice)

	mine := descendants(t, c)
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	mine.checkGone(t)
	before.compare(t, takeStock(t))
	if _, err := os.Stat(c.State()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the cluster is still there: %v", err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Errorf("a second Down: %v", err)
	}
}

// TestOurs is a cluster whose Services portico-node forwards, in place of
// kube-proxy.
func TestOurs(t *testing.T) {
	before := takeStock(t)
	c := up(t, cluster.Options{Proxy: cluster.ProxyOurs})
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{c, client}
	for _, node := range c.Nodes() {
		if out, err := node.Exec(t.Context(), "nft", "list", "tables"); err != nil || !strings.Contains(out, "table ip portico-node") || strings.Contains(out, "kube-proxy") {
			t.Errorf("tables of %s: %s, %v", node.Name, out, err)
		}
	}
	t.Run("nodes", s.nodes)
	t.Run("deployment", s.deployment)
	t.Run("services", s.services)
	t.Run("dns", s.dns)
	t.Run("readiness", s.readiness)
	t.Run("host port", s.hostPort)
	t.Run("apiserver outage", s.outage)
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	before.compare(t, takeStock(t))
}

type suite struct {
	*cluster.Cluster
	client kubernetes.Interface
}

func (s *suite) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := s.Kubectl(t.Context(), stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *suite) nodes(t *testing.T) {
	list, err := s.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for k, node := range list.Items {
		ready := false
		for _, condition := range node.Status.Conditions {
			ready = ready || condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
		}
		if want := s.Nodes()[k]; node.Name != want.Name || !ready || node.Status.Addresses[0].Address != want.Address.String() || node.Spec.PodCIDR == "" {
			t.Errorf("node %d: %s, ready %t, %v, pods %q", k, node.Name, ready, node.Status.Addresses, node.Spec.PodCIDR)
		}
	}
	if len(list.Items) != 2 {
		t.Errorf("%d nodes", len(list.Items))
	}
}

// web is a Deployment of two pods on two nodes, behind every kind of Service.
const web = `
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
      - name: web
        image: ` + cluster.TestImage + `
        imagePullPolicy: Never
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1}
        lifecycle: {preStop: {exec: {command: [sleep, "1"]}}}
        securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
`

func (s *suite) deployment(t *testing.T) {
	s.kubectl(t, web, "apply", "--validate=strict", "-f", "-")
	s.kubectl(t, "", "rollout", "status", "deployment/web", "--timeout=2m")
	if nodes := s.kubectl(t, "", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"); nodes != "node1 node2" && nodes != "node2 node1" {
		t.Errorf("pods are on %q", nodes)
	}
}

func (s *suite) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := s.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// from returns an HTTP client with a connection for each request.
func from(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// served asks until both pods have answered.
func (s *suite) served(t *testing.T, client *http.Client, url string) {
	t.Helper()
	missing := map[string]bool{}
	for _, pod := range s.pods(t) {
		missing[pod.Name] = true
	}
	eventually(t, func() error {
		res, err := client.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		for pod := range missing {
			if strings.Contains(string(body), `"`+pod+`"`) {
				delete(missing, pod)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s: no answer from %v, the last is %s %s", url, missing, res.Status, body)
		}
		return nil
	})
}

func (s *suite) service(t *testing.T) *corev1.Service {
	t.Helper()
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func (s *suite) services(t *testing.T) {
	svc := s.service(t)
	host, node := from(new(net.Dialer).DialContext), from(s.Nodes()[1].DialContext)
	t.Run("ClusterIP from a node", func(t *testing.T) { s.served(t, node, "http://"+svc.Spec.ClusterIP+"/") })
	for _, n := range s.Nodes() {
		t.Run("NodePort of "+n.Name+" from outside", func(t *testing.T) {
			s.served(t, host, fmt.Sprintf("http://%s:%d/", n.Address, svc.Spec.Ports[0].NodePort))
		})
	}
	t.Run("LoadBalancer from outside", func(t *testing.T) {
		address := s.Balancer(7).String()
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
		if _, err := s.client.CoreV1().Services("default").UpdateStatus(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.served(t, host, "http://"+address+"/")
		if err := s.RouteBalancers(t.Context(), s.Nodes()[1]); err != nil {
			t.Fatal(err)
		}
		s.served(t, host, "http://"+address+"/")
	})
	for _, pod := range s.pods(t) {
		// Also to itself, and to another pod of the same node's bridge.
		t.Run("ClusterIP from "+pod.Name, func(t *testing.T) {
			seen := map[string]bool{}
			eventually(t, func() error {
				out, err := s.Kubectl(t.Context(), "", "exec", pod.Name, "--", "get", "http://"+svc.Spec.ClusterIP+"/")
				if seen[out] = true; err != nil || len(seen) < 2 {
					return fmt.Errorf("seen %v: %w", seen, err)
				}
				return nil
			})
		})
	}
}

func (s *suite) dns(t *testing.T) {
	pods := s.pods(t)
	for name, want := range map[string]string{
		"web":                                    s.service(t).Spec.ClusterIP,
		"web.default.svc.cluster.local":          s.service(t).Spec.ClusterIP,
		"kubernetes.default":                     "10.96.0.1",
		"headless.default.svc.cluster.local":     pods[0].Status.PodIP,
		"kube-dns.kube-system.svc.cluster.local": "10.96.0.10",
	} {
		if got := s.kubectl(t, "", "exec", pods[0].Name, "--", "lookup", name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	if out, err := s.Kubectl(t.Context(), "", "exec", pods[0].Name, "--", "lookup", "example.com"); err == nil {
		t.Errorf("a name of the internet is %s", out)
	}
}

func (s *suite) execAndLogs(t *testing.T) {
	pod := s.pods(t)[0].Name
	s.kubectl(t, "", "run", "said", "--image="+cluster.TestImage, "--image-pull-policy=Never", "--restart=Never", "--", "lookup", "web")
	eventually(t, func() error {
		if phase := s.kubectl(t, "", "get", "pod", "said", "-o", "jsonpath={.status.phase}"); phase != "Succeeded" {
			return fmt.Errorf("the pod is %s", phase)
		}
		return nil
	})
	if got := strings.TrimSpace(s.kubectl(t, "", "logs", "said")); got != s.service(t).Spec.ClusterIP {
		t.Errorf("its log is %q", got)
	}
	if _, err := s.Kubectl(t.Context(), "", "exec", pod, "--", "exists", "/does/not/exist"); err == nil || !strings.Contains(err.Error(), "exit code 1") {
		t.Errorf("a command that fails: %v", err)
	}
	if out := s.kubectl(t, "", "get", "--raw", "/api/v1/namespaces/default/pods/"+pod+":8080/proxy/x"); !strings.Contains(out, pod) {
		t.Errorf("through kube-apiserver: %s", out)
	}
	if out, err := s.Nodes()[0].Exec(t.Context(), "ctr", "images", "list", "-q"); err != nil || !strings.Contains(out, cluster.TestImage) {
		t.Errorf("images of the node: %s, %v", out, err)
	}
}

// readiness flips a pod's probe and waits for the EndpointSlice.
func (s *suite) readiness(t *testing.T) {
	pod := s.pods(t)[0]
	for _, step := range []struct {
		command string
		ready   bool
	}{{"touch", false}, {"rm", true}} {
		s.kubectl(t, "", "exec", pod.Name, "--", step.command, "/tmp/unready")
		eventually(t, func() error {
			slices, err := s.client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
			if err != nil {
				return err
			}
			for _, endpoint := range slices.Items[0].Endpoints {
				if endpoint.TargetRef.Name == pod.Name && *endpoint.Conditions.Ready == step.ready {
					return nil
				}
			}
			return fmt.Errorf("after %s, endpoints are %+v", step.command, slices.Items[0].Endpoints)
		})
	}
}

func (s *suite) hostPort(t *testing.T) {
	s.kubectl(t, `
apiVersion: v1
kind: Pod
metadata: {name: host-port}
spec:
  nodeName: node2
  containers:
  - {name: web, image: `+cluster.TestImage+`, imagePullPolicy: Never, ports: [{containerPort: 8080, hostPort: 18080}]}
`, "apply", "-f", "-")
	client := from(new(net.Dialer).DialContext)
	eventually(t, func() error {
		res, err := client.Get(fmt.Sprintf("http://%s:18080/", s.Nodes()[1].Address))
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	s.kubectl(t, "", "delete", "pod", "host-port", "--now")
}

// outage stops kube-apiserver: Services go on, and it comes back.
func (s *suite) outage(t *testing.T) {
	const name = "kube-apiserver"
	if err := s.Control().Stop(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kubectl(t.Context(), "", "get", "nodes"); err == nil {
		t.Error("kube-apiserver still answers")
	}
	if ended, err := s.Control().Ended(t.Context(), name); err != nil || ended == "" {
		t.Errorf("it ended: %q, %v", ended, err)
	}
	res, err := from(new(net.Dialer).DialContext).Get("http://" + s.Balancer(7).String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if err := s.Control().Restart(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := s.Kubectl(t.Context(), "", "get", "--raw", "/readyz")
		return err
	})
}

// second is a cluster beside the first, whose Services nobody serves.
func (s *suite) second(t *testing.T) {
	c := up(t, cluster.Options{Nodes: 1, Proxy: cluster.ProxyNone})
	if c.Host() == s.Host() {
		t.Errorf("both clusters have the network of %s", c.Host())
	}
	if _, err := c.Nodes()[0].Ended(t.Context(), "kube-proxy"); err == nil {
		t.Error("there is a kube-proxy")
	}
	if out, err := c.Nodes()[0].Exec(t.Context(), "nft", "list", "tables"); err != nil || strings.Contains(out, "kube-proxy") {
		t.Errorf("tables: %s, %v", out, err)
	}
	opened, err := cluster.Open(c.State())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := opened.Nodes()[0].Exec(t.Context(), "hostname"); err != nil || out != "node1\n" {
		t.Errorf("hostname: %q, %v", out, err)
	}
	if out, err := opened.Kubectl(t.Context(), "", "get", "nodes", "-o", "name"); err != nil || out != "node/node1\n" {
		t.Errorf("nodes: %q, %v", out, err)
	}
}

func (s *suite) twice(t *testing.T) {
	if _, err := cluster.Up(t.Context(), cluster.Options{State: s.State()}); err == nil || !strings.Contains(err.Error(), "is up in "+s.State()) {
		t.Errorf("a second Up in the same folder: %v", err)
	}
	if _, err := s.Kubectl(t.Context(), "", "get", "nodes"); err != nil {
		t.Errorf("it harmed the cluster: %v", err)
	}
}

// TestCrash kills programs that are starting a cluster, at several moments:
// Down then leaves nothing, and so does an Up that comes in its place.
func TestCrash(t *testing.T) {
	program := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := takeStock(t)
	state := stateDir(t)
	t.Cleanup(func() { down(t, state) })
	for _, moment := range []string{"machines joined", "kube-apiserver is ready", "nodes are ready"} {
		t.Run(moment, func(t *testing.T) {
			crash(t, program, state, moment)
			if _, err := cluster.Open(state); err == nil {
				t.Error("half a cluster was opened")
			}
			down(t, state)
			before.compare(t, takeStock(t))
		})
	}
	crash(t, program, state, "containerd runs")
	c := up(t, cluster.Options{State: state})
	mine := descendants(t, c)
	down(t, state)
	mine.checkGone(t)
	before.compare(t, takeStock(t))
}

// crash starts a cluster and kills the program when it says the words.
func crash(t *testing.T, program, state, words string) {
	t.Helper()
	cmd := exec.Command(program, "up", "--state", state)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	var all []string
	for lines.Scan() {
		if all = append(all, lines.Text()); strings.Contains(lines.Text(), words) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if len(all) == 0 || !strings.Contains(all[len(all)-1], words) {
		t.Fatalf("the program never said %q, but:\n%s", words, strings.Join(all, "\n"))
	}
}

// A component that does not start is named, with what it said last.
func TestFailure(t *testing.T) {
	before := takeStock(t)
	state := stateDir(t)
	t.Cleanup(func() { down(t, state) })
	fake := t.TempDir()
	if err := os.WriteFile(filepath.Join(fake, "containerd"), []byte("#!/bin/sh\necho no space left >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	_, err := cluster.Up(t.Context(), cluster.Options{State: state, Progress: t.Output()})
	var failure *cluster.Failure
	if !errors.As(err, &failure) {
		t.Fatalf("got %v", err)
	}
	if failure.Component != "containerd" || !strings.HasPrefix(failure.Machine, "node") {
		t.Errorf("blamed %s on %s", failure.Component, failure.Machine)
	}
	for _, words := range []string{"containerd on node", "exited with code 3", "no space left"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("the error does not say %q: %v", words, err)
		}
	}
	if _, err := os.Stat(failure.Log); err != nil {
		t.Errorf("the log is gone: %v", err)
	}
	before.compare(t, takeStock(t))
}
