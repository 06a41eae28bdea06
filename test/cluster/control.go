//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
)

// startControl starts etcd, kube-apiserver and what works on its objects, and
// returns when kube-apiserver is ready.
func (c *Cluster) startControl(ctx context.Context) error {
	control := c.Control()
	for _, p := range []Process{c.etcd(), c.apiserver(), c.controllerManager(), c.scheduler()} {
		if err := control.Start(ctx, p); err != nil {
			return err
		}
		switch p.Name {
		case "etcd":
			// Its own port is on 127.0.0.1 of the machine: kube-apiserver waits for it.
			continue
		case "kube-apiserver":
			// The others would exit if they could not reach it.
			if err := control.await(ctx, "kube-apiserver", c.apiReady); err != nil {
				if dead := control.ended(ctx, "etcd"); dead != nil {
					return dead // the cause
				}
				return err
			}
			c.progress.say("kube-apiserver is ready")
		}
	}
	return nil
}

// ended returns a failure if the process has ended, and nil while it runs.
func (m *Machine) ended(ctx context.Context, process string) error {
	ended, err := m.Ended(ctx, process)
	if err != nil || ended == "" {
		return err
	}
	return m.failure(process, errors.New(ended))
}

// apiReady asks kube-apiserver whether it is ready.
func (c *Cluster) apiReady(ctx context.Context) error {
	client, err := c.httpClient()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api()+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return fmt.Errorf("/readyz answers %s: %s", res.Status, body)
	}
	return nil
}

const etcdURL = "http://127.0.0.1:2379" // in the control machine

func (c *Cluster) etcd() Process {
	return Process{Name: "etcd", Args: []string{
		c.programs.kube("etcd"),
		"--data-dir", filepath.Join(c.Control().dir, "etcd"),
		"--unsafe-no-fsync", // what is lost with the computer's power is a test cluster
		"--log-level", "warn",
		"--listen-client-urls", etcdURL,
		"--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380",
	}}
}

func (c *Cluster) apiserver() Process {
	return Process{Name: "kube-apiserver", Args: []string{
		c.programs.kube("kube-apiserver"),
		"--etcd-servers", etcdURL,
		"--advertise-address", c.net.control().String(),
		"--secure-port", "6443",
		"--service-cluster-ip-range", strings.Join(c.families(serviceRange, serviceRange6), ","),
		"--allow-privileged=true",
		"--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction",
		"--client-ca-file", c.pki.File("ca.crt"),
		"--tls-cert-file", c.pki.File("kube-apiserver.crt"),
		"--tls-private-key-file", c.pki.File("kube-apiserver.key"),
		"--kubelet-certificate-authority", c.pki.File("ca.crt"),
		"--kubelet-client-certificate", c.pki.File("kubelet-client.crt"),
		"--kubelet-client-key", c.pki.File("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--requestheader-client-ca-file", c.pki.File("ca.crt"),
		"--requestheader-allowed-names", frontProxy,
		"--requestheader-username-headers", "X-Remote-User",
		"--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", c.pki.File(frontProxy + ".crt"),
		"--proxy-client-key-file", c.pki.File(frontProxy + ".key"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", c.pki.File("service-account.pub"),
		"--service-account-signing-key-file", c.pki.File("service-account.key"),
		// There is no kube-proxy on its machine: webhooks are called at their
		// endpoints instead of their ClusterIPs.
		"--enable-aggregator-routing=true",
	}}
}

func (c *Cluster) controllerManager() Process {
	return c.clientOfAPI("kube-controller-manager",
		"--service-account-private-key-file", c.pki.File("service-account.key"),
		"--root-ca-file", c.pki.File("ca.crt"),
		"--cluster-signing-cert-file", c.pki.File("ca.crt"),
		"--cluster-signing-key-file", c.pki.File("ca.key"),
		"--use-service-account-credentials=true",
		// The default of 20 requests a second makes its own start take 5 s.
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--cluster-cidr", c.podRanges(),
		"--allocate-node-cidrs=false", // they are fixed, see network
		"--node-monitor-grace-period=20s",
	)
}

func (c *Cluster) scheduler() Process { return c.clientOfAPI("kube-scheduler") }

// clientOfAPI is a program of the control machine that has a user of its name.
func (c *Cluster) clientOfAPI(name string, args ...string) Process {
	config := c.pki.Kubeconfig(name)
	return Process{Name: name, Args: append([]string{
		c.programs.kube(name),
		"--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
		"--leader-elect=false",
	}, args...)}
}
