package conformance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Variable names the environment variable that says where the judges are.
const Variable = "PORTICO_CONFORMANCE"

// judge returns the path of a program of test/tools/conformance.
func judge(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv(Variable)
	if dir == "" {
		t.Fatalf("%s is not set: run make test, which builds %s", Variable, name)
	}
	return filepath.Join(dir, name)
}

// program is Portico, built once for all tests.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "portico")
	build := exec.Command("go", "build", "-o", program, "github.com/portico-ingress/portico/cmd/portico")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// edge is a running Portico.
type edge struct{ http, https, ca string }

// serve runs Portico on manifests until the test ends.
func serve(t *testing.T, manifests string) edge {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	e := edge{http: freePort(t), ca: filepath.Join(t.TempDir(), "ca")}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "serve", "-f", dir, "--acme-dir", e.ca, "--http-addr", e.http, "--https-addr", "127.0.0.1:0",
		"--admin-addr", "127.0.0.1:0", "--debug-addr", "", "--access-log=false")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.https = address(t, bufio.NewScanner(out))
	go func() { _, _ = bufio.NewReader(out).WriteTo(t.Output()) }()
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return e
}

var served = regexp.MustCompile(`^  https://[^:/]+:(\d+)/`)

// address reads where Portico says that it serves.
func address(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	var said []string
	for lines.Scan() {
		if m := served.FindStringSubmatch(lines.Text()); m != nil {
			return "127.0.0.1:" + m[1]
		}
		said = append(said, lines.Text())
	}
	t.Fatalf("Portico does not say where it serves:\n%s", strings.Join(said, "\n"))
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// manifests are a host with TLS at a backend.
func manifests(host string, backend net.Addr, appProtocol string) string {
	_, port, _ := net.SplitHostPort(backend.String())
	return strings.NewReplacer("HOST", host, "PORT", port, "PROTOCOL", appProtocol).Replace(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: judged
  annotations: {portico.dev/ssl-redirect: "false"}
spec:
  tls: [{hosts: [HOST], secretName: judged-tls}]
  rules:
    - host: HOST
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: judged, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: judged}
spec: {ports: [{name: main, port: 80, targetPort: PORT, appProtocol: PROTOCOL}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: judged-1, labels: {kubernetes.io/service-name: judged}}
addressType: IPv4
ports: [{name: main, port: PORT, appProtocol: PROTOCOL}]
endpoints: [{addresses: [127.0.0.1]}]
`)
}
