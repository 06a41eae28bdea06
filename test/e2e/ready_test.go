//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/test/cluster"
)

// probes: a pod that fails its readiness probe, of whatever kind, gets no more
// requests, and comes back.
func (e *edge) probes(t *testing.T) {
	for _, kind := range []struct{ name, app, container, fails string }{
		{"HTTP", "shop", "", "shop"},
		{"exec", "exec", `readinessProbe: {exec: {command: [get, "http://127.0.0.1:8080/ready"]}, periodSeconds: 1, failureThreshold: 1}`, "exec"},
		{"TCP", "tcp", `readinessProbe: {tcpSocket: {port: web}}
      - name: door
        image: ` + cluster.TestImage + `
        imagePullPolicy: Never
        args: [door, ":9000", /tmp/unready]
        readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1, failureThreshold: 1}`, "door"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.container != "" {
				e.deploy(t, kind.app, kind.container)
				defer e.kubectl(t, "", "delete", "ingress,service,deployment", kind.app)
			}
			e.comesAndGoes(t, kind.app, kind.fails)
		})
	}
}

// comesAndGoes makes a pod of an application fail its probe in one container,
// and pass it again.
func (e *edge) comesAndGoes(t *testing.T, app, container string) {
	t.Helper()
	pod, err := e.ask(t, app+".example.test")
	if err != nil {
		t.Fatal(err)
	}
	unready := e.toldUnready(t, app, pod)
	e.kubectl(t, "", "exec", pod, "-c", container, "--", "touch", "/tmp/unready")
	var known time.Time // when the apiserver told that the pod is not ready
	select {
	case known = <-unready:
	case <-time.After(patience):
		t.Fatalf("no EndpointSlice says that %s is not ready", pod)
	}
	last := known // that a request began which the pod got
	e.eventually(t, "no request to the unready pod", func() error {
		for i := range 30 {
			began := time.Now()
			got, err := e.ask(t, app+".example.test")
			if err != nil {
				return err
			}
			if got == pod {
				last = began
				return fmt.Errorf("request %d of 30", i+1)
			}
		}
		return nil
	})
	t.Logf("the last request to the pod began %v after its EndpointSlice said that it is not ready", last.Sub(known).Round(time.Millisecond))
	e.kubectl(t, "", "exec", pod, "-c", container, "--", "rm", "/tmp/unready")
	e.eventually(t, "requests to the pod that is ready again", func() error {
		for range 30 {
			if got, err := e.ask(t, app+".example.test"); err != nil || got == pod {
				return err
			}
		}
		return errors.New("none of 30")
	})
}

// toldUnready tells when a watch of the application's EndpointSlices first shows
// the pod as not ready.
func (e *edge) toldUnready(t *testing.T, app, pod string) <-chan time.Time {
	t.Helper()
	changes, err := e.client.DiscoveryV1().EndpointSlices("default").Watch(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + app})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan time.Time, 1)
	go func() {
		defer changes.Stop()
		for change := range changes.ResultChan() {
			slice, ok := change.Object.(*discoveryv1.EndpointSlice)
			if ok && slices.ContainsFunc(slice.Endpoints, func(ep discoveryv1.Endpoint) bool {
				return ep.TargetRef != nil && ep.TargetRef.Name == pod && ep.Conditions.Ready != nil && !*ep.Conditions.Ready
			}) {
				seen <- time.Now()
				return
			}
		}
	}()
	return seen
}

// ask sends a request over a connection of its own, and returns the pod that
// answers.
func (e *edge) ask(t *testing.T, host string) (pod string, err error) {
	t.Helper()
	return e.askBy(host, e.dialBalancer)
}

// A dialer leads a connection somewhere, whatever the address says.
type dialer func(ctx context.Context, address string) (net.Conn, error)

func dialAt(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

func (e *edge) dialBalancer(ctx context.Context, _ string) (net.Conn, error) {
	return dialAt(ctx, net.JoinHostPort(e.balancer.String(), "443"))
}

func (e *edge) askAt(host, address string) (pod string, err error) {
	return e.askBy(host, func(ctx context.Context, _ string) (net.Conn, error) { return dialAt(ctx, address) })
}

func (e *edge) askBy(host string, dial dialer) (pod string, err error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: e.ca.Pool()},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
	}}
	resp, err := client.Get("https://" + host + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var id struct{ Pod string }
	if err := json.Unmarshal(body, &id); err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s: %s", resp.Status, body)
	}
	return id.Pod, nil
}
