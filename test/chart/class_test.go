package chart

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestControllerName: releases with classes of their own have controllers of
// their own, in all that is rendered.
func TestControllerName(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                                "portico.dev/ingress-controller",
		"ingressClass: {name: inside.shop}": "portico.dev/inside.shop",
		"{ingressClass: {name: inside}, controllerNames: [a.example/b, c.example/d]}": "a.example/b,c.example/d",
	} {
		out, err := helm(t, "template", "edge", chart, "-f", values(t, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		own, _, _ := strings.Cut(want, ",")
		for _, u := range objects(t, out) {
			if u.GetKind() == "IngressClass" {
				if got := as[networkingv1.IngressClass](t, u).Spec.Controller; got != own {
					t.Errorf("%s: the class has the controller %s", text, got)
				}
			}
		}
		if n := strings.Count(out, "--controller-name="+want+"\n") + strings.Count(out, "--controller-name="+want+"\"\n"); n != 2 {
			t.Errorf("%s: %d of the controller and the Job after the uninstall serve %s", text, n, want)
		}
	}
}

// class makes an IngressClass that goes with the test.
func class(t *testing.T, c client.Client, name, controller string, annotations map[string]string) {
	t.Helper()
	obj := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), obj) })
}

// by is what helm writes on what a release owns.
func by(release, namespace string) map[string]string {
	return map[string]string{"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
}

// TestClassOfAnotherRelease: two releases do not write the status of the same
// class, and what cannot be upgraded is said before.
func TestClassOfAnotherRelease(t *testing.T) {
	in := &installation{Client: server(t)}
	class(t, in, "taken", "portico.dev/taken", by("first", "one"))
	class(t, in, "nginx-taken", "k8s.io/ingress-nginx", by("nginx", "one"))
	class(t, in, "mine", "portico.dev/before", by("edge", "portico-system"))
	for text, want := range map[string]string{
		"ingressClass: {name: taken}": "the IngressClass taken of the release first in namespace one has the controller portico.dev/taken too",
		"{ingressClass: {name: free}, controllerNames: [portico.dev/free, portico.dev/taken]}":    "the IngressClass taken of the release first",
		"{ingressClass: {name: taken}, rbac: {create: false}}":                                    "the IngressClass taken of the release first",
		"{ingressClass: {name: taken}, publish: {status: false}}":                                 "",
		"{ingressClass: {name: free}}":                                                            "",
		"{ingressClass: {name: free}, controllerNames: [portico.dev/free, k8s.io/ingress-nginx]}": "", // its status is its own controller's
		"{ingressClass: {name: mine}}":                                                            "controllerNames={portico.dev/before}",
		"{ingressClass: {name: mine}, controllerNames: [portico.dev/before]}":                     "",
	} {
		_, err := in.dryRun(t, "-f", values(t, text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// TestNotesOfAClash: the way out of a class that somebody else has is one that
// leads out.
func TestNotesOfAClash(t *testing.T) {
	in := &installation{Client: server(t)}
	class(t, in, "portico", "someone.else/controller", nil)
	text, err := in.dryRun(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"IngressClass portico in this cluster has the controller someone.else/controller",
		"helm upgrade edge CHART -n portico-system --reuse-values --set 'controllerNames={portico.dev/ingress-controller,someone.else/controller}'",
		"helm upgrade edge CHART -n portico-system --reuse-values --set ingressClass.name=edge",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the notes lack %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "ingressClass.name=portico\n") {
		t.Errorf("the notes advise the name that clashes:\n%s", text)
	}
}

// dryRun is helm install that looks at the cluster and changes nothing.
func (in *installation) dryRun(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return helm(t, append([]string{"install", "edge", chart, "-n", "portico-system", "--dry-run=server", "--kubeconfig", in.kubeconfig(t)}, args...)...)
}

// TestNotesOfTheDefaultCertificate: a Secret that is not there is told, with the
// command that makes it.
func TestNotesOfTheDefaultCertificate(t *testing.T) {
	in := &installation{Client: server(t)}
	const missing = "kubectl create secret tls wildcard -n certs"
	text, err := in.dryRun(t, "--set", "defaultTLSSecret=certs/wildcard")
	if err != nil || !strings.Contains(text, missing) {
		t.Errorf("the notes lack %q: %v\n%s", missing, err, text)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "certs", Name: "wildcard"}}
	in.create(t, secret)
	t.Cleanup(func() { _ = in.Delete(context.Background(), secret) })
	if text, err = in.dryRun(t, "--set", "defaultTLSSecret=certs/wildcard"); err != nil || strings.Contains(text, missing) {
		t.Errorf("with the Secret: %v\n%s", err, text)
	}
}
