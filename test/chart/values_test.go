package chart

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// values writes a values file.
func values(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRefusedValues: a typing error in a value, and what would not work, is
// told, not ignored.
func TestRefusedValues(t *testing.T) {
	for text, want := range map[string]string{
		"replica: 3":                                                            "replica",
		"kind: StatefulSet":                                                     "kind",
		"secrets: {scope: all}":                                                 "scope",
		"defaultTLSSecret: nons":                                                "defaultTLSSecret",
		"image: {digest: 'sha256:abc'}":                                         "digest",
		"service: {httpPort: 0}":                                                "httpPort",
		"acme: {secrets: {scope: all}}":                                         "scope",
		"acme: {issuers: [{ca: true}]}":                                         "name",
		"drain: {timeout: 1000000}":                                             "timeout",
		"serviceAccount: {create: false}":                                       "set serviceAccount.name",
		"podLabels: {app.kubernetes.io/name: x}":                                "podLabels: app.kubernetes.io/name",
		"serviceMonitor: {labels: {app.kubernetes.io/instance: x}}":             "serviceMonitor.labels: app.kubernetes.io/instance",
		"{kind: DaemonSet, autoscaling: {enabled: true}}":                       "set kind to Deployment",
		"resources: {limits: {memory: '1e9'}}":                                  "resources.limits.memory=",
		"goMemLimit: 513MiB":                                                    "above resources.limits.memory=512Mi",
		"{watch: {namespaces: [a]}, secrets: {scope: listed, namespaces: [b]}}": "b is not one of watch.namespaces",
		"acme: {issuers: [{name: own, ca: true}]}":                              "acme.enabled is false",
		"acme: {enabled: true}":                                                 "acme.issuers is empty",
		"acme: {enabled: true, issuers: [{name: own, ca: true}, {name: own, ca: true}]}":                                                                         "own is there twice",
		"acme: {enabled: true, namespace: default, issuers: [{name: own, ca: true}]}":                                                                            "acme.namespace: default is the release's own namespace",
		"acme: {enabled: true, issuers: [{name: le, directory: 'https://x', caBundle: /etc/ca.pem}]}":                                                            "caBundle of le is no PEM",
		"acme: {enabled: true, issuers: [{name: le, directory: 'https://x', lifetime: 1h}]}":                                                                     "le has lifetime, which is for a CA of your own only",
		"acme: {enabled: true, issuers: [{name: own, ca: true, profile: x}]}":                                                                                    "own has profile, which is for ACME servers only",
		"acme: {enabled: true, issuers: [{name: own, ca: true, lifetime: 1ms}]}":                                                                                 "'/acme/issuers/0/lifetime'",
		"acme: {enabled: true, issuers: [{name: le, directory: 'https://x', timeout: 500ms}]}":                                                                   "'/acme/issuers/0/timeout'",
		"acme: {enabled: true, issuers: [{name: own, ca: true}], secrets: {namespaces: [a]}}":                                                                    "acme.secrets.scope=none does not heed them",
		"acme: {enabled: true, issuers: [{name: own, ca: true}], secrets: {scope: watched, namespaces: [a]}}":                                                    "acme.secrets.scope=watched does not heed them",
		"acme: {enabled: true, default: other, issuers: [{name: own, ca: true}]}":                                                                                "acme.default: other",
		"{watch: {namespaces: [a]}, acme: {enabled: true, issuers: [{name: own, ca: true}], secrets: {scope: listed, namespaces: [b]}}}":                         "no Secrets of namespace b are read",
		"{secrets: {scope: listed, namespaces: [a]}, acme: {enabled: true, issuers: [{name: own, ca: true}], secrets: {scope: watched}}}":                        "acme.secrets.scope=watched",
		"{secrets: {scope: listed, namespaces: [a]}, acme: {enabled: true, issuers: [{name: own, ca: true}], secrets: {scope: listed, namespaces: [a, other]}}}": "no Secrets of namespace other are read",
	} {
		if _, err := helm(t, "template", "edge", chart, "-f", values(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
}

// TestRefusedFlags: flags that the chart gives by values of their own, and
// those that its ports, probes and roles depend on.
func TestRefusedFlags(t *testing.T) {
	refused := map[string]any{"http-addr": ":1", "https-addr": ":1", "admin-addr": ":1", "kubeconfig": "x"}
	forEach(t, func(t *testing.T, name, text string) {
		var own struct{ Flags map[string]any }
		data, err := os.ReadFile("testdata/" + name + ".values.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(data, &own); err != nil {
			t.Fatal(err)
		}
		for _, arg := range podTemplate(t, text).Spec.Containers[0].Args[1:] {
			flag, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if _, given := own.Flags[flag]; !given && flag != "https-redirect-port" { // what clients see may be another port
				refused[flag] = "x"
			}
		}
	})
	text, err := json.Marshal(map[string]any{"flags": refused})
	if err != nil {
		t.Fatal(err)
	}
	_, err = helm(t, "template", "edge", chart, "-f", values(t, string(text)))
	for flag := range refused {
		if err == nil || !strings.Contains(err.Error(), "flags."+flag+": ") {
			t.Errorf("flags.%s is taken: %v", flag, err)
		}
	}
}

// TestMemoryLimit: GOMEMLIMIT is nine tenths of the memory limit, and what may
// be set instead is what Go's runtime takes.
func TestMemoryLimit(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                                        "460MiB",
		"resources: {limits: {memory: 1.5Gi}}":      "1382MiB",
		"resources: {limits: {memory: 500M}}":       "429MiB",
		"resources: {limits: {memory: 1073741824}}": "921MiB",
		"resources: {limits: {memory: null}}":       "",
		"goMemLimit: 'off'":                         "off",
		"goMemLimit: 512MiB":                        "512MiB",
	} {
		out, err := helm(t, "template", "edge", chart, "-f", values(t, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := ""
		for _, e := range podTemplate(t, out).Spec.Containers[0].Env {
			if e.Name == "GOMEMLIMIT" {
				got = e.Value
			}
		}
		if got != want {
			t.Errorf("%s: GOMEMLIMIT is %q, want %q", text, got, want)
		}
	}
	for _, value := range []string{"460Mi", "460MiB", "460M", "460MB", "1.5GiB", "off", "none", "99999999TiB", "512", "512B", " 1GiB", "1GIB"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv(helmVariable), "helm"), "version") // as any Go program
		cmd.Env = append(os.Environ(), "GOMEMLIMIT="+value)
		out, fault := cmd.CombinedOutput()
		if fault != nil && !strings.Contains(string(out), "malformed GOMEMLIMIT") {
			t.Fatalf("%v\n%s", fault, out)
		}
		_, err := helm(t, "template", "edge", chart, "--set", "resources.limits.memory=null", "--set-string", "goMemLimit="+value)
		if (err == nil) != (fault == nil) {
			t.Errorf("%q: the chart says %v, Go's runtime %v", value, err, fault)
		}
	}
}

// TestNull: a value that is set to null is as one that is empty, or the schema
// refuses it; nothing is rendered without it by accident.
func TestNull(t *testing.T) {
	var defaults map[string]any
	var schema object
	for file, into := range map[string]any{"values.yaml": &defaults, "values.schema.json": &schema} {
		text, err := os.ReadFile(filepath.Join(chart, file))
		if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := helm(t, "template", "edge", chart)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(nulls(t, "", defaults, schema))
	if err != nil {
		t.Fatal(err)
	}
	got, err := helm(t, "template", "edge", chart, "-f", values(t, string(text)))
	if err != nil || got != want {
		t.Errorf("with null for every value that is empty by default: %v\n%s", err, got)
	}
	_, err = helm(t, "template", "edge", chart, "--set", "clusterDomain=null")
	if err == nil || !strings.Contains(err.Error(), "missing property 'clusterDomain'") {
		t.Errorf("clusterDomain=null: %v", err)
	}
}

// object is the part of a JSON schema that is looked at.
type object struct {
	Required   []string
	Properties map[string]object
}

// nulls returns null for everything that is empty in values, and demands that
// the schema requires the rest.
func nulls(t *testing.T, at string, values map[string]any, schema object) map[string]any {
	t.Helper()
	empty := map[string]any{}
	for key, v := range values {
		value := reflect.ValueOf(v)
		if value.IsZero() || (value.Kind() == reflect.Map || value.Kind() == reflect.Slice) && value.Len() == 0 {
			empty[key] = nil
			continue
		}
		if !slices.Contains(schema.Required, key) {
			t.Errorf("the schema lets %s be null, which is not its default", at+key)
		}
		if below, ok := v.(map[string]any); ok && len(schema.Properties[key].Properties) > 0 {
			empty[key] = nulls(t, at+key+".", below, schema.Properties[key])
		}
	}
	return empty
}
