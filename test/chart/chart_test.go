package chart

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/test/envtest"
)

const chart = "../../charts/portico"

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// helmVariable names the directory with helm.
const helmVariable = "PORTICO_HELM"

func TestMain(m *testing.M) {
	if os.Getenv(helmVariable) == "" {
		fmt.Fprintln(os.Stderr, helmVariable+" is not set: these tests need helm. Run them with `make test`, which builds it, or set it to $(test/tools/assets.sh helm)")
		os.Exit(1)
	}
	if err := inputs(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var err error
	if programs, err = os.MkdirTemp("", "portico-chart-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctrl.SetLogger(logr.Discard())
	code := envtest.Run(m)
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// programs is where program builds. Set by TestMain.
var programs string

// program is one of our commands, built once. Tests here run one by one.
func program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(programs, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// inputs reads what helm and the go command read in these tests, because go
// test takes an earlier result for good unless a file that it saw read changed.
func inputs() error {
	for _, dir := range []string{chart, nodeChart, "../../cmd", "../../config"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			_, err = os.ReadFile(path)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv(helmVariable), "helm"), args...)
	home := t.TempDir() // helm wants folders of its own
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil {
		return out.String(), fmt.Errorf("%w: %s", e, err.String())
	}
	return out.String(), nil
}

// rendered is what values files render, by file. Tests here run one by one.
var rendered = map[string]string{}

// forEach runs a test on what every values file of the controller's chart
// renders.
func forEach(t *testing.T, test func(t *testing.T, name, text string)) {
	t.Helper()
	forEachIn(t, chart, "testdata", test)
}

// forEachIn does so for a chart and a folder.
func forEachIn(t *testing.T, chart, dir string, test func(t *testing.T, name, text string)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no values: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".values.yaml")
		t.Run(name, func(t *testing.T) {
			text, ok := rendered[file]
			if !ok {
				var err error
				if text, err = helm(t, "template", "edge", chart, "-n", "portico-system", "-f", file); err != nil {
					t.Fatal(err)
				}
				rendered[file] = text
			}
			test(t, name, text)
		})
	}
}

func TestLint(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.values.yaml")
	for _, file := range files {
		if out, err := helm(t, "lint", "--strict", chart, "-f", file); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

func TestGolden(t *testing.T) {
	forEach(t, func(t *testing.T, name, text string) { golden(t, name+".golden.yaml", text) })
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run with -update to write it", err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and read the difference", file)
	}
}

// TestStatusOff: --set makes a boolean of "false", and that is what users write.
func TestStatusOff(t *testing.T) {
	for _, set := range []string{"--set", "--set-string"} {
		out, err := helm(t, "template", "edge", chart, set, "publish.status=false")
		if err != nil || !strings.Contains(out, "--publish-status=false") || strings.Contains(out, "ingresses/status") {
			t.Errorf("%s: %v\n%s", set, err, out)
		}
	}
}

// objects parses rendered YAML.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := decoder.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
}

func as[T any](t *testing.T, u *unstructured.Unstructured) *T {
	t.Helper()
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, out, true); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
	return out
}

// TestServerTakesIt hands everything to a real apiserver, with strict
// validation of fields.
func TestServerTakesIt(t *testing.T) {
	c := server(t)
	forEach(t, func(t *testing.T, _, text string) { serverTakes(t, c, text) })
}

// TestLongestName: helm takes names of up to 53 characters.
func TestLongestName(t *testing.T) {
	release := strings.Repeat("a-long-name-", 4) + "12345"
	text, err := helm(t, "template", release, chart, "-n", "portico-system", "-f", "testdata/extras.values.yaml")
	if err != nil || len(release) != 53 {
		t.Fatal(len(release), err)
	}
	serverTakes(t, server(t), text)
	for _, u := range objects(t, text) {
		if name := u.GetName(); len(name) > 63 && !strings.HasPrefix(u.GetKind(), "Cluster") {
			t.Errorf("%s %s: a name of %d characters", u.GetKind(), name, len(name))
		}
	}
}

// server is the apiserver with the namespaces that the values name.
func server(t *testing.T) client.Client {
	t.Helper()
	c, err := client.New(envtest.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"portico-system", "shop", "blog", "certs", "portico-acme"} {
		namespace(t, c, ns, "")
	}
	return c
}

