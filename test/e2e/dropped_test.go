//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/controllers/prove/load"
	"github.com/portico-ingress/portico/test/cluster"
)

// nodeDrain evicts everything from the second node and lets it come back.
// Disruption budgets keep the last pods.
func (e *edge) nodeDrain(t *testing.T) {
	e.kubectl(t, "", "create", "poddisruptionbudget", "shop", "--selector=app=shop", "--min-available=2")
	node := e.Nodes()[1]
	onNode := func() bool {
		return slices.ContainsFunc(e.controllers(t), func(p corev1.Pod) bool { return p.Spec.NodeName == node.Name })
	}
	e.under(t, func() {
		for range (rounds() + 2) / 3 {
			e.spread(t)
			if !onNode() {
				t.Fatalf("no controller pod is on %s, so a drain would prove nothing", node.Name)
			}
			e.kubectl(t, "", "drain", node.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout", patience.String())
			if onNode() {
				t.Errorf("a controller pod is on the drained %s", node.Name)
			}
			e.rollout(t, "-n", namespace, "deployment/"+full)
			e.rollout(t, "deployment/shop")
			e.kubectl(t, "", "uncordon", node.Name)
		}
	})
	e.spread(t)
}

// spread moves a pod of the controller if all are on one node.
func (e *edge) spread(t *testing.T) {
	t.Helper()
	pods := e.controllers(t)
	crowded := pods[0].Spec.NodeName
	if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName != crowded }) {
		return
	}
	e.kubectl(t, "", "cordon", crowded)
	e.kubectl(t, "", "delete", "pod", "-n", namespace, pods[0].Name)
	e.eventually(t, "a pod on another node", func() error {
		if !slices.ContainsFunc(e.controllers(t), func(p corev1.Pod) bool { return p.Spec.NodeName != crowded }) {
			return fmt.Errorf("all are on %s", crowded)
		}
		return nil
	})
	e.kubectl(t, "", "uncordon", crowded)
}

// controllers are the controller's pods that are ready and are not about to go.
func (e *edge) controllers(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := e.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !ready(&p) })
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// webSockets stay open while the shop is rolled out and Ingresses change.
func (e *edge) webSockets(t *testing.T) {
	const sockets = 8
	e.deploy(t, "echo", endsWell)
	defer e.kubectl(t, "", "delete", "ingress,service,deployment", "echo")
	opts := e.load()
	opts.Host, opts.Echo, opts.H1, opts.H2, opts.WebSockets = "echo.example.test", "/echo", 0, 0, sockets
	result := measure(t, opts, func() { e.unrelatedChanges(t) })
	if result.Lost() > 0 || result.Connections != sockets || result.Answered < 30*sockets {
		t.Errorf("want the %d WebSockets open all the time: %s\n%s", sockets, result, e.diagnose(t))
	}
}

// grpc rolls out a backend that speaks HTTP/2 without TLS, and keeps gRPC
// streams to it open while everything else changes.
func (e *edge) grpc(t *testing.T) {
	const streams = 8
	e.deploy(t, "grpc", endsWell)
	defer e.kubectl(t, "", "delete", "ingress,service,deployment", "grpc")
	e.kubectl(t, "", "patch", "service", "grpc", "--type=json", "-p", `[{"op": "add", "path": "/spec/ports/0/appProtocol", "value": "kubernetes.io/h2c"}]`)
	e.eventually(t, "requests over HTTP/2 to the backend", func() error {
		opts := e.load()
		opts.Host, opts.Stream, opts.H1, opts.H2, opts.GRPC = "grpc.example.test", "/echo.Echo/Stream", 0, 0, 1
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if r := load.Run(ctx, opts); r.Lost() > 0 || r.Answered == 0 {
			return errors.New(r.String())
		}
		return nil
	})
	opts := e.load()
	opts.Host = "grpc.example.test"
	rolled := measure(t, opts, func() {
		for range rounds() {
			e.kubectl(t, "", "rollout", "restart", "deployment/grpc")
			e.rollout(t, "deployment/grpc")
		}
	})
	if rolled.Lost() > 0 || rolled.Answered == 0 {
		t.Errorf("requests were lost: %s\n%s", rolled, e.diagnose(t))
	}
	opts.Stream, opts.H1, opts.H2, opts.GRPC = "/echo.Echo/Stream", 0, 0, streams
	open := measure(t, opts, func() { e.unrelatedChanges(t) })
	if open.Lost() > 0 || open.Connections != streams || open.Answered < 30*streams {
		t.Errorf("want the %d streams open all the time: %s\n%s", streams, open, e.diagnose(t))
	}
}

