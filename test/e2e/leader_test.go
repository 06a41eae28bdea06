//go:build e2e && linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// failovers is how often the leader is taken away; make full sets it to fifty.
func failovers() int { return number("PORTICO_E2E_FAILOVERS", 2) }

// replicas is how many controllers there are while leaders come and go.
const replicas = 3

func (e *edge) leaders(t *testing.T) {
	e.upgrade(t, "--set", fmt.Sprintf("replicas=%d", replicas)) // kubectl scale would own the field
	e.rollout(t, "-n", namespace, "deployment/"+full)
	t.Run("same table", e.sameTable)
	t.Run("failover", e.failover)
	t.Run("same table afterwards", e.sameTable)
}

// sameTable compares what the replicas serve: hosts, paths and endpoints.
func (e *edge) sameTable(t *testing.T) {
	var tables []func() (string, error)
	for _, pod := range e.controllers(t) {
		debug := e.forward(t, pod, 9091)
		tables = append(tables, func() (string, error) {
			page, err := fetch(t.Context(), debug+"/table")
			// The first line tells how often and when this replica published.
			_, table, _ := strings.Cut(page, "\n")
			return table, err
		})
	}
	if len(tables) != replicas {
		t.Fatalf("%d replicas are ready, want %d", len(tables), replicas)
	}
	e.eventually(t, "the same table everywhere", func() error {
		first, err := tables[0]()
		if err != nil || !strings.Contains(first, host) {
			return fmt.Errorf("the table is (%v):\n%s", err, first)
		}
		for _, table := range tables[1:] {
			if other, err := table(); err != nil || other != first {
				return fmt.Errorf("two tables (%v):\n%s\n%s", err, first, other)
			}
		}
		return nil
	})
}

