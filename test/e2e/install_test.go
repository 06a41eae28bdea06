//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portico-ingress/portico/test/cluster"
	"github.com/portico-ingress/portico/test/image"
	"github.com/portico-ingress/portico/test/testcert"
)

const (
	host      = "shop.example.test"
	namespace = "portico-system"
	release   = "edge"
	full      = "edge-portico" // of every object of the release
	patience  = 3 * time.Minute
)

// edge is one installed Portico.
type edge struct {
	*cluster.Cluster
	client   kubernetes.Interface
	helm     string // program
	portico  string // program, the one in the image
	balancer netip.Addr
	ca       *testcert.CA
	caFile   string
}

// setUp makes the cluster, the image and the installation.
func setUp(t *testing.T) *edge {
	t.Helper()
	dir := tempDir(t)
	program, archive := buildImage(t, dir, "portico")
	e := newEdge(t, cluster.Options{Images: []string{archive}})
	e.portico, e.balancer, e.ca, e.caFile = program, e.Balancer(1), testcert.New(t), filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(e.caFile, testcert.PEM(e.ca.Cert), 0o644); err != nil {
		t.Fatal(err)
	}
	return e
}

// newEdge makes a cluster, with nothing of ours in it.
func newEdge(t *testing.T, options cluster.Options) *edge {
	t.Helper()
	helm := os.Getenv("PORTICO_HELM")
	if helm == "" {
		t.Fatal("PORTICO_HELM is not set: run `make e2e`, which builds helm")
	}
	// Always the same folder: what a run left that was killed goes with the next.
	state, err := cluster.StateDir()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(state), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	options.State, options.Progress = state+"-e2e", t.Output()
	alone(t, options.State)
	if err := cluster.Down(t.Context(), options.State); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own is done by now
		defer cancel()
		if err := cluster.Down(ctx, options.State); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	return &edge{Cluster: c, client: client, helm: filepath.Join(helm, "helm")}
}

// alone keeps other runs away from the cluster in a folder until the test ends:
// each begins with ending what is there.
func alone(t *testing.T, state string) {
	t.Helper()
	file := state + ".run"
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatalf("another run of these tests has the cluster in %s (lock %s: %v); wait for its end", state, file, err)
	}
}

// tempDir is one whose path is short enough for what clusters make of it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "portico-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// buildImage builds one of the programs in this tree, and its image.
func buildImage(t *testing.T, dir, name string) (program, archive string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, name)
	if err := (image.Program{Dir: root, Package: "./cmd/" + name, LDFlags: "-X github.com/portico-ingress/portico/cmd/internal/program.version=e2e"}).Build(t.Context(), runtime.GOARCH, program); err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(dir, name+".tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = image.Write(f, []string{"portico.test/" + name + ":e2e"}, &image.Image{
		Architecture: runtime.GOARCH, Uncompressed: true, Entrypoint: []string{"/" + name},
		Files: []image.File{{Path: "/" + name, Source: program, Mode: 0o755}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return program, archive
}

// runHelm runs the real helm against the cluster.
func (e *edge) runHelm(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), e.helm, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.Kubeconfig(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("helm %s: %v\n%s\n%s", strings.Join(args, " "), err, out, e.diagnose(t))
	}
	return string(out)
}

// values of the installation: the image of this tree, and a short drain, so
// that a rollout takes seconds.
var values = []string{
	"--set", "image.repository=portico.test/portico", "--set", "image.tag=e2e", "--set", "image.pullPolicy=Never",
	"--set", "service.externalTrafficPolicy=Cluster", "--set", "drain.delay=3", "--set", "drain.timeout=30",
}