// unrelatedChanges rolls out the shop, and changes its Ingress.
func (e *edge) unrelatedChanges(t *testing.T) {
	e.kubectl(t, "", "rollout", "restart", "deployment/shop")
	e.rollout(t, "deployment/shop")
	for i := range 30 {
		e.kubectl(t, "", "annotate", "--overwrite", "ingress", "shop", fmt.Sprintf("portico.dev/proxy-read-timeout=%d", 60+i))
	}
	e.kubectl(t, "", "annotate", "ingress", "shop", "portico.dev/proxy-read-timeout-")
}

// abruptBackend rolls out a backend that exits at once on SIGTERM: a request
// that may be sent again is not lost, and one that may not is not sent twice.
func (e *edge) abruptBackend(t *testing.T) {
	posts := e.recordPosts(t, "abrupt")
	e.deploy(t, "abrupt", endsAtOnce)
	opts := e.load()
	opts.Host = "abrupt.example.test"
	result := measure(t, opts, func() {
		for range rounds() {
			e.kubectl(t, "", "rollout", "restart", "deployment/abrupt")
			e.rollout(t, "deployment/abrupt")
		}
	})
	e.kubectl(t, "", "delete", "ingress,service,deployment", "abrupt")
	e.eventually(t, "the end of the pods", func() error {
		if left := e.kubectl(t, "", "get", "pods", "-l", "app=abrupt", "-o", "name"); left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
	failed := 0
	for _, f := range result.Failures {
		if failed++; f.Method != "POST" {
			t.Errorf("lost: %s", f)
		}
	}
	seen := posts()
	for body, n := range seen {
		if n > 1 {
			t.Errorf("the backend got %s %d times", body, n)
		}
	}
	t.Logf("POST: %d at the backend, %d failed", len(seen), failed)
	if atLeast := result.Sent/opts.Post - opts.H1 - opts.H2 - failed; len(seen) < atLeast {
		t.Errorf("only %d POSTs were recorded, want at least %d", len(seen), atLeast)
	}
}

// killed: one of two controller pods dies. The other one loses nothing.
func (e *edge) killed(t *testing.T) {
	e.spread(t)
	pods := e.controllers(t)
	victim, other := pods[0], pods[1]
	probe := e.probe(t)
	var onVictim *load.Result
	onOther := measure(t, e.loadOn(other), func() {
		onVictim = measure(t, e.loadOn(victim), func() {
			e.eventually(t, "traffic", func() error { return probe.answeredSince(time.Time{}, 50) })
			e.signal(t, victim, "SIGKILL")
			killed := time.Now()
			e.eventually(t, "the restart of the container", func() error { return e.restarted(t, victim) })
			back := time.Now()
			e.eventually(t, "traffic after the restart", func() error { return probe.answeredSince(back, 100) })
			t.Logf("new connections: %s", probe.stop(killed))
		})
	})
	if onOther.Lost() > 0 || onOther.Answered == 0 {
		t.Errorf("the other pod lost requests: %s\n%s", onOther, e.diagnose(t))
	}
	if onVictim.Lost() == 0 {
		t.Error("the killed pod lost nothing, so it cannot be the one that was killed")
	}
}

// loadOn is a load on the shop that goes to one controller pod, from a node.
func (e *edge) loadOn(pod corev1.Pod) load.Options {
	opts := e.load()
	opts.Addr = net.JoinHostPort(pod.Status.PodIP, "8443")
	opts.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		return e.Nodes()[0].DialContext(ctx, "tcp", addr)
	}
	return opts
}

// signal sends a signal to the process of a controller pod, from its node.
func (e *edge) signal(t *testing.T, pod corev1.Pod, signal string) {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	if _, err := e.node(t, pod).Exec(t.Context(), "ctr", "tasks", "kill", "--signal", signal, id); err != nil {
		t.Fatal(err)
	}
}

func (e *edge) node(t *testing.T, pod corev1.Pod) *cluster.Machine {
	t.Helper()
	i := slices.IndexFunc(e.Nodes(), func(m *cluster.Machine) bool { return m.Name == pod.Spec.NodeName })
	if i < 0 {
		t.Fatalf("pod %s is on no node: %q", pod.Name, pod.Spec.NodeName)
	}
	return e.Nodes()[i]
}

// restarted reports whether the pod's container was started again and is ready.
func (e *edge) restarted(t *testing.T, pod corev1.Pod) error {
	t.Helper()
	now, err := e.client.CoreV1().Pods(namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s := now.Status.ContainerStatuses[0]; s.RestartCount == pod.Status.ContainerStatuses[0].RestartCount || !ready(now) {
		return fmt.Errorf("%d restarts, %+v", s.RestartCount, s.State)
	}
	return nil
}