func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> `)

// forward runs kubectl port-forward to a pod's port until the test ends.
func (e *edge) forward(t *testing.T, pod corev1.Pod, port int) (url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, filepath.Join(e.Tools(), "kubectl"), "--kubeconfig", e.Kubeconfig(),
		"port-forward", "-n", namespace, "pod/"+pod.Name, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			return "http://" + m[1]
		}
	}
	t.Fatalf("kubectl port-forward %s said nothing of a port", pod.Name)
	return ""
}

// failover takes the leader away, by turns killed for good and stopped for a
// while, and gives the Service a new address at that moment. Another replica
// writes it into every status, and who wakes up does not write the old one.
func (e *edge) failover(t *testing.T) {
	history := e.recordStatus(t)
	for i := range failovers() {
		name := fmt.Sprintf("failover-%d", i)
		address := e.Balancer(byte(10 + i%200)).String()
		holder, pod := e.leader(t)
		stop := i%2 == 1
		signal := "SIGKILL"
		if stop {
			signal = "SIGSTOP"
		}
		e.signal(t, pod, signal)
		gone := time.Now()
		e.assign(t, namespace, full, e.Balancer(byte(10+i%200)))
		e.kubectl(t, "", "create", "ingress", name, "--class=portico", "--rule="+name+".example.test/*="+name+":80")
		e.eventually(t, "status by another leader", func() error { return e.allShow(t, address) })
		took := time.Since(gone)
		e.eventually(t, "the Event that the Service is missing", func() error { return e.toldOnce(t, name) })
		if now, _ := e.leader(t); now == holder {
			t.Errorf("%s leads still", holder)
		}
		t.Logf("%s to %s: status of every Ingress by another replica after %v", signal, pod.Name, took.Round(100*time.Millisecond))
		if stop {
			e.wake(t, pod)
		} else {
			// Not started again and again in the same pod, which takes longer each time.
			e.kubectl(t, "", "delete", "pod", "-n", namespace, pod.Name)
		}
		e.rollout(t, "-n", namespace, "deployment/"+full)
		e.eventually(t, "all replicas", func() error {
			if n := len(e.controllers(t)); n != replicas {
				return fmt.Errorf("%d are ready", n)
			}
			return nil
		})
	}
	for i := range failovers() { // also by those who woke up
		if err := e.toldOnce(t, fmt.Sprintf("failover-%d", i)); err != nil {
			t.Error(err)
		}
	}
	for ingress, values := range history() {
		if again := comesBack(values); again != "" {
			t.Errorf("the status of %s went back to %q: %q", ingress, again, values)
		}
	}
	e.assign(t, namespace, full, e.balancer)
	e.eventually(t, "the address that the other tests know", func() error { return e.allShow(t, e.balancer.String()) })
}

// toldOnce is an error unless exactly one Event tells that the Service of an
// Ingress is missing.
func (e *edge) toldOnce(t *testing.T, ingress string) error {
	list, err := e.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=BackendNotServable,regarding.name=" + ingress})
	if err != nil {
		return err
	}
	if n := len(list.Items); n != 1 || list.Items[0].Series != nil || list.Items[0].DeprecatedCount > 1 {
		return fmt.Errorf("%d Events tell of Ingress %s: %+v", n, ingress, list.Items)
	}
	return nil
}

// wake lets a stopped leader go on, until it knows that it leads no more.
func (e *edge) wake(t *testing.T, pod corev1.Pod) {
	t.Helper()
	const over = "no longer elected to write status and Events"
	terms := func() int {
		return strings.Count(e.kubectl(t, "", "logs", "-n", namespace, pod.Name), over)
	}
	before := terms()
	e.signal(t, pod, "SIGCONT")
	woken := time.Now()
	e.eventually(t, "the end of its term", func() error {
		if terms() == before {
			return fmt.Errorf("%s does not say %q", pod.Name, over)
		}
		return nil
	})
	t.Logf("%s goes on, and knows after at most %v that its term is over", pod.Name, time.Since(woken).Round(10*time.Millisecond))
}

// leader returns the holder of the Lease and its pod.
func (e *edge) leader(t *testing.T) (holder string, pod corev1.Pod) {
	t.Helper()
	e.eventually(t, "a leader", func() error {
		lease, err := e.client.CoordinationV1().Leases(namespace).Get(t.Context(), full+"-leader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil {
			return fmt.Errorf("the Lease has no holder: %+v", lease.Spec)
		}
		holder = *lease.Spec.HolderIdentity
		name, _, _ := strings.Cut(holder, "_")
		pods := e.controllers(t)
		i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == name })
		if i < 0 {
			return fmt.Errorf("the leader %s is none of the ready pods", holder)
		}
		pod = pods[i]
		return nil
	})
	return holder, pod
}

// allShow is an error unless the status of every Ingress is this address.
func (e *edge) allShow(t *testing.T, address string) error {
	list, err := e.client.NetworkingV1().Ingresses("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if got := statusOf(&list.Items[i]); got != address {
			return fmt.Errorf("ingress %s shows %q, want %q", list.Items[i].Name, got, address)
		}
	}
	return nil
}

func statusOf(ing *networkingv1.Ingress) string {
	var all []string
	for _, a := range ing.Status.LoadBalancer.Ingress {
		all = append(all, a.IP+a.Hostname)
	}
	return strings.Join(all, " ")
}

// recordStatus notes every value that the status of each Ingress has. The
// function that it returns ends that, and returns them in order.
func (e *edge) recordStatus(t *testing.T) (stop func() map[string][]string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	changes, err := e.client.NetworkingV1().Ingresses("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for change := range changes.ResultChan() {
			ing, ok := change.Object.(*networkingv1.Ingress)
			if !ok {
				break // an error, maybe that of our own end
			}
			known, value := values[ing.Name], statusOf(ing)
			if len(known) == 0 || known[len(known)-1] != value {
				values[ing.Name] = append(known, value)
			}
		}
		if ctx.Err() == nil {
			t.Error("the watch ended before the test did")
		}
	})
	return func() map[string][]string {
		cancel()
		wg.Wait()
		return values
	}
}

// comesBack returns a value that comes again after another one.
func comesBack(values []string) string {
	for i, v := range values {
		if slices.Contains(values[:i], v) {
			return v
		}
	}
	return ""
}
