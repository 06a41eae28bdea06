//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// asProgram is set in the environment of a test binary that is to be
// portico-node.
const asProgram = "PORTICO_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// execute runs the command as main does.
func execute(ctx context.Context, args ...string) (code int, output string) {
	var out bytes.Buffer
	code = program.Run(ctx, newRoot(), args, program.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	return code, out.String()
}

func kubeconfig(t testing.TB, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":"` + server + `"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExitCodes(t *testing.T) {
	kube := "--kubeconfig=" + kubeconfig(t, "http://127.0.0.1:1")
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"version":         {[]string{"version"}, 0, "portico-node "},
		"help":            {nil, 0, "portico-node trace"},
		"unknown command": {[]string{"nonsense"}, 2, "nonsense"},
		"unknown flag":    {[]string{"run", "--nonsense"}, 2, "portico-node run --help"},
		"unknown root":    {[]string{"--clean"}, 2, "portico-node --help"},
		"no kubeconfig":   {[]string{"run", "--kubeconfig=/does/not/exist"}, 2, "no way to an apiserver"},
		"bad apiserver":   {[]string{"run", kube, "--apiserver=192.0.2.1"}, 2, "--apiserver ($PORTICO_APISERVER)"},
		"faults together": {[]string{"run", kube, "--external-ips=some", "--health-addr=x"}, 2, "--health-addr ($PORTICO_HEALTH_ADDR)"},
		"external IPs":    {[]string{"run", kube, "--external-ips=allow,192.0.2.1"}, 2, `"allow" is neither an address nor a CIDR`},
		"local mode":      {[]string{"run", kube, "--detect-local-mode=BridgeInterface"}, 2, "--detect-local-mode"},
		"masquerade bit":  {[]string{"run", kube, "--masquerade-bit=32"}, 2, "not from 0 to 31"},
		"proxy name":      {[]string{"run", kube, "--service-proxy-name=a b"}, 2, "--service-proxy-name"},
		"family":          {[]string{"run", kube, "--ip-families=ipx"}, 2, "ipx"},
		"conntrack":       {[]string{"check", "--conntrack-min=-1"}, 2, "--conntrack-min"},
		"trace of one":    {[]string{"trace", "192.0.2.1"}, 2, "accepts 2 arg"},
		"nobody there":    {[]string{"show", "--debug-addr=127.0.0.1:1"}, 1, "no portico-node answers at 127.0.0.1:1"},
	} {
		code, out := execute(t.Context(), tc.args...)
		if code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%s: exit code %d, want %d with %q in\n%s", name, code, tc.code, tc.want, out)
		}
	}
}

// TestHelpIsComplete: every flag says what it is for, and its variable.
func TestHelpIsComplete(t *testing.T) {
	for _, cmd := range []string{"run", "check", "show", "trace"} {
		_, out := execute(t.Context(), cmd, "--help")
		for _, line := range strings.Split(out, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "--") && !strings.Contains(line, "[$PORTICO_") {
				t.Errorf("%s: %s", cmd, line)
			}
		}
	}
}

// TestEnvironment: a variable stands in for a flag that is not given.
func TestEnvironment(t *testing.T) {
	t.Setenv("PORTICO_LB_IPS", "nonsense")
	kube := "--kubeconfig=" + kubeconfig(t, "http://127.0.0.1:1")
	if code, out := execute(t.Context(), "run", kube); code != 2 || !strings.Contains(out, "--lb-ips") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestIsKubernetesService(t *testing.T) {
	for host, want := range map[string]bool{
		"https://10.96.0.1:443": true, "10.96.0.1:443": true, "10.96.0.1": true, "https://10.96.0.1": true,
		"https://10.96.0.11:443": false, "https://cp.example:6443": false, "": false,
	} {
		env := func(string) string { return "10.96.0.1" }
		if got := isKubernetesService(host, env); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
	if !isKubernetesService("https://[fd00::1]:443", func(string) string { return "fd00::1" }) {
		t.Error("an IPv6 address is not recognised")
	}
	if isKubernetesService("https://x", func(string) string { return "" }) {
		t.Error("outside of a cluster there is no such Service")
	}
}

// TestApiserverReplacesTheAddressOnly: what the apiserver has to prove stays.
func TestApiserverReplacesTheAddressOnly(t *testing.T) {
	f := kubeFlags{kubeconfig: kubeconfig(t, "https://10.96.0.1:443"), apiserver: "https://192.0.2.1:6443"}
	c, err := f.config()
	if err != nil || c.Host != f.apiserver || c.Insecure {
		t.Errorf("%v, %v", c, err)
	}
}
