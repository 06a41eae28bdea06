package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// localManifests are Ingresses that ask no issuer: two with one Secret, a
// wildcard, one whose Secret is there and of no use, and a host that is not below
// localhost.
const localManifests = `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, spec: {tls: [{hosts: [a.localhost, a.example.com], secretName: both}], rules: [{host: a.localhost}, {host: a.example.com}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: b, annotations: {kubernetes.io/tls-acme: "true"}}, spec: {tls: [{hosts: [b.localhost], secretName: both}], rules: [{host: b.localhost}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: w, annotations: {cert-manager.io/issuer: x}}, spec: {tls: [{hosts: ["*.w.localhost"], secretName: w}], rules: [{host: "*.w.localhost"}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: c}, spec: {tls: [{hosts: [c.localhost], secretName: c}], rules: [{host: c.localhost}]}}
---
{apiVersion: v1, kind: Secret, metadata: {name: c}, stringData: {tls.crt: x}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: d, annotations: {portico.dev/issuer: local}}, spec: {tls: [{hosts: [d.localhost], secretName: d}], rules: [{host: d.localhost}]}}
`

// serveLocal runs `portico serve` on localManifests until the function that it
// returns is called, which returns all that was printed.
func serveLocal(t *testing.T, args ...string) (https string, roots *x509.CertPool, log *served, stop func() string) {
	t.Helper()
	log = &served{got: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() {
		exit <- program.Run(ctx, newRoot(), append([]string{"serve", "-f", "-", "--http-addr", "", "--https-addr", "127.0.0.1:0", "--admin-addr", "", "--debug-addr", ""}, args...),
			program.Streams{In: strings.NewReader(localManifests), Out: io.Discard, Err: log})
	}()
	file := log.until(t, `The CA of localhost, .*: (.*)\n`)[1]
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return "127.0.0.1" + log.until(t, `https://a\.localhost(:\d+)/`)[1], roots, log, func() string {
		cancel()
		if code := <-exit; code != 0 {
			t.Errorf("exit code %d", code)
		}
		return log.log.String()
	}
}

// trusted returns the number of a host's certificate, or why its roots do not make
// it trusted.
func trusted(t *testing.T, addr, host string, roots *x509.CertPool) (serial string, err error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: host, RootCAs: roots}}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
}

// TestLocalIssuer: hosts below localhost whose Secret is missing have a certificate
// from the first handshake on, the same after a start, and nobody else has.
func TestLocalIssuer(t *testing.T) {
	dir := t.TempDir()
	addr, roots, log, stop := serveLocal(t, "--acme-dir", dir)
	first := make(map[string]string)
	for host, want := range map[string]bool{"a.localhost": true, "b.localhost": true, "x.w.localhost": true, "d.localhost": true, "c.localhost": false, "a.example.com": false, "e.localhost": false} {
		serial, err := trusted(t, addr, host, roots)
		if (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
		first[host] = serial
	}
	log.until(t, "Secret default/c: ")
	log.until(t, `for a\.localhost, b\.localhost, not for a\.example\.com`)
	if said := stop(); strings.Contains(said, "until its own is there") {
		t.Errorf("what takes a moment is told as a problem:\n%s", said)
	}

	addr, roots, _, stop = serveLocal(t, "--acme-dir", dir)
	for _, host := range []string{"a.localhost", "x.w.localhost"} {
		if serial, err := trusted(t, addr, host, roots); serial != first[host] {
			t.Errorf("after a start: %s gets %s, %v", host, serial, err)
		}
	}
	stop()

	code, out, err := execute(t, localManifests, "explain", "https://b.localhost/", "-f", "-")
	if !strings.Contains(out, "issuer local: spec.tls names the host") {
		t.Errorf("explain: exit code %d: %s%s", code, out, err)
	}
}

// TestLocalIssuerWithoutHome: where there is no lasting folder, the CA ends with
// the process, and its files do.
func TestLocalIssuerWithoutHome(t *testing.T) {
	temp := t.TempDir()
	taken := filepath.Join(temp, "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", filepath.Join(taken, "state"))
	t.Setenv("TMPDIR", temp)
	addr, roots, _, stop := serveLocal(t)
	if _, err := trusted(t, addr, "a.localhost", roots); err != nil {
		t.Error(err)
	}
	if said := stop(); !strings.Contains(said, "ends with this process; --acme-dir names a lasting folder") {
		t.Errorf("nobody is told:\n%s", said)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "portico-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLocalIssuerExposed: a CA whose key others may read is not passed over in
// silence.
func TestLocalIssuerExposed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", dir)
	_, _, _, stop := serveLocal(t)
	stop()
	if err := os.Chmod(filepath.Join(dir, "portico", "acme", "ca", "local.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, said := execute(t, localManifests, "serve", "-f", "-", "--http-addr", "127.0.0.1:0", "--https-addr", "127.0.0.1:0", "--admin-addr", "", "--debug-addr", "")
	if code == 0 || !strings.Contains(said, "chmod -R go= ") {
		t.Errorf("exit code %d: %s", code, said)
	}
}
