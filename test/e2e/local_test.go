//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// balancerPatience is how many checks in a row must fail, one a second, before a
// node gets no new connections.
const balancerPatience = 5

// A cloud plays the load balancer of a cloud for a Service whose external
// traffic stays on its node: it asks each node's health check port, and leads
// connections to the nodes that answer well, in turn.
type cloud struct {
	port   string // node port of https
	health string // health check node port

	mu     sync.Mutex // protects the following
	failed map[string]int
	in     []string // addresses of nodes
	turn   int
}

func (e *edge) cloud(t *testing.T) *cloud {
	svc, err := e.client.CoreV1().Services(namespace).Get(t.Context(), full, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == 443 })
	c := &cloud{port: fmt.Sprint(svc.Spec.Ports[i].NodePort), health: fmt.Sprint(svc.Spec.HealthCheckNodePort), failed: map[string]int{}}
	ctx, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, node := range e.Nodes() {
		wg.Go(func() { c.watch(ctx, node.Address.String()) })
	}
	t.Cleanup(func() { end(); wg.Wait() })
	return c
}

// watch asks a node once a second.
func (c *cloud) watch(ctx context.Context, node string) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		resp, err := client.Get("http://" + net.JoinHostPort(node, c.health) + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		c.note(node, err == nil && resp.StatusCode == http.StatusOK)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (c *cloud) note(node string, well bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.in, node)
	if well {
		c.failed[node] = 0
		if i < 0 {
			c.in = append(c.in, node)
		}
		return
	}
	if c.failed[node]++; c.failed[node] >= balancerPatience && i >= 0 {
		c.in = slices.Delete(c.in, i, i+1)
	}
}

// nodes returns how many nodes get connections.
func (c *cloud) nodes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.in)
}

// dial connects by one of the nodes.
func (c *cloud) dial(ctx context.Context, _ string) (net.Conn, error) {
	c.mu.Lock()
	if len(c.in) == 0 {
		c.mu.Unlock()
		return nil, errors.New("no node is healthy")
	}
	c.turn++
	node := c.in[c.turn%len(c.in)]
	c.mu.Unlock()
	return dialAt(ctx, net.JoinHostPort(node, c.port))
}

// localTraffic takes the only controller pod of a node away while its load
// balancer, which notices late, goes on to send connections to that node: the
// chart's default.
func (e *edge) localTraffic(t *testing.T) {
	e.upgrade(t, "--set", "service.externalTrafficPolicy=Local", "--set", "drain.delay=15")
	defer e.upgrade(t)
	node := e.Nodes()[1]
	c := e.cloud(t)
	opts := e.load()
	opts.Dial = c.dial
	for range (rounds() + 2) / 3 {
		e.spread(t)
		e.eventually(t, "both nodes in the balance", func() error {
			if n := c.nodes(); n != 2 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		fresh := e.probeBy(t, c.dial)
		kept := measure(t, opts, func() {
			e.kubectl(t, "", "drain", node.Name, "--ignore-daemonsets", "--pod-selector=app.kubernetes.io/instance="+release, "--timeout", patience.String())
			if n := c.nodes(); n != 1 {
				t.Errorf("%d nodes are in the balance after the drain, so it proved nothing", n)
			}
		})
		e.kubectl(t, "", "uncordon", node.Name)
		if kept.Lost() > 0 || kept.Answered == 0 {
			t.Errorf("requests were lost: %s\n%s", kept, e.diagnose(t))
		}
		if answered, failed, last := fresh.counts(); failed > 0 || answered == 0 {
			t.Errorf("new connections: %d answered, %d failed: %v\n%s", answered, failed, last, e.diagnose(t))
		} else {
			t.Logf("new connections: %d, none failed", answered)
		}
	}
}