func serverTakes(t *testing.T, c client.Client, text string) {
	t.Helper()
	for _, u := range objects(t, text) {
		if u.GetNamespace() == "" && !strings.HasPrefix(u.GetKind(), "Cluster") && u.GetKind() != "IngressClass" && u.GetKind() != "Namespace" {
			u.SetNamespace("portico-system")
		}
		if u.GetKind() == "Namespace" && u.GetName() == "portico-acme" {
			u.SetName("portico-acme-2") // the first one holds the Role
		}
		if u.GetKind() == "ServiceMonitor" { // of an API that the apiserver does not have
			monitor(t, u)
			continue
		}
		err := c.Create(t.Context(), u, client.DryRunAll, client.FieldValidation("Strict"))
		if err != nil && (u.GetKind() != "Namespace" || !apierrors.IsAlreadyExists(err)) {
			t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// monitor checks a ServiceMonitor against the operator's own types: unknown
// fields and wrong ones are told, what its CRD demands of values is not.
func monitor(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	m := as[monitoringv1.ServiceMonitor](t, u)
	if u.GetAPIVersion() != monitoringv1.SchemeGroupVersion.String() || len(m.Spec.Endpoints) != 1 || m.Spec.Endpoints[0].Port != "metrics" {
		t.Errorf("ServiceMonitor of %s: %+v", u.GetAPIVersion(), m.Spec)
	}
}

func namespace(t *testing.T, c client.Client, name, enforce string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if enforce != "" {
		ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": enforce}
	}
	if err := c.Create(t.Context(), ns); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func podTemplate(t *testing.T, text string) corev1.PodTemplateSpec {
	t.Helper()
	for _, u := range objects(t, text) {
		switch u.GetKind() { // the Job of the uninstall is tested by the uninstall
		case "Deployment":
			return as[appsv1.Deployment](t, u).Spec.Template
		case "DaemonSet":
			return as[appsv1.DaemonSet](t, u).Spec.Template
		}
	}
	t.Fatal("no pods are rendered")
	return corev1.PodTemplateSpec{}
}

// TestPodSecurity creates the pods in namespaces that enforce the pod security
// standards. Only host ports need more than "restricted".
func TestPodSecurity(t *testing.T) {
	c, err := client.New(envtest.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	namespace(t, c, "restricted", "restricted")
	namespace(t, c, "privileged", "privileged")
	forEach(t, func(t *testing.T, name, text string) {
		template := podTemplate(t, text)
		for level, allowed := range map[string]bool{"privileged": true, "restricted": name != "daemonset"} {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: level, Name: template.Spec.ServiceAccountName}}
			if err := c.Create(t.Context(), account); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: level, Name: "p", Labels: template.Labels}, Spec: template.Spec}
			if err := create(t.Context(), c, pod); (err == nil) != allowed {
				t.Errorf("in a namespace that enforces %s: %v", level, err)
			}
		}
	})
}

// TestHooksArePodSecure: what runs beside the controller needs no more than
// "restricted".
func TestHooksArePodSecure(t *testing.T) {
	c, err := client.New(envtest.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	namespace(t, c, "restricted", "restricted")
	forEach(t, func(t *testing.T, _, text string) {
		var specs []corev1.PodSpec
		for _, u := range objects(t, text) {
			switch u.GetKind() {
			case "Pod":
				specs = append(specs, as[corev1.Pod](t, u).Spec)
			case "Job":
				specs = append(specs, as[batchv1.Job](t, u).Spec.Template.Spec)
			}
		}
		if len(specs) != 2 {
			t.Errorf("%d pods of hooks, want that of helm test and that of the uninstall", len(specs))
		}
		for _, spec := range specs {
			spec.ServiceAccountName = "default"
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "restricted", Name: "default"}}
			if err := c.Create(t.Context(), account); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			if err := create(t.Context(), c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "restricted", Name: "p"}, Spec: spec}); err != nil {
				t.Error(err)
			}
		}
	})
}

// create retries while the admission plugin has not seen a ServiceAccount or
// PriorityClass that is there.
func create(ctx context.Context, c client.Client, pod *corev1.Pod) error {
	for {
		err := c.Create(ctx, pod.DeepCopy(), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "no PriorityClass") {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// TestFlags: every flag that the chart gives exists, and the values are taken.
func TestFlags(t *testing.T) {
	binary := program(t, "portico")
	forEach(t, func(t *testing.T, _, text string) { takesFlags(t, binary, text) })
}

// takesFlags runs a program as the pods do. With a kubeconfig that does not
// exist it gets as far as flags go.
func takesFlags(t *testing.T, binary, text string) {
	t.Helper()
	args := podTemplate(t, text).Spec.Containers[0].Args
	mountIssuers(t, text, args)
	out, err := exec.CommandContext(t.Context(), binary, append(args, "--kubeconfig=/does/not/exist")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no way to an apiserver") || strings.Count(string(out), "\n") > 1 {
		t.Errorf("%v: %s", args, out)
	}
}

// mountIssuers puts the files of the issuers where the arguments will find them.
func mountIssuers(t *testing.T, text string, args []string) {
	t.Helper()
	const folder = "/etc/portico/"
	dir := t.TempDir() + "/"
	write := func(name, content string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], folder, dir)
	}
	for _, u := range objects(t, text) {
		if u.GetKind() != "ConfigMap" || !strings.HasSuffix(u.GetName(), "-issuers") {
			continue
		}
		for name, content := range as[corev1.ConfigMap](t, u).Data {
			write(dir+"acme/"+name, strings.ReplaceAll(content, folder, dir))
		}
	}
	for _, m := range podTemplate(t, text).Spec.Containers[0].VolumeMounts {
		if strings.HasPrefix(m.MountPath, folder+"acme-secrets/") {
			write(strings.Replace(m.MountPath, folder, dir, 1)+"/key", "c2VjcmV0")
		}
	}
}
