//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/test/testcert"
)

// acme: with the chart's values for it, an Ingress with one annotation gets its
// certificate from an ACME server, every replica serves it, and its Secret is
// written where the values allow it and nowhere else.
func (e *edge) acme(t *testing.T) {
	a := e.startPebble(t)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, testcert.PEM(e.ca.Cert), 0o600); err != nil {
		t.Fatal(err)
	}
	e.upgrade(t, "--set", "replicas=3,acme.enabled=true,acme.issuers[0].name=inside,acme.issuers[0].email=ops@example.test",
		"--set", "acme.issuers[0].directory="+a.directory, "--set-file", "acme.issuers[0].caBundle="+bundle,
		"--set", "acme.secrets.scope=listed,acme.secrets.namespaces={default}")
	e.kubectl(t, "", "create", "namespace", "elsewhere")
	defer e.kubectl(t, "", "delete", "namespace", "elsewhere", "portico-acme")
	roots := a.roots(t)

	e.kubectl(t, "", "create", "ingress", "auto", "--class=portico", "--annotation=kubernetes.io/tls-acme=true", "--rule=auto.example.test/*=shop:80,tls=auto-tls")
	defer e.kubectl(t, "", "delete", "ingress,secret", "auto", "auto-tls", "--ignore-not-found")
	e.eventually(t, "its certificate at every replica", func() error { return e.everyReplicaServes(t, "auto.example.test", roots) })
	secret, err := e.client.CoreV1().Secrets("default").Get(t.Context(), "auto-tls", metav1.GetOptions{})
	if err != nil || secret.Type != corev1.SecretTypeTLS || secret.Labels["portico.dev/managed"] != "true" {
		t.Errorf("the Secret: %v, %s %v", err, secret.Type, secret.Labels)
	}
	e.told(t, "default", "auto", "CertificateOrdered", "CertificateIssued")

	e.kubectl(t, "", "create", "ingress", "-n", "elsewhere", "auto", "--class=portico", "--annotation=portico.dev/issuer=inside", "--rule=elsewhere.example.test/*=shop:80,tls=auto-tls")
	e.eventually(t, "the certificate of an Ingress whose Secret may not be written", func() error {
		return e.everyReplicaServes(t, "elsewhere.example.test", roots)
	})
	e.told(t, "elsewhere", "auto", "SecretNotWritten")
	if _, err := e.client.CoreV1().Secrets("elsewhere").Get(t.Context(), "auto-tls", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a Secret in a namespace that is not listed: %v", err)
	}

	e.kubectl(t, "", "create", "ingress", "wild", "--class=portico", "--annotation=portico.dev/issuer=inside", "--rule=*.wild.example.test/*=shop:80,tls=wild-tls")
	defer e.kubectl(t, "", "delete", "ingress", "wild")
	e.told(t, "default", "wild", "IssuerNotPermitted")

	list := e.kubectl(t, "", "exec", "-n", namespace, "deployment/"+full, "--", "/portico", "cert", "list")
	for _, want := range []string{"auto.example.test", "elsewhere.example.test", "inside"} {
		if !strings.Contains(list, want) {
			t.Errorf("portico cert list: no %s in\n%s", want, list)
		}
	}

	// Without ACME the Secret is one like any other.
	e.upgrade(t)
	e.eventually(t, "the certificate from its Secret", func() error { return e.everyReplicaServes(t, "auto.example.test", roots) })
}

// told waits for Events on an Ingress.
func (e *edge) told(t *testing.T, namespace, ingress string, reasons ...string) {
	t.Helper()
	e.eventually(t, "Events on Ingress "+namespace+"/"+ingress, func() error {
		got := e.kubectl(t, "", "describe", "ingress", "-n", namespace, ingress)
		for _, r := range reasons {
			if !strings.Contains(got, r) {
				return fmt.Errorf("%q is missing in\n%s", r, got)
			}
		}
		return nil
	})
}

// everyReplicaServes is an error unless each pod has a certificate for a host
// that leads to one of the roots.
func (e *edge) everyReplicaServes(t *testing.T, host string, roots *x509.CertPool) error {
	pods := e.controllers(t)
	if len(pods) == 0 {
		return errors.New("there are no pods")
	}
	for _, pod := range pods {
		if err := e.serves(t.Context(), pod, host, roots); err != nil {
			return fmt.Errorf("pod %s: %w\n%s", pod.Name, err, e.kubectl(t, "", "get", "events", "-A", "--field-selector=involvedObject.kind=Ingress"))
		}
	}
	return nil
}

func (e *edge) serves(ctx context.Context, pod corev1.Pod, host string, roots *x509.CertPool) error {
	raw, err := e.Nodes()[0].DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, "8443"))
	if err != nil {
		return err
	}
	c := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: host})
	defer c.Close()
	return c.HandshakeContext(ctx)
}
