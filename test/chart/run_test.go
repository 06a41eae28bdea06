package chart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/test/envtest"
)

// patience bounds every wait for a condition. It is no measure of anything.
const patience = time.Minute

// TestRightsAreEnough runs the controller with the arguments and the roles that
// are rendered, and nothing else: it does its work, and is never refused.
func TestRightsAreEnough(t *testing.T) {
	for name, values := range map[string]string{
		"namespaces": "{watch: {namespaces: [WATCHED]}, defaultTLSSecret: OTHER/default}",
		"listed":     "{secrets: {scope: listed, namespaces: [WATCHED]}, defaultTLSSecret: OTHER/default}",
		"cluster":    "{defaultTLSSecret: OTHER/default}",
	} {
		t.Run(name, func(t *testing.T) {
			in := newInstallation(t, values)
			stop := in.start(t)
			envtest.Eventually(t, patience, func() error {
				return in.told(t, in.other, "Secret", "default", "the default certificate is self-signed")
			})
			envtest.Eventually(t, patience, func() error { return in.told(t, in.watched, "Ingress", "web", "") })
			envtest.Eventually(t, patience, func() error { return in.addressed(t) })
			if name == "listed" {
				in.ingress(t, in.other)
				envtest.Eventually(t, patience, func() error { return in.told(t, in.other, "Ingress", "web", "--secret-namespaces") })
			}
			if log := stop(); strings.Contains(strings.ToLower(log), "forbidden") {
				t.Errorf("something was refused:\n%s", log)
			}
		})
	}
}

// installation is a release whose objects are at the apiserver, without pods.
type installation struct {
	client.Client
	watched, other string // namespaces
	args           []string
	account        string
}

func newInstallation(t *testing.T, text string) *installation {
	t.Helper()
	in := &installation{Client: server(t)}
	for _, name := range []*string{&in.watched, &in.other} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "edge-"}}
		in.create(t, ns)
		*name = ns.Name
	}
	file := values(t, strings.NewReplacer("WATCHED", in.watched, "OTHER", in.other).Replace(text))
	out, err := helm(t, "template", in.watched, chart, "-n", in.watched, "--no-hooks", "-f", file, "--set", "service.type=ClusterIP",
		"--set", "ingressClass.name="+in.watched)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range objects(t, out) {
		if u.GetNamespace() == "" {
			u.SetNamespace(in.watched) // of no meaning to what has none
		}
		in.create(t, u)
	}
	template := podTemplate(t, out)
	in.args = template.Spec.Containers[0].Args
	in.account = "system:serviceaccount:" + in.watched + ":" + template.Spec.ServiceAccountName
	in.ingress(t, in.watched)
	return in
}

func (in *installation) create(t *testing.T, obj client.Object) {
	t.Helper()
	if err := in.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

// ingress makes an Ingress that there is something to say of: neither its
// Service nor its Secret exists.
func (in *installation) ingress(t *testing.T, namespace string) {
	t.Helper()
	port := networkingv1.ServiceBackendPort{Number: 80}
	in.create(t, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
		Spec: networkingv1.IngressSpec{
			IngressClassName: &in.watched,
			DefaultBackend:   &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: port}},
			TLS:              []networkingv1.IngressTLS{{Hosts: []string{namespace + ".example"}, SecretName: "web-tls"}},
		},
	})
}

// start runs the controller as the service account; stop ends it and returns
// its log.
func (in *installation) start(t *testing.T) (stop func() string) {
	t.Helper()
	args := append(in.args, "--kubeconfig="+in.kubeconfig(t), "--http-addr=127.0.0.1:0", "--https-addr=127.0.0.1:0",
		"--admin-addr=", "--debug-addr=", "--drain-delay=0s", "--drain-timeout=0s")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program(t, "portico"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() string {
		if !ended {
			ended = true
			cancel()
			if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("the controller ended with %v\n%s", err, log.String())
			}
		}
		return log.String()
	}
	t.Cleanup(func() {
		if out := stop(); t.Failed() {
			t.Log(out)
		}
	})
	return stop
}

// kubeconfig is that of an administrator who acts as the service account.
func (in *installation) kubeconfig(t *testing.T) string {
	t.Helper()
	admin := envtest.Config()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: admin.Host, CertificateAuthorityData: admin.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{
			"u": {ClientCertificateData: admin.CertData, ClientKeyData: admin.KeyData, Impersonate: in.account},
		},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u", Namespace: in.watched}},
		CurrentContext: "x",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// told looks for an Event with these words.
func (in *installation) told(t *testing.T, namespace, kind, name, words string) error {
	var list corev1.EventList
	if err := in.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		return err
	}
	for _, e := range list.Items {
		if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && strings.Contains(e.Message, words) {
			return nil
		}
	}
	return fmt.Errorf("no Event with %q on %s %s/%s among %d", words, kind, namespace, name, len(list.Items))
}

func (in *installation) addressed(t *testing.T) error {
	var ing networkingv1.Ingress
	if err := in.Get(t.Context(), client.ObjectKey{Namespace: in.watched, Name: "web"}, &ing); err != nil {
		return err
	}
	if len(ing.Status.LoadBalancer.Ingress) == 0 {
		return errors.New("the Ingress has no address")
	}
	return nil
}