func (e *edge) install(t *testing.T) {
	t.Helper()
	e.kubectl(t, "", "create", "namespace", namespace)
	e.kubectl(t, "", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	out := e.runHelm(t, append([]string{"install", release, "../../charts/portico", "-n", namespace}, values...)...)
	if !strings.Contains(out, "rollout status deployment/"+full) {
		t.Errorf("the notes do not say what to do next:\n%s", out)
	}
	e.rollout(t, "-n", namespace, "deployment/"+full)
	if pods := e.controllers(t); len(pods) != 2 || pods[0].Spec.NodeName == pods[1].Spec.NodeName { // whose nodes name no zone
		t.Errorf("the %d replicas are not on different nodes", len(pods))
	}
	e.assign(t, namespace, full, e.balancer)
}

// upgrade changes the installation to the values of the test and these.
func (e *edge) upgrade(t *testing.T, more ...string) {
	t.Helper()
	e.runHelm(t, slices.Concat([]string{"upgrade", release, "../../charts/portico", "-n", namespace, "--wait"}, values, more)...)
}

// assign does what a cloud does: it gives a Service its address.
func (e *edge) assign(t *testing.T, namespace, service string, address netip.Addr) {
	t.Helper()
	services := e.client.CoreV1().Services(namespace)
	svc, err := services.Get(t.Context(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address.String()}}
	if _, err := services.UpdateStatus(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// application is what a user deploys: a Deployment, a Service and an Ingress
// with TLS for NAME.example.test.
func application(name, container string) string {
	if !strings.Contains(container, "readinessProbe") {
		container = "readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1, failureThreshold: 1}\n        " + container
	}
	return strings.NewReplacer("NAME", name, "CONTAINER", container).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 3
  selector: {matchLabels: {app: NAME}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: NAME
        image: ` + cluster.TestImage + `
        imagePullPolicy: Never
        ports: [{name: web, containerPort: 8080}]
        CONTAINER
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME}
spec:
  ingressClassName: portico
  tls: [{hosts: [NAME.example.test], secretName: NAME-tls}]
  rules:
  - host: NAME.example.test
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: NAME, port: {name: http}}}}]
`)
}

// How the containers of an application end.
const (
	endsWell   = `lifecycle: {preStop: {exec: {command: [sleep, "3"]}}}` // waits for the withdrawal of its endpoint
	endsAtOnce = `args: [serve, ":8080", abrupt]`
)

// deploy makes an application with its certificate, and waits for its pods and
// for the address in the status of its Ingress.
func (e *edge) deploy(t *testing.T, name, container string) {
	t.Helper()
	e.certify(t, name)
	e.kubectl(t, application(name, container), "apply", "--validate=strict", "-f", "-")
	e.rollout(t, "deployment/"+name)
	e.eventually(t, "the address in the status of the Ingress", func() error {
		if got := e.kubectl(t, "", "get", "ingress", name); !strings.Contains(got, e.balancer.String()) {
			return fmt.Errorf("kubectl get ingress shows\n%s", got)
		}
		return nil
	})
}

// certify makes or replaces an application's Secret with a new certificate.
func (e *edge) certify(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	certPEM, keyPEM := e.ca.Leaf(name + ".example.test")
	secret := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": map[string]any{"name": name + "-tls"},
		"stringData": map[string]string{"tls.crt": string(certPEM), "tls.key": string(keyPEM)},
	}
	text, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, string(text), "apply", "-f", "-")
	return testcert.Parse(t, certPEM)
}

func (e *edge) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := e.Kubectl(t.Context(), stdin, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, e.diagnose(t))
	}
	return out
}

func (e *edge) rollout(t *testing.T, args ...string) {
	t.Helper()
	e.kubectl(t, "", append([]string{"rollout", "status", "--timeout", patience.String()}, args...)...)
}

// diagnose is what one would look at first.
func (e *edge) diagnose(t *testing.T) string {
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", namespace, "deployment/" + full, "--tail=40"},
	} {
		out, err := e.Kubectl(t.Context(), "", args...)
		fmt.Fprintf(&b, "--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, out)
	}
	return b.String()
}

// eventually waits for a condition.
func (e *edge) eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited for %s: %v\n%s", what, err, e.diagnose(t))
		}
	}
}
