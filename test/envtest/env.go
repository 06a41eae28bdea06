// Package envtest runs Portico's controllers against a real etcd and
// kube-apiserver. One pair serves a whole test binary; tests keep apart by
// namespaces and IngressClasses of their own. There is no controller manager:
// EndpointSlices are written by hand, and namespaces never finish deleting.
package envtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// assetsVariable names the directory with etcd, kube-apiserver and kubectl.
const assetsVariable = "KUBEBUILDER_ASSETS"

// startTimeout leaves time for a machine that builds something else meanwhile.
const startTimeout = 2 * time.Minute

// env is the control plane of this test binary. Set by Run.
var env *envtest.Environment

// Run starts the control plane, runs the tests, stops it, and returns the exit
// code. Without binaries it fails: a test that is skipped proves nothing.
func Run(m *testing.M) (code int) {
	if err := assets(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	env = &envtest.Environment{ControlPlaneStartTimeout: startTimeout}
	if _, err := env.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "starting etcd and kube-apiserver:", err)
		return 1
	}
	defer func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping etcd and kube-apiserver:", err)
			code = 1
		}
	}()
	return m.Run()
}

func assets() error {
	dir := os.Getenv(assetsVariable)
	if dir == "" {
		return errors.New(assetsVariable + " is not set: these tests need a real etcd and kube-apiserver. " +
			"Run them with `make test`, which builds both, or set it to $(test/tools/assets.sh kube)")
	}
	for _, program := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return fmt.Errorf("%s lacks a program: %w. Unset it and run `make test`, which builds all", assetsVariable, err)
		}
	}
	return nil
}

// Config returns the configuration of an administrator.
func Config() *rest.Config { return rest.CopyConfig(env.Config) }

// User makes a user who may do nothing until a role is bound to the name.
func User(t testing.TB, name string) *rest.Config {
	t.Helper()
	u, err := env.AddUser(envtest.User{Name: name}, &rest.Config{QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return u.Config()
}

// Kubeconfig writes the configuration of an administrator into a file.
func Kubeconfig(t testing.TB) (path string) {
	t.Helper()
	return KubeconfigBy(t, Server())
}

// KubeconfigBy is Kubeconfig for an apiserver that is reached at another
// HOST:PORT.
func KubeconfigBy(t testing.TB, server string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kubeconfig")
	text := strings.ReplaceAll(string(env.KubeConfig), Server(), server)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Server is the HOST:PORT at which the apiserver listens.
func Server() string { return strings.TrimPrefix(env.Config.Host, "https://") }

// Kubectl runs the real kubectl as the administrator and returns its output.
func Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	config := Kubeconfig(t)
	kubectl := filepath.Join(os.Getenv(assetsVariable), "kubectl")
	out, err := exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", config}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Eventually waits until the condition returns nil, and fails the test if it does
// not for so long.
func Eventually(t testing.TB, patience time.Duration, condition func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not after %v: %v", patience, err)
		case <-t.Context().Done():
			t.Fatalf("the test ended: %v", err)
		}
	}
}
