//go:build linux

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// offline is a cluster of which nothing runs.
func offline(t *testing.T) *Cluster {
	t.Helper()
	c := newCluster(t.TempDir(), programs{Kube: "/kube", CNI: "/cni"})
	c.net = 3
	c.control = &Machine{Name: controlName, dir: filepath.Join(c.state, controlName)}
	for k := range 2 {
		c.nodes = append(c.nodes, &Machine{Name: nodeName(k), dir: filepath.Join(c.state, nodeName(k))})
	}
	c.setAddresses()
	return c
}

// TestPKI lets a node's user of a kubeconfig and kube-apiserver shake hands.
func TestPKI(t *testing.T) {
	c := offline(t)
	if err := c.writePKI(); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(c.pki.Kubeconfig("node2"))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Clusters["portico"].Server; got != "https://198.18.3.2:6443" {
		t.Errorf("server %s", got)
	}
	user, err := tls.X509KeyPair(config.AuthInfos["node2"].ClientCertificateData, config.AuthInfos["node2"].ClientKeyData)
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.LoadX509KeyPair(c.pki.File("kube-apiserver.crt"), c.pki.File("kube-apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.Clusters["portico"].CertificateAuthorityData) {
		t.Fatal("no certificate in the kubeconfig")
	}
	for _, name := range []string{"198.18.3.2", "10.96.0.1", "kubernetes.default.svc"} {
		here, there := net.Pipe()
		api := tls.Server(here, &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})
		failed := make(chan error, 1)
		go func() { failed <- api.Handshake() }()
		if err := tls.Client(there, &tls.Config{RootCAs: roots, ServerName: name, Certificates: []tls.Certificate{user}}).Handshake(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-failed; err != nil {
			t.Errorf("%s: kube-apiserver: %v", name, err)
		}
		if subject := api.ConnectionState().PeerCertificates[0].Subject; subject.CommonName != "system:node:node2" || subject.Organization[0] != "system:nodes" {
			t.Errorf("%s: the user is %v", name, subject)
		}
	}
	info, err := os.Stat(c.pki.File("ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the authority's key: %v, %v", info.Mode(), err)
	}
}

// TestTemplates renders every file that a cluster is configured with.
func TestTemplates(t *testing.T) {
	c := offline(t)
	entries, err := templates.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"10-bridge.conflist": `"subnet": "10.244.2.0/24"`,
		"containerd.toml":    `bin_dir = "/cni"`,
		"dns.yaml":           `value: "198.18.3.2"`,
		"kube-proxy.yaml":    c.state + "/pki/kube-proxy.kubeconfig",
		"kubelet.yaml":       "cgroupRoot: /portico3-node2",
		"pod-resolv.conf":    "# ",
	}
	for _, e := range entries {
		content, err := render(e.Name(), c.values(1))
		if err != nil {
			t.Fatal(err)
		}
		if words, ok := want[e.Name()]; !ok || !strings.Contains(string(content), words) {
			t.Errorf("%s lacks %q:\n%s", e.Name(), words, content)
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%d templates, want %d", len(entries), len(want))
	}
}
