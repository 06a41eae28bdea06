package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/tls/acme"
)

const certManifest = `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: app
  annotations: {portico.dev/issuer: own}
spec:
  tls:
  - {hosts: [a.localhost, "*.w.localhost"], secretName: app-tls}
  rules:
  - {host: a.localhost}
  - {host: "*.w.localhost"}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: other
  annotations: {portico.dev/issuer: nobody}
spec:
  tls: [{hosts: [b.localhost], secretName: b-tls}]
  rules: [{host: b.localhost}]
`

// serveIssuer runs `portico serve` with a CA of its own until the function that
// it returns is called, and returns the addresses of HTTPS and of the pages.
func serveIssuer(t *testing.T, dir string) (https, debug string, stop func()) {
	t.Helper()
	issuers := filepath.Join(dir, "issuers.yaml")
	if err := os.WriteFile(issuers, []byte("issuers: [{name: own, ca: true, namespaces: [default], dnsSuffixes: [localhost]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &served{got: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() {
		exit <- program.Run(ctx, newRoot(), []string{"serve", "-f", "-", "--http-addr", "", "--https-addr", "127.0.0.1:0", "--admin-addr", "", "--debug-addr", "127.0.0.1:0",
			"--local-ca=false", "--acme-issuers", issuers, "--acme-dir", filepath.Join(dir, "acme"), "--drain-timeout", "1s"},
			program.Streams{In: strings.NewReader(certManifest), Out: io.Discard, Err: log})
	}()
	log.until(t, `issuer\t\{"name": "own", "directory": "none: a CA of our own", "default": true\}`)
	https = "127.0.0.1" + log.until(t, `https://a\.localhost(:\d+)/`)[1]
	debug = log.until(t, `all problems: http://(127\.0\.0\.1:\d+)/`)[1]
	return https, debug, func() {
		cancel()
		if code := <-exit; code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// serial returns whose certificate a name gets, and its number.
func serial(t *testing.T, addr, name string) (issuer, number string) {
	t.Helper()
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	return leaf.Issuer.CommonName, leaf.SerialNumber.Text(16)
}

// TestCert: an Ingress of a folder gets its certificate from an issuer, `portico
// cert` tells of it, and the next process serves it from its first handshake on.
func TestCert(t *testing.T) {
	dir := t.TempDir()
	https, debug, stop := serveIssuer(t, dir)
	cert := func(args ...string) string {
		code, out, err := execute(t, "", append([]string{"cert"}, append(args, "--debug-addr", debug)...)...)
		if code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, err)
		}
		return out
	}
	for !strings.Contains(cert("why", "a.localhost"), "served       issuer own\n") {
		if t.Context().Err() != nil {
			t.Fatal(cert("why", "a.localhost"))
		}
	}
	issuer, number := serial(t, https, "x.w.localhost")
	if !strings.HasPrefix(issuer, "Portico CA own") {
		t.Errorf("the certificate is from %s", issuer)
	}
	for _, want := range []string{"*.w.localhost", "a.localhost", "issuer own", "default certificate"} {
		if out := cert("list"); !strings.Contains(out, want) {
			t.Errorf("list lacks %q:\n%s", want, out)
		}
	}
	for args, wants := range map[string][]string{
		"x.w.localhost": {"served       issuer own", "asked for by Ingress default/app, spec.tls[0]", "secret       default/app-tls", "two thirds of its life are over"},
		"*.w.localhost": {"served       issuer own", "state        issued"},
		"b.localhost":   {"the default certificate is served", "state        refused", "there is no issuer \"nobody\""},
		"c.localhost":   {"no spec.tls names the host", "Portico does not get its certificate"},
	} {
		out := cert("why", args)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("why %s lacks %q:\n%s", args, want, out)
			}
		}
	}
	var views []certificateView
	if err := json.Unmarshal([]byte(cert("list", "-o", "json")), &views); err != nil || len(views) != 4 {
		t.Errorf("%d hosts, %v", len(views), err)
	}
	var view certificateView
	if err := json.Unmarshal([]byte(cert("why", "a.localhost", "-o", "json")), &view); err != nil || view.Served == nil || len(view.Managed) != 1 || view.Managed[0].Serial != number {
		t.Errorf("%+v, %v", view, err)
	}
	stop()

	https, _, stop = serveIssuer(t, dir)
	defer stop()
	if _, again := serial(t, https, "a.localhost"); again != number {
		t.Errorf("after a start %s is served, not %s", again, number)
	}
}

// TestCertText: what others have written stays on its line, and each entry that
// claims a host is shown, with when it is renewed.
func TestCertText(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	v := certificateView{Served: &admin.ServedCertificate{Host: "a.example", Source: "issuer le", Issuer: "CN=x\nroot"}, Managed: []admin.ManagedCertificate{
		{Ingress: "a/web", Serial: "1", NotAfter: now.Add(24 * time.Hour), Failures: 1, LastError: "no\n  state        issued", LastErrorAt: now,
			Renewal: now.Add(8 * time.Hour), RenewalWhy: "two thirds of its life are over", Next: now.Add(time.Hour), NextWhy: "the CA is asked when to renew"},
		{Ingress: "a/theirs", Refused: "Secret a/tls was made by somebody else", NotManaged: true},
		{Ingress: "evil/web", Refused: "host a.example belongs to namespace a"},
	}}
	out := v.text("a.example", now)
	for _, want := range []string{"signed by    CN=x root\n", ": no state issued\n", "renewal      2026-05-01T20:00:00Z (in 8h0m0s): two thirds of its life are over\n",
		"next         2026-05-01T13:00:00Z (in 1h0m0s): the CA is asked when to renew\n", "asked for by Ingress evil/web", "named by Ingress a/theirs", "why          host a.example belongs"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
}

// TestFolderIsTaken: a folder that another process orders with is refused, and so
// is one whose keys others may read.
func TestFolderIsTaken(t *testing.T) {
	dir := t.TempDir()
	files, err := acme.NewFiles(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(want string) {
		t.Helper()
		code, _, said := execute(t, certManifest, "serve", "-f", "-", "--acme-directory", "https://127.0.0.1:1/dir", "--acme-dir", dir,
			"--http-addr", "", "--https-addr", "127.0.0.1:0", "--admin-addr", "", "--debug-addr", "")
		if code == 0 || !strings.Contains(said, "--acme-dir ($PORTICO_ACME_DIR): ") || !strings.Contains(said, want) {
			t.Errorf("exit code %d, want %q: %s", code, want, said)
		}
	}
	release, err := files.Alone()
	if err != nil {
		t.Fatal(err)
	}
	serve("another process orders certificates with folder " + dir)
	release()
	if err := os.WriteFile(filepath.Join(dir, "records", "x.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	serve("chmod -R go= " + dir)
}
