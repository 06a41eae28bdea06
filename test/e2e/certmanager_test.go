//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/cluster"
	"github.com/portico-ingress/portico/test/image"
	"github.com/portico-ingress/portico/test/testcert"
)

const certManagerImage = "portico.test/cert-manager:1"

// certManagerTool is the directory of cert-manager for these tests, or empty:
// building it takes minutes, so that only make full does.
func certManagerTool() string { return os.Getenv("PORTICO_E2E_CERTMANAGER") }

// certManager: what cert-manager's users have works as it is, with its CA issuer
// and with its ACME issuer, whose challenges come through Ingresses of its own.
func (e *edge) certManager(t *testing.T) {
	e.startCertManager(t)
	a := e.startPebble(t)
	e.kubectl(t, e.issuers(a), "apply", "-f", "-")
	t.Run("CA", func(t *testing.T) { e.issued(t, "ca", e.ca.Pool()) })
	t.Run("ACME", func(t *testing.T) { e.issued(t, "acme", a.roots(t)) })
}

// issued makes an Ingress as cert-manager's documentation says, and waits until
// its host is served with a certificate of the issuer.
func (e *edge) issued(t *testing.T, issuer string, roots *x509.CertPool) {
	name := "certmanager-" + issuer
	host := name + ".example.test"
	e.kubectl(t, "", "create", "ingress", name, "--class=portico", "--annotation=cert-manager.io/issuer="+issuer,
		"--rule="+host+"/*=shop:80,tls="+name)
	e.eventually(t, "a certificate of "+issuer, func() error {
		d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host}}
		c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(e.balancer.String(), "443"))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, e.challenges(t))
		}
		return c.Close()
	})
	e.kubectl(t, "", "delete", "ingress", name)
}

// challenges is what one would ask cert-manager.
func (e *edge) challenges(t *testing.T) string {
	out, err := e.Kubectl(t.Context(), "", "get", "certificates,certificaterequests,orders,challenges", "-o", "wide")
	return fmt.Sprint(out, err)
}

func (e *edge) startCertManager(t *testing.T) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "cert-manager.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err = image.Write(f, []string{certManagerImage}, &image.Image{
		Architecture: runtime.GOARCH, Uncompressed: true, Entrypoint: []string{"/cert-manager"},
		Files: []image.File{{Path: "/cert-manager", Source: filepath.Join(certManagerTool(), "certmanager"), Mode: 0o755}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, node := range e.Nodes() {
		if _, err := node.Exec(t.Context(), "ctr", "--namespace=k8s.io", "images", "import", archive); err != nil {
			t.Fatal(err)
		}
	}
	e.kubectl(t, "", "apply", "--server-side", "-f", filepath.Join(certManagerTool(), "crds.yaml"))
	e.kubectl(t, "", "wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/instance!=x", "--timeout", patience.String())
	e.kubectl(t, strings.NewReplacer("IMAGE", certManagerImage, "DNS", e.Control().Address.String()+":8053").Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: cert-manager}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cert-manager, namespace: cert-manager}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cert-manager}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: cert-manager, namespace: cert-manager}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cert-manager, namespace: cert-manager}
spec:
  selector: {matchLabels: {app: cert-manager}}
  template:
    metadata: {labels: {app: cert-manager}}
    spec:
      serviceAccountName: cert-manager
      containers: [{name: cert-manager, image: "IMAGE", imagePullPolicy: Never, args: [controller, "IMAGE", "DNS"]}]
`), "apply", "-f", "-")
	e.rollout(t, "-n", "cert-manager", "deployment/cert-manager")
}

// issuers are those of the two kinds.
func (e *edge) issuers(a *acmeServer) string {
	encode := func(text []byte) string { return base64.StdEncoding.EncodeToString(text) }
	return strings.NewReplacer("CERT", encode(testcert.PEM(e.ca.Cert)), "KEY", encode(e.ca.KeyPEM()), "DIRECTORY", a.directory).Replace(`
apiVersion: v1
kind: Secret
metadata: {name: the-ca}
type: kubernetes.io/tls
data: {tls.crt: CERT, tls.key: KEY}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: ca}
spec: {ca: {secretName: the-ca}}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: acme}
spec:
  acme:
    server: DIRECTORY
    caBundle: CERT
    privateKeySecretRef: {name: acme-account}
    solvers: [{http01: {ingress: {ingressClassName: portico}}}]
`)
}

// acmeServer is pebble on the control machine, for which every name is at the
// load balancer.
type acmeServer struct {
	directory, management string
	client                *http.Client
}

func (e *edge) startPebble(t *testing.T) *acmeServer {
	t.Helper()
	control, tool := e.Control(), os.Getenv("PORTICO_PEBBLE")
	at := func(port string) string { return net.JoinHostPort(control.Address.String(), port) }
	dir := t.TempDir()
	cert, key := e.ca.Leaf(control.Address.String())
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": at("14000"), "managementListenAddress": at("15000"),
		"certificate": filepath.Join(dir, "tls.crt"), "privateKey": filepath.Join(dir, "tls.key"),
		"httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
		"domainBlocklist": []string{}, "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "90 days", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"config.json": config, "tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := control.Exec(t.Context(), "ip", "route", "replace", e.balancer.String(), "via", e.Nodes()[0].Address.String()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []cluster.Process{
		{Name: "challtestsrv", Args: []string{filepath.Join(tool, "pebble-challtestsrv"), "-defaultIPv4", e.balancer.String(), "-defaultIPv6", "",
			"-dnsserver", at("8053"), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", at("8055")}},
		{Name: "pebble", Args: []string{filepath.Join(tool, "pebble"), "-config", filepath.Join(dir, "config.json"), "-dnsserver", at("8053")},
			Env: []string{"PEBBLE_VA_NOSLEEP=1"}},
	} {
		if p.Log = filepath.Join(dir, p.Name+".log"); control.Start(t.Context(), p) != nil {
			t.Fatalf("%s does not start", p.Name)
		}
		t.Cleanup(func() {
			if err := control.Stop(context.WithoutCancel(t.Context()), p.Name); err != nil {
				t.Error(err)
			}
			if log, err := os.ReadFile(p.Log); t.Failed() {
				t.Logf("%s (%v):\n%s", p.Name, err, log)
			}
		})
	}
	return &acmeServer{
		directory: "https://" + at("14000") + "/dir", management: "https://" + at("15000"),
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: e.ca.Pool()}}},
	}
}

// roots are what pebble made for its certificates.
func (a *acmeServer) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	resp, err := a.client.Get(a.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("pebble's roots: %v, %s", err, text)
	}
	return pool
}
