//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

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
	seen := func() (int, error) {
		n := 0
		for range 30 {
			got, err := e.ask(t, app+".example.test")
			if err != nil {
				return 0, err
			}
			if got == pod {
				n++
			}
		}
		return n, nil
	}
	e.kubectl(t, "", "exec", pod, "-c", container, "--", "touch", "/tmp/unready")
	e.eventually(t, "no request to the unready pod", func() error {
		if n, err := seen(); err != nil || n > 0 {
			return fmt.Errorf("%d of 30, %v", n, err)
		}
		return nil
	})
	e.kubectl(t, "", "exec", pod, "-c", container, "--", "rm", "/tmp/unready")
	e.eventually(t, "requests to the pod that is ready again", func() error {
		if n, err := seen(); err != nil || n == 0 {
			return fmt.Errorf("none of 30, %v", err)
		}
		return nil
	})
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
